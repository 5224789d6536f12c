"""From a trained adapter to the encoder artifact, checked by loading it back."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from llmemb import __version__, storage
from llmemb.encoder.folder import ENCODER_FILE, EncoderFolder, local_folder, write_layout
from llmemb.encoder.torch_engine import TorchEngine, embed, load_model, load_tokenizer, pad, tokenize
from llmemb.scft.config import ScftConfig

MIN_COSINE = 0.9999
ADAPTER_FOLDER = "adapter"


def export_encoder(config: ScftConfig, adapter: Path, history: list[dict[str, Any]], prompts: Sequence[str]) -> None:
    """Writes ``config.output``: merged weights, tokenizer, layout, the adapter beside them and ``encoder.json`` last.

    Raises:
        RuntimeError: the folder, loaded back, does not give the adapter's vectors for the sample prompts.
    """
    with local_folder(config.base_model) as base, tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary)
        folder = EncoderFolder.read(base)
        expected = _merge(folder, adapter, config, prompts, target)
        written = EncoderFolder.read(target)
        actual = TorchEngine(written, precision="fp32", tokens_per_batch=1, device="cpu").encode(
            tokenize(load_tokenizer(target), prompts, written.max_seq_len)
        )
        cosine = _min_cosine(expected, actual)
        if not cosine >= MIN_COSINE:
            raise RuntimeError(f"the exported encoder's cosine to the trained one is {cosine}; expected ≥ {MIN_COSINE}")
        shutil.copytree(adapter, target / ADAPTER_FOLDER, ignore=shutil.ignore_patterns("*.md", "history.json"))
        info = _info(config, history, cosine) | {"fingerprint": written.fingerprint()}
        storage.upload(target, config.output)
        storage.write_json(storage.join(config.output, ENCODER_FILE), info)


def _merge(
    folder: EncoderFolder, adapter: Path, config: ScftConfig, prompts: Sequence[str], target: Path
) -> NDArray[np.float32]:
    """Saves the base model with the adapter merged; returns the vectors of the unmerged pair for the prompts."""
    import peft

    tokenizer = load_tokenizer(folder.path)
    pooling = config.pooling or folder.pooling
    model = peft.PeftModel.from_pretrained(load_model(folder, precision="fp32"), str(adapter)).eval()
    tokens = tokenize(tokenizer, prompts, folder.max_seq_len)
    with torch.inference_mode():
        vectors = torch.cat([embed(model, *pad([ids], "cpu"), pooling, folder.normalize) for ids in tokens])
    merged: Any = model.merge_and_unload()
    merged.save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)
    write_layout(
        target,
        embedding_dim=vectors.shape[1],
        pooling=pooling,
        normalize=folder.normalize,
        max_seq_len=min(config.max_seq_len or folder.max_seq_len, folder.max_seq_len),
    )
    return vectors.numpy()


def _min_cosine(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    first, second = (normalize(torch.from_numpy(each).double(), dim=1) for each in (expected, actual))
    return float((first * second).sum(dim=1).min())


def _info(config: ScftConfig, history: list[dict[str, Any]], cosine: float) -> dict[str, Any]:
    losses = [entry["loss"] for entry in history]
    edge = max(1, len(losses) // 10)
    return {
        "format": 1,
        "base_model": config.base_model,
        "prompt_template": config.prompt.model_dump(mode="json"),
        "training": config.identity(),
        "metrics": {
            "steps": len(losses),
            "loss_first_tenth": float(np.mean(losses[:edge])),
            "loss_last_tenth": float(np.mean(losses[-edge:])),
            "padding_share": float(np.mean([entry["padding_share"] for entry in history])),
            "pairs_per_second": float(np.median([entry["pairs_per_second"] for entry in history])),
            "min_cosine_loaded_back": cosine,
        },
        "llmemb": __version__,
    }
