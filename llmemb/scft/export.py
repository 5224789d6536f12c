"""From a checkpoint to the encoder artifact, checked by loading it back."""

import gc
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from llmemb import __version__, storage
from llmemb.encoder.folder import ENCODER_FILE, EncoderFolder, local_folder, write_layout
from llmemb.encoder.torch_engine import DTYPES, TorchEngine, load_tokenizer, tokenize
from llmemb.scft.config import ScftConfig
from llmemb.scft.model import PooledEncoder, make_model, trainable
from llmemb.scft.state import read_progress, read_samples, trained_weights

MIN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.999}
"""Of the exported vectors to those that the model in training gave, which rounds as its precision does."""
ADAPTER_FOLDER = "adapter"
MAX_FILE_SIZE = "4GB"
"""Of weights; several files are uploaded and downloaded side by side."""


def export_encoder(config: ScftConfig, checkpoint: Path, prompts: Sequence[str], *, precision: str) -> None:
    """Writes ``config.output``: weights, tokenizer, layout, the adapter where there is one and ``encoder.json`` last.

    The weights are in the precision in which the base model stores its own, merged in float32. One float32 copy of the
    model is in memory at a time.

    Args:
        prompts: The texts whose vectors are the checkpoint's samples.

    Raises:
        RuntimeError: the folder, loaded back, does not give the vectors that the model in training gave.
    """
    with local_folder(config.base_model) as base, tempfile.TemporaryDirectory() as temporary:
        folder, target = EncoderFolder.read(base), Path(temporary)
        _write(config, folder, _trained(config, folder, checkpoint), target)
        gc.collect()  # PEFT's models have cycles
        written = EncoderFolder.read(target)
        cosine = _min_cosine(written, prompts, read_samples(checkpoint))
        expected = min(MIN_COSINE[precision], MIN_COSINE[written.stored_precision])
        if not cosine >= expected:
            raise RuntimeError(f"the exported encoder's cosine to the trained one is {cosine}; expected ≥ {expected}")
        info = _info(config, read_progress(checkpoint), cosine) | {"fingerprint": written.fingerprint()}
        storage.upload(target, config.output)
        storage.write_json(storage.join(config.output, ENCODER_FILE), info)


@torch.no_grad()
def _trained(config: ScftConfig, folder: EncoderFolder, checkpoint: Path) -> PooledEncoder:
    encoder = make_model(folder, config, precision="fp32")
    parameters, loaded = trainable(encoder), set[str]()
    for name, weight in trained_weights(checkpoint):
        if name in parameters:
            parameters[name].copy_(weight)
        loaded.add(name)
    if loaded != parameters.keys():
        raise RuntimeError(
            f"the checkpoint has {len(loaded)} tensors, the model trains {len(parameters)}; first that differs: "
            f"{min(loaded ^ parameters.keys())}"
        )
    return encoder


def _write(config: ScftConfig, folder: EncoderFolder, encoder: PooledEncoder, target: Path) -> None:
    model = encoder.model
    if config.tuning == "lora":
        model.save_pretrained(target / ADAPTER_FOLDER)
        # PEFT names the folder on this node, of a store a copy that goes.
        adapter = target / ADAPTER_FOLDER / "adapter_config.json"
        named = {"base_model_name_or_path": config.base_model}
        adapter.write_text(json.dumps(json.loads(adapter.read_text()) | named, indent=2) + "\n")
        (target / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)  # PEFT's blank form
        model = model.merge_and_unload()
    model.to(DTYPES[folder.stored_precision]).save_pretrained(target, max_shard_size=MAX_FILE_SIZE)
    load_tokenizer(folder.path).save_pretrained(target)
    write_layout(
        target,
        embedding_dim=model.config.get_text_config().hidden_size,
        pooling=config.pooling or folder.pooling,
        normalize=folder.normalize,
        max_seq_len=min(config.max_seq_len or folder.max_seq_len, folder.max_seq_len),
    )


def _min_cosine(written: EncoderFolder, prompts: Sequence[str], samples: Tensor) -> float:
    engine = TorchEngine(written, precision="fp32", tokens_per_batch=1, device="cpu")
    vectors = engine.encode(tokenize(load_tokenizer(written.path), prompts, written.max_seq_len))
    return float(cosine_similarity(torch.from_numpy(vectors).double(), samples.double()).min())


def _info(config: ScftConfig, progress: dict[str, Any], cosine: float) -> dict[str, Any]:
    steps = [entry for entry in progress["history"] if "loss" in entry]
    checks = {entry["step"]: entry for entry in progress["history"] if "loss" not in entry}
    edge = max(1, len(steps) // 10)
    losses = [entry["loss"] for entry in steps]
    training = {
        "loss_first_tenth": float(np.mean(losses[:edge])),
        "loss_last_tenth": float(np.mean(losses[-edge:])),
        "packed": bool(steps and steps[-1].get("packed")),
        "padding_share": float(np.mean([entry["padding_share"] for entry in steps])),
        "pairs_per_second": float(np.median([entry["pairs_per_second"] for entry in steps])),
        "tokens_per_second": float(np.median([entry["tokens_per_second"] for entry in steps])),
    }
    return {
        "format": 2,
        "base_model": config.base_model,
        "prompt_template": config.prompt.model_dump(mode="json"),
        "training": config.identity(),
        "metrics": {
            "steps": progress["step"],
            **(training if steps else {}),
            "validation_untrained": checks.get(0, {}),
            "validation": checks.get(progress["step"], {}),
            "min_cosine_loaded_back": cosine,
        },
        "llmemb": __version__,
    }
