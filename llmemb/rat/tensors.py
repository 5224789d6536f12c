"""Tensors and some words on them in one file, which is there whole or not at all."""

import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from llmemb import storage


def write(uri: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, which replaces the one before it at once."""
    contents = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    storage.write_bytes(uri, safetensors.torch.save(contents, metadata=dict(metadata)))


def read(uri: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`write` wrote."""
    content = storage.read_bytes(uri)
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return safetensors.torch.load(content), metadata
