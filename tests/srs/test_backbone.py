"""What every backbone must do, whichever it is."""

import pytest
import torch
from torch import nn

from llmemb.srs.backbone import BACKBONES, distinct_labels, label, make_backbone

DIM, LENGTH = 8, 5
CAUSAL = [name for name, backbone in BACKBONES.items() if name != "bert4rec"]


def make(name: str, **options) -> nn.Module:
    sizes = {"hidden_dim": DIM, "num_blocks": 2, "num_heads": 2, "max_seq_len": 7, "dropout": 0.0}
    return make_backbone(name, **(sizes | options))


def trained_like(name: str, **options) -> nn.Module:
    """Without the zeros of the start, which would hide what blocks do."""
    torch.manual_seed(0)
    backbone = make(name, **options)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.5)
    return backbone.eval()


def all_items(vectors: torch.Tensor) -> torch.Tensor:
    return torch.ones(vectors.shape[:2], dtype=torch.bool)


def change_at(position: int, backbone: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """How much each state moves when one item does."""
    other = vectors.clone()
    other[:, position] = torch.randn(DIM)  # not a shift, which the layer norms would hide
    mask = all_items(vectors)
    return (backbone(other, mask) - backbone(vectors, mask)).abs().amax(dim=(0, 2))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_later_item_never_changes_an_earlier_state(name):
    backbone, vectors = trained_like(name), torch.randn(2, LENGTH, DIM)
    assert backbone.causal
    for position in range(LENGTH):
        change = change_at(position, backbone, vectors)
        assert (change[:position] == 0).all()
        assert (change[position:] > 1e-4).all()


def test_bert4rec_sees_both_sides():
    backbone, vectors = trained_like("bert4rec"), torch.randn(2, LENGTH, DIM)
    assert not backbone.causal
    for position in range(LENGTH):
        assert (change_at(position, backbone, vectors) > 1e-4).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_padding_side_and_amount_do_not_matter(name):
    backbone, vectors = trained_like(name), torch.randn(1, 3, DIM)
    alone = backbone(vectors, all_items(vectors))
    for left, right in [(0, 2), (2, 0), (1, 3), (4, 0)]:
        noise = torch.randn(2, 1, DIM) * 9
        padded = torch.cat([noise[:1].expand(1, left, DIM), vectors, noise[1:].expand(1, right, DIM)], dim=1)
        mask = torch.tensor([[False] * left + [True] * 3 + [False] * right])
        torch.testing.assert_close(backbone(padded, mask)[:, left : left + 3], alone)


@pytest.mark.parametrize("name", BACKBONES)
def test_padding_gives_no_nan_gradient(name):
    backbone, vectors = trained_like(name), torch.randn(2, 4, DIM, requires_grad=True)
    mask = torch.tensor([[False, False, True, True], [False] * 4])
    backbone(vectors, mask)[mask].sum().backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    assert (vectors.grad[0, :2] == 0).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_worker_without_a_row_of_the_batch_gets_no_states(name):
    states = make(name)(torch.zeros(0, LENGTH, DIM), torch.ones(0, LENGTH, dtype=torch.bool))
    assert states.shape == (0, LENGTH, DIM)


@pytest.mark.parametrize("name", BACKBONES)
def test_an_untrained_backbone_returns_its_input(name):
    backbone, vectors = make(name, dropout=0.5).eval(), torch.randn(3, LENGTH, DIM)
    torch.testing.assert_close(backbone(vectors, all_items(vectors)), vectors)


@pytest.mark.parametrize("name", BACKBONES)
def test_order_matters(name):
    backbone, vectors = trained_like(name), torch.randn(1, LENGTH, DIM)
    swapped = vectors[:, [1, 0, 2, 3, 4]]
    mask = all_items(vectors)
    assert (backbone(vectors, mask)[:, -1] - backbone(swapped, mask)[:, -1]).abs().max() > 1e-4


def test_hstu_attention_equals_the_formula():
    """Zhai et al., 2024: A = SiLU(QKᵀ + bias) / n, Y = output(norm(A V) ⊙ U), in float64 and loops."""
    torch.manual_seed(0)
    backbone = make("hstu", num_blocks=1, num_heads=1).double().eval()
    block = backbone.blocks[0]
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    vectors = torch.randn(1, 3, DIM, dtype=torch.float64)
    gate, value, query, key = nn.functional.silu(block.gate_value_query_key(block.input_norm(vectors[0]))).split(DIM, 1)
    for i in range(3):
        mixed = torch.zeros(DIM, dtype=torch.float64)
        for j in range(i + 1):
            score = query[i] @ key[j] + block.distance_bias[i - j, 0]
            mixed += nn.functional.silu(score) / 7 * value[j]
        expected = vectors[0, i] + block.output(block.mixed_norm(mixed) * gate[i])
        torch.testing.assert_close(backbone(vectors, all_items(vectors))[0, i], expected)


class MeanSoFar(nn.Module):
    """Somebody's own backbone: the mean of the items up to each."""

    def __init__(self, **sizes: float) -> None:
        super().__init__()

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        real = mask[:, :, None].to(vectors)
        return (vectors * real).cumsum(1) / real.cumsum(1).clamp(min=1)


def not_a_module(**sizes: float) -> list[int]:
    return []


def test_a_backbone_of_ones_own_is_named_by_its_path():
    assert type(make(f"{__name__}:MeanSoFar")).__name__ == "MeanSoFar"
    assert label("my_models.means:MeanSoFar") == "MeanSoFar"
    assert label("gru4rec") == "GRU4Rec"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sasrek",
            "no backbone 'sasrek'; expected one of sasrec, gru4rec, bert4rec, hstu, or package.module:ClassName",
        ),
        ("no.such:Model", "No module named 'no'"),
        (f"{__name__}:Missing", "has no attribute 'Missing'"),
        (f"{__name__}:not_a_module", "made a list; expected a torch.nn.Module"),
        ("os.system('ls'):x", "no backbone"),
    ],
)
def test_a_backbone_that_is_none_is_named(name, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        make(name)


def test_a_module_that_fails_when_it_is_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_backbone.py").write_text("class Model(nn.Module):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="no backbone 'broken_backbone:Model': name 'nn' is not defined"):
        make("broken_backbone:Model")


def test_ones_own_backbone_of_the_same_name_is_told_apart():
    assert distinct_labels(["sasrec", "my.models:SASRec", "my.models:Other"]) == {
        "sasrec": "SASRec",
        "my.models:SASRec": "my.models:SASRec",
        "my.models:Other": "Other",
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_are_the_same_bits_with_two_threads(two_threads, name):
    backbone = trained_like(name, hidden_dim=64, max_seq_len=50)
    vectors = torch.randn(64, 50, 64, requires_grad=True)
    inputs, weights = [vectors, *backbone.parameters()], torch.randn(64, 50, 64)
    runs = [torch.autograd.grad((backbone(vectors, all_items(vectors)) * weights).sum(), inputs) for _ in range(4)]
    for again in runs[1:]:
        assert all(map(torch.equal, runs[0], again))
