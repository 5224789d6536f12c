import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmemb import storage
from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize
from llmemb.scft import export
from llmemb.scft.model import make_model, trainable
from llmemb.scft.state import OPTIMIZER, SAMPLES, STATE_FILE, WEIGHT

PROMPTS = ["title is red lamp", "brand is acme"]


@pytest.fixture
def base(tiny_encoder, tmp_path) -> Path:
    """The tiny encoder with its weights in bf16, as large models come."""
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "base"))
    weights = load_file(folder / "model.safetensors")
    rounded = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(rounded, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_checkpoint(folder: Path, config) -> torch.Tensor:
    """One whose trained weights are off the base's; returns its vectors of the prompts."""
    base = EncoderFolder.read(Path(config.base_model))
    encoder = make_model(base, config, precision="fp32")
    with torch.no_grad():
        for weight in trainable(encoder).values():
            weight += 0.05 * torch.randn_like(weight)
        samples = encoder(tokenize(load_tokenizer(base.path), PROMPTS, base.max_seq_len))
    tensors = {f"{WEIGHT}:{name}": weight.detach().contiguous() for name, weight in trainable(encoder).items()}
    folder.mkdir()
    save_file(tensors | {SAMPLES: samples}, folder / "state.safetensors")
    state = {"step": 0, "history": [], "files": ["state.safetensors"], OPTIMIZER: {}}
    (folder / STATE_FILE).write_text(json.dumps(state))
    return samples


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_bf16_base_comes_out_in_bf16_and_large_weights_in_several_files(
    scft_config, base, tmp_path, monkeypatch, tuning
):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr(export, "MAX_FILE_SIZE", "10KB")
    output = tmp_path / "encoder"
    config = scft_config.model_copy(update={"base_model": str(base), "output": str(output), "tuning": tuning})
    samples = write_checkpoint(tmp_path / "checkpoint", config)
    export.export_encoder(config, tmp_path / "checkpoint", PROMPTS, precision="fp32")
    folder = EncoderFolder.read(output)
    assert len(list(output.glob("model-*.safetensors"))) > 2
    assert not (output / "model.safetensors").exists()
    assert folder.stored_precision == "bf16"
    assert folder.num_parameters == sum(weight.numel() for weight in load_file(base / "model.safetensors").values())
    assert folder.checked_fingerprint() == folder.info()["fingerprint"]
    engine = TorchEngine(folder, precision="fp32", tokens_per_batch=64, device="cpu")
    vectors = engine.encode(tokenize(load_tokenizer(output), PROMPTS, folder.max_seq_len))
    assert torch.cosine_similarity(torch.from_numpy(vectors), samples).min() > 0.999
    opened = SentenceTransformer(str(output), device="cpu", model_kwargs={"dtype": torch.float32})
    np.testing.assert_allclose(opened.encode(PROMPTS), vectors, atol=1e-5)
    last = max(output.glob("model-*.safetensors"))
    last.write_bytes(last.read_bytes()[:-1] + b"\x7f")
    assert folder.fingerprint() != folder.info()["fingerprint"]


def test_a_checkpoint_of_other_weights_is_refused(scft_config, base, tmp_path):
    config = scft_config.model_copy(update={"base_model": str(base), "output": str(tmp_path / "encoder")})
    write_checkpoint(tmp_path / "checkpoint", config)
    other = config.model_copy(update={"tuning": "full"})
    with pytest.raises(RuntimeError, match="first that differs: "):
        export.export_encoder(other, tmp_path / "checkpoint", PROMPTS, precision="fp32")
    assert not (tmp_path / "encoder").exists()


def test_the_adapter_names_its_base_model_and_no_copy_of_it(scft_config, base, tmp_path):
    config = scft_config.model_copy(update={"base_model": str(base), "output": str(tmp_path / "encoder")})
    write_checkpoint(tmp_path / "checkpoint", config)
    uri = f"memory://{tmp_path.name}/base"
    storage.upload(base, uri)
    in_store = config.model_copy(update={"base_model": uri, "tuning": "lora"})
    export.export_encoder(in_store, tmp_path / "checkpoint", PROMPTS, precision="fp32")
    named = json.loads((tmp_path / "encoder" / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == uri
