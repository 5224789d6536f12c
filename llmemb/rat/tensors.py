"""Tensors and some notes on them in one file, which is there whole or not at all."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor

from llmemb import storage

NOTES = "notes"


def write(uri: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Writes a safetensors file, which replaces the one before it at once; the same bytes for the same contents.

    Args:
        notes: What JSON can hold. All are one value of the file's metadata, whose order is chance when it has more.
    """
    contents = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    storage.write_bytes(uri, safetensors.torch.save(contents, metadata={NOTES: json.dumps(notes, sort_keys=True)}))


def read(uri: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote; a file of others has no notes."""
    content = storage.read_bytes(uri)
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    notes: dict[str, Any] = json.loads(metadata.get(NOTES, "{}"))
    return safetensors.torch.load(content), notes
