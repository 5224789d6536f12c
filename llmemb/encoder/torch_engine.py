"""The built-in engine: token ids in, vectors out, with transformers and torch."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from llmemb.encoder import packed
from llmemb.encoder.batching import TokenIds, packed_batches, token_budget_batches
from llmemb.encoder.folder import EncoderFolder, Precision, is_lowered, local_folder
from llmemb.encoder.pooling import PoolingMode, pool
from llmemb.errors import InputError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


logger = logging.getLogger(__name__)


class TorchEngine:
    """Encodes token ids in length-sorted batches bounded by a token budget; in 16 bits on GPUs without any padding."""

    def __init__(
        self,
        folder: EncoderFolder,
        *,
        precision: Precision,
        tokens_per_batch: int,
        device: str,
        compiled: bool = False,
    ) -> None:
        """Loads the encoder.

        Raises:
            InputError: ``compiled``, and torch.compile does not work here.
        """
        self._folder = folder
        self._tokens_per_batch = tokens_per_batch
        self._device, self._compiled = device, compiled
        self.model = load_model(folder, precision=precision).to(device).eval()
        self.pads = not (device == "cuda" and precision != "fp32" and self._prepare_packing())
        if compiled:
            self._compile()

    @property
    def embedding_dim(self) -> int:
        return self.model.config.get_text_config().hidden_size

    @torch.inference_mode()
    def encode(self, token_ids: Sequence[TokenIds]) -> NDArray[np.float32]:
        """The vectors ``[texts, dim]``, in the order given, whatever batches they were computed in."""
        embedded = np.empty((len(token_ids), self.embedding_dim), dtype=np.float32)
        lengths = [len(ids) for ids in token_ids]
        make_batches = token_budget_batches if self.pads else packed_batches
        batches = make_batches(lengths, self._tokens_per_batch)
        # One copy back at the end: the device never waits for it between batches.
        found = self._embed_all([[token_ids[row] for row in rows] for rows in batches])
        if found:
            embedded[np.concatenate(batches)] = torch.cat(found).cpu().numpy()
        return embedded

    def _embed_all(self, batches: list[list[TokenIds]]) -> list[Tensor]:
        """The vectors of each batch. On CPUs every thread has batches of its own.

        Threads that share a batch wait for each other at each of its operations, and for the slowest on a machine with
        other work; alone with a batch they do not, and a vector is the same to the bit with any number of them.
        """
        threads = torch.get_num_threads()
        if self._device != "cpu" or self._compiled or threads == 1:
            return [self._embed(batch) for batch in batches]
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                return list(pool.map(self._embed, batches))
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _embed(self, token_ids: Sequence[TokenIds]) -> Tensor:
        pooling, normalized = self._folder.pooling, self._folder.normalize
        if self.pads:
            return embed(self.model, *pad(token_ids, self._device), pooling, normalized)
        return packed.embed_packed(self.model, packed.pack(token_ids, self._device), pooling, normalized)

    def _compile(self) -> None:
        """Lets torch.compile fuse the model's steps, once for batches of all shapes."""
        from torch._dynamo.exc import BackendCompilerFailed

        self.model.compile(dynamic=True)
        try:
            self.encode([[1] * length for length in (2, 3, 3)])
        except (BackendCompilerFailed, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"engine.compile: torch.compile fails on {self._device}: {reason}; expected a C++ compiler on CPUs, "
                "Triton on GPUs, or engine.compile=false"
            ) from error

    @torch.inference_mode()
    def _prepare_packing(self) -> bool:
        """Whether this model gives packed texts the vectors that it gives padded ones; it is left ready for that."""
        self.pads = True
        longest = min(self._folder.max_seq_len, 300)
        expected = torch.cat([self._embed([text]) for text in packed.sample_texts(self.model, longest)])
        self.pads = False
        reason = packed.prepare_if_same(self.model, expected, self._embed, longest)
        if reason is not None:
            logger.warning("%s: batches are padded, since packing fails here: %s", self._folder.path, reason)
        return reason is None


def load_model(folder: EncoderFolder, *, precision: Precision, dropout: bool = True) -> Any:
    """The transformer of an encoder folder: from safetensors, never with code from the folder.

    Args:
        dropout: Whether it drops anything where it is trained, at the rates of its own config.

    Raises:
        InputError: it is of no kind that encodes here, or weights are broken or missing.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # two seconds of work, and the job has a bar of its own
    with _loading(folder.path):
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
        if not dropout:
            _drop_nothing(config)
        if config.is_encoder_decoder:
            raise InputError(f"{folder.path}: {config.model_type} is an encoder-decoder; expected one of them alone")
        options = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
        model, found = AutoModel.from_pretrained(folder.path, config=config, dtype=DTYPES[precision], **options)
    # What is missing would be random, and another in each worker. BERT's own pooler is not read here.
    if missing := sorted(key for key in found["missing_keys"] if not key.startswith("pooler.")):
        raise InputError(f"{folder.path}: {len(missing)} weights of a {config.model_type} are missing: {missing[0]}, …")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # BERT's own, which no pooling here reads, and random where the folder has none
    if not dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):  # also one whose rate is not in the config
                module.p = 0.0
    return model


def _drop_nothing(config: Any) -> None:
    """Sets all rates of dropout to 0: every architecture has its own names, and attention reads some of them itself."""
    for part in (config, config.get_text_config()):
        for key, value in vars(part).items():
            if "drop" in key and isinstance(value, float):
                setattr(part, key, 0.0)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of an encoder folder; it needs no weights.

    Raises:
        InputError: there is none, a broken one, or one that keeps capitals where sentence-transformers lowers them.
    """
    from transformers import AutoTokenizer

    with _loading(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if is_lowered(path) and tokenizer("A B")["input_ids"] != tokenizer("a b")["input_ids"]:
        raise InputError(
            f"{path}: sentence_bert_config.json: do_lower_case: its tokenizer keeps capitals; expected one that lowers "
            "them itself"
        )
    return tokenizer


@functools.cache
def tokenizer_of(uri: str) -> Any:
    """The tokenizer of an encoder at any URI, fetched once; its weights are not."""
    with local_folder(uri, weights=False) as path:
        return load_tokenizer(path)


def tokenize(tokenizer: Any, prompts: Sequence[str], max_seq_len: int) -> list[list[int]]:
    """Token ids with the model's special tokens, cut at ``max_seq_len``.

    Raises:
        InputError: that leaves no room for any text.
    """
    if not prompts:  # transformers' tokenizers fail on none
        return []
    num_special = tokenizer.num_special_tokens_to_add()
    if max_seq_len <= num_special:
        raise InputError(
            f"texts are to be cut at {max_seq_len} tokens, of which {num_special} are special: expected a limit of "
            f"{num_special + 1} or more"
        )
    return tokenizer(list(prompts), truncation=True, max_length=max_seq_len, padding=False)["input_ids"]


def pad(token_ids: Sequence[TokenIds], device: str | torch.device) -> tuple[Tensor, Tensor]:
    """int64 ``ids [texts, longest]`` padded on the right with 0, and the mask of the same shape, 1 at real tokens."""
    longest = max(len(ids) for ids in token_ids)
    ids = np.zeros((len(token_ids), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return packed.on_device(ids, device), packed.on_device(mask, device)


def embed(model: nn.Module, ids: Tensor, mask: Tensor, pooling: PoolingMode, normalized: bool) -> Tensor:
    """float32 vectors ``[texts, dim]`` of a padded batch."""
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state  # [texts, longest, dim]
    vectors = pool(states, mask, pooling)
    return normalize(vectors, dim=1) if normalized else vectors


@contextlib.contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Says in one line what transformers finds wrong with a folder."""
    from safetensors import SafetensorError

    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error
