"""Tensors and some notes on them in one file, which is there whole or not at all."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from llmemb import storage
from llmemb.errors import InputError

NOTES = "notes"


def write(uri: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Writes a safetensors file, which replaces the one before it at once; the same bytes for the same contents.

    Args:
        notes: What JSON can hold. All are one value of the file's metadata, whose order is chance when it has more.
    """
    storage.write_bytes(uri, to_bytes(tensors, notes))


def read(uri: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote; a file of others has no notes.

    Raises:
        InputError: it is no safetensors file.
    """
    content = storage.read_bytes(uri)
    try:
        return from_bytes(content)
    except SafetensorError as error:
        raise InputError(f"{uri}: expected a safetensors file: {error}") from error


def to_bytes(tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> bytes:
    """The file that :func:`write` writes."""
    contents = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(contents, metadata={NOTES: json.dumps(notes, sort_keys=True)})


def from_bytes(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`to_bytes` made."""
    tensors = safetensors.torch.load(content)  # and first, since it checks the header
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    notes: dict[str, Any] = json.loads(metadata.get(NOTES, "{}"))
    return tensors, notes
