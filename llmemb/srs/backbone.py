"""Backbones: from a user's item vectors to the states that rank what comes next; four of ours, or anybody's."""

import importlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmemb.srs.bert4rec import BERT4Rec
from llmemb.srs.gru4rec import GRU4Rec
from llmemb.srs.hstu import HSTU
from llmemb.srs.sasrec import SASRec

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "bert4rec": BERT4Rec,
    "hstu": HSTU,
}
LABELS = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "bert4rec": "BERT4Rec", "hstu": "HSTU"}
DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Backbone(Protocol):
    """What a backbone is: an ``nn.Module`` made with ``hidden_dim``, ``num_blocks``, ``num_heads``, ``max_seq_len`` and
    ``dropout``, called with item vectors and a mask that is True at items.

    Attributes:
        causal: Whether a state depends on nothing after its item: then all positions are trained to tell the next item.
            If not, items are masked at random and filled in, and the answer is read at a mask behind the newest item.
            A backbone that does not say is causal.
    """

    causal: bool

    def __call__(
        self, vectors: Float[Tensor, "batch seq dim"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq dim"]: ...


def find_backbone(name: str) -> Callable[..., nn.Module]:
    """What makes a backbone: one of ``BACKBONES``, or ``package.module:ClassName``, which is imported.

    Raises:
        ValueError: there is none of that name.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    expected = f"expected one of {', '.join(BACKBONES)}, or package.module:ClassName"
    if not DOTTED_PATH.fullmatch(name):
        raise ValueError(f"no backbone {name!r}; {expected}")
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., nn.Module] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever its module does when it is imported
        raise ValueError(f"no backbone {name!r}: {error}; {expected}") from error
    return found


def make_backbone(
    name: str, *, hidden_dim: int, num_blocks: int, num_heads: int, max_seq_len: int, dropout: float
) -> nn.Module:
    """An untrained backbone of that name, as :func:`find_backbone` knows it.

    Raises:
        ValueError: there is none, or what it makes is no ``nn.Module``.
    """
    backbone = find_backbone(name)(
        hidden_dim=hidden_dim, num_blocks=num_blocks, num_heads=num_heads, max_seq_len=max_seq_len, dropout=dropout
    )
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"{name} made a {type(backbone).__name__}; expected a torch.nn.Module")
    return backbone


def label(name: str) -> str:
    """How tables call a backbone."""
    return LABELS.get(name, name.rpartition(":")[2])


def distinct_labels(names: Sequence[str]) -> dict[str, str]:
    """The same for several, by name; those of one's own that another is called like are shown by their path."""
    called = Counter(map(label, names))
    return {name: name if ":" in name and called[label(name)] > 1 else label(name) for name in names}
