"""What a backbone of one's own may do wrong is found before anything is trained."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from llmemb.errors import InputError
from llmemb.srs.backbone import BACKBONES
from llmemb.srs.trial import try_backbone

SIZES = {"hidden_dim": 8, "num_blocks": 1, "num_heads": 2, "max_seq_len": 7, "dropout": 0.1}


class Own(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.layer = nn.Linear(sizes["hidden_dim"], sizes["hidden_dim"])

    def forward(self, vectors, mask):
        return self.layer(vectors)


class TakesNothing(nn.Module):
    pass


class NoModule:
    def __init__(self, **sizes):
        pass


class TooNarrow(Own):
    def forward(self, vectors, mask):
        return vectors[:, :, :3]


class LastAlone(Own):
    def forward(self, vectors, mask):
        return vectors[:, -1]


class Pair(Own):
    def forward(self, vectors, mask):
        return vectors, mask


class OtherArguments(Own):
    def forward(self, vectors):
        return vectors


class DividesByPadding(Own):
    def forward(self, vectors, mask):
        return vectors / mask.all().float()


class SeesAll(Own):
    def forward(self, vectors, mask):
        return vectors + self.layer(vectors.mean(1, keepdim=True))


class SeesAllLater(SeesAll):
    """Its layer starts at zero, as those of ours do."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)


class SeesAllAndSaysSo(SeesAll):
    causal = False


class KeepsToFloat32(Own):
    def forward(self, vectors, mask):
        states = self.layer(vectors)
        assert states.dtype == torch.float32, "only float32"
        return states


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("my_own_models")
    for each in (*Own.__subclasses__(), Own, TakesNothing, NoModule, SeesAllLater, SeesAllAndSaysSo):
        setattr(module, each.__name__, each)
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_own_models", module)
    return "my_own_models"


@pytest.mark.parametrize("max_seq_len", [2, 7, 50])
@pytest.mark.parametrize("name", BACKBONES)
def test_ours_pass(name, max_seq_len):
    before = torch.get_rng_state()
    try_backbone(name, **SIZES | {"max_seq_len": max_seq_len})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["Own", "SeesAllAndSaysSo"])
def test_what_keeps_to_the_protocol_passes(own, name, capsys):
    called: list[str] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(type(module).__name__))
    for max_seq_len in (1, 2, 3, 50):
        try_backbone(f"{own}:{name}", **SIZES | {"max_seq_len": max_seq_len})
    hook.remove()
    assert called.count(name) == (8 if name == "Own" else 4)  # a causal one once more, with another last item
    assert not capsys.readouterr().out


def test_one_that_only_other_machines_can_call_is_told_of(own, capsys):
    try_backbone(f"{own}:OtherArguments", elsewhere=True, **SIZES)
    assert "cannot be called with item vectors and a mask: TypeError" in capsys.readouterr().out
    with pytest.raises(InputError, match="changes with what comes after it"):
        try_backbone(f"{own}:SeesAll", elsewhere=True, **SIZES)


def test_one_that_needs_float32_is_told_so_where_products_are_bfloat16(own):
    name = f"{own}:KeepsToFloat32"
    try_backbone(name, **SIZES)
    try_backbone(f"{own}:Own", precision=torch.bfloat16, **SIZES)
    with pytest.raises(InputError, match=r"with bfloat16 products; expected engine\.precision=fp32.*only float32"):
        try_backbone(name, precision=torch.bfloat16, **SIZES)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("TakesNothing", "cannot be made: TypeError: .*unexpected keyword argument"),
        ("number", "cannot be made: "),
        ("NoModule", r"cannot be made: ValueError: .* made a NoModule; expected a torch\.nn\.Module"),
        ("OtherArguments", "cannot be called with item vectors and a mask: TypeError"),
        ("TooNarrow", r"gives \[2, 7, 3\]; expected states of its input's shape, \[2, 7, 8\]"),
        ("LastAlone", r"gives \[2, 8\]; expected states of its input's shape"),
        ("Pair", "gives tuple; expected states of its input's shape"),
        ("DividesByPadding", "gives states that are NaN or infinite"),
        ("SeesAll", "changes with what comes after it, .* or causal = False"),
        ("SeesAllLater", "changes with what comes after it, .* or causal = False"),
    ],
)
def test_what_it_does_wrong_is_one_line(own, name, told):
    with pytest.raises(InputError, match=f"^backbone: {own}:{name}.*{told}"):
        try_backbone(f"{own}:{name}", **SIZES)
