"""What computes vectors: token ids in, vectors out."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llmemb.encoder.batching import TokenIds
from llmemb.encoder.folder import EncoderFolder, Precision

EngineKind = Literal["torch", "vllm"]


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
    kind: EngineKind,
    folder: EncoderFolder,
    *,
    precision: Precision,
    tokens_per_batch: int,
    device: str,
    num_gpus: int = 1,
    compiled: bool = False,
) -> Engine:
    """Loads the encoder.

    Args:
        tokens_per_batch: Bounds the tokens in one forward pass.
        device: cpu or cuda.
        num_gpus: How many share one copy of the weights; more than one with vLLM only.
        compiled: By torch.compile; with torch only, for vLLM compiles by itself.
    """
    if kind == "vllm":
        from llmemb.encoder.vllm_engine import VllmEngine

        return VllmEngine(
            folder, precision=precision, tokens_per_batch=tokens_per_batch, device=device, num_gpus=num_gpus
        )
    from llmemb.encoder.torch_engine import TorchEngine

    return TorchEngine(folder, precision=precision, tokens_per_batch=tokens_per_batch, device=device, compiled=compiled)
