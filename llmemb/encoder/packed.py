"""Batches without padding: texts end to end in one row, and attention within each.

Flash attention for sequences of varying length (torch.nn.attention.varlen) on GPUs; elsewhere one text after another,
which is only there so that tests can compare. Needs torch and transformers alone.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, scaled_dot_product_attention

ATTENTION = "llmemb_packed"
# Two 16-bit computations of one vector agree to 0.9999 or so; a wrong position or a leak between texts is far below.
MIN_COSINE = 0.999
_FAILURES = (NotImplementedError, TypeError, ValueError, RuntimeError)


class Packed(NamedTuple):
    """Texts end to end: int64 ``ids`` and ``positions`` ``[1, tokens]``, int32 ``offsets`` ``[texts + 1]``."""

    ids: Tensor
    positions: Tensor
    offsets: Tensor
    longest: int


def prepare(model: Any) -> None:
    """Makes a transformers model attend within each text of a packed row."""
    _register(attend)
    model.set_attn_implementation(ATTENTION)


def sample_texts(model: Any, longest: int) -> list[list[int]]:
    """Random texts of unlike lengths, always the same, by which packing is tried."""
    generator = np.random.default_rng(0)
    config = model.config.get_text_config()
    texts = [generator.integers(0, config.vocab_size, length) for length in (5, 1, longest)]
    # No text has padding in it: what is drawn so is the next token.
    return [((text + (text == config.pad_token_id)) % config.vocab_size).tolist() for text in texts]


def prepare_if_same(
    model: Any, expected: Tensor, embed: Callable[[list[list[int]]], Tensor], longest: int
) -> str | None:
    """Prepares a model if it then gives packed texts the vectors that it gave them one by one.

    Args:
        expected: ``[texts, dim]`` of :func:`sample_texts`.
        embed: Of packed texts; its model is this one, or around it.

    Returns:
        Why it does not, and then the model is as it was; None if it does.
    """
    before = model.config._attn_implementation
    failures: list[str] = []
    prepare(model)
    _register(partial(_attend_or_note, failures))
    try:
        cosine = float(cosine_similarity(embed(sample_texts(model, longest)), expected).min())
        if not cosine >= MIN_COSINE:
            failures.append(f"cosine {cosine:.5f} to padded vectors")
    except _FAILURES as error:
        failures.append(str(error))
    finally:
        _register(attend)
    if not failures:
        return None
    model.set_attn_implementation(before)
    return failures[0]


def _register(attention: Callable[..., Any]) -> None:
    from transformers import AttentionInterface

    # It has no mask function beside it, so transformers makes no mask.
    AttentionInterface.register(ATTENTION, attention)


def _attend_or_note(
    failures: list[str], module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any
) -> tuple[Tensor, None]:
    """:func:`attend`, or zeros: under ZeRO-3 all workers gather the next layer's weights, also one that cannot pack."""
    try:
        return attend(module, query, key, value, *others, **options)
    except _FAILURES as error:
        failures.append(str(error))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None


def pack(token_ids: Sequence[Any], device: str | torch.device) -> Packed:
    lengths = np.array([len(ids) for ids in token_ids])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in token_ids])
    positions = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    return Packed(
        on_device(ids, device)[None],
        on_device(positions, device)[None],
        on_device(offsets.astype(np.int32), device),
        int(lengths.max()),
    )


def on_device(values: NDArray[Any], device: str | torch.device) -> Tensor:
    """A tensor of the values; nobody waits until they have reached a GPU."""
    tensor = torch.from_numpy(values)
    return tensor if torch.device(device).type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def first_position(model: Any) -> int:
    """The position of a text's first token: 0, or what follows the row for padding that RoBERTa's kind has."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def embed_packed(model: nn.Module, packed: Packed, pooling: str, normalized: bool) -> Tensor:
    """float32 vectors ``[texts, dim]`` of a model that was prepared."""
    states = model(
        input_ids=packed.ids,
        position_ids=packed.positions + first_position(model),
        cu_seq_lens_q=packed.offsets,
        cu_seq_lens_k=packed.offsets,
        max_length_q=packed.longest,
        max_length_k=packed.longest,
        use_cache=False,
    ).last_hidden_state[0]  # [tokens, dim]
    vectors = pool_packed(states, packed.offsets.long(), pooling)
    return normalize(vectors, dim=1) if normalized else vectors


def pool_packed(states: Tensor, offsets: Tensor, mode: str) -> Tensor:
    """One float32 vector per text, ``[texts, dim]``, as :func:`llmemb.encoder.pooling.pool` of the padded states."""
    states = states.float()
    if mode == "cls":
        return states[offsets[:-1]]
    if mode == "lasttoken":
        return states[offsets[1:] - 1]
    lengths = offsets.diff()
    # index_add_ sums in any order on GPUs.
    return torch.segment_reduce(states, "sum", lengths=lengths, unsafe=True) / lengths[:, None]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: ``[1, heads, tokens, head_dim]`` in, ``[1, tokens, heads, head_dim]`` out."""
    if others.get("softcap") is not None or others.get("s_aux") is not None:
        raise NotImplementedError("packed attention has no soft cap and no sinks")
    causal = bool(getattr(module, "is_causal", False))
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # [tokens, heads, head_dim]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn  # loads the compiler: more than a second

        window = ((sliding_window or 0) - 1, 0 if causal else (sliding_window or 0) - 1)
        offsets, longest = cu_seq_lens_q, max_length_q
        attended: Any = varlen_attn(
            query, key, value, offsets, offsets, longest, longest, scale=scaling, window_size=window, enable_gqa=True
        )
    else:
        if sliding_window is not None and sliding_window < max_length_q:
            raise NotImplementedError("packed attention on a CPU has no sliding window")
        attended = _one_by_one(query, key, value, cu_seq_lens_q.tolist(), causal=causal, scale=scaling)
    return attended.unsqueeze(0), None


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, offsets: list[int], *, causal: bool, scale: float | None
) -> Tensor:
    attended = []
    for start, end in itertools.pairwise(offsets):
        q, k, v = (states[start:end].transpose(0, 1).unsqueeze(0) for states in (query, key, value))
        one = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
        attended.append(one.squeeze(0).transpose(0, 1))
    return torch.cat(attended)
