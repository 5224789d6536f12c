"""What computes vectors: token ids in, vectors out."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llmemb.encoder.folder import EncoderFolder

EngineKind = Literal["torch"]
Precision = Literal["bf16", "fp32"]
TokenIds = Sequence[int] | NDArray[np.integer]


class Engine(Protocol):
    """One loaded encoder. A text's vector depends on its token ids alone, not on the other texts or their order."""

    @property
    def pads(self) -> bool:
        """Whether the texts of a batch are padded to its longest."""
        ...

    @property
    def embedding_dim(self) -> int: ...

    def encode(self, token_ids: Sequence[TokenIds]) -> NDArray[np.float32]:
        """The vectors ``[texts, dim]``, in the order given, pooled and normalised as the folder says.

        Every text has at least one token, special tokens included, and at most the encoder's limit.
        """
        ...


def load_engine(
    kind: EngineKind, folder: EncoderFolder, *, precision: Precision, tokens_per_batch: int, device: str
) -> Engine:
    """Loads the encoder; ``tokens_per_batch`` bounds the tokens in one forward pass, ``device`` is cpu or cuda."""
    from llmemb.encoder.torch_engine import TorchEngine

    return TorchEngine(folder, precision=precision, tokens_per_batch=tokens_per_batch, device=device)
