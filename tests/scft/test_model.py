import json
from pathlib import Path

import pytest
import torch

from llmemb.encoder.folder import EncoderFolder
from llmemb.errors import InputError
from llmemb.scft.config import ScftConfig
from llmemb.scft.model import make_model
from tests.generated import write_tiny_decoder

TEXTS = [[2, 5, 6, 7, 3], [2, 8, 3]]


@pytest.mark.parametrize(("kind", "rates"), [("distilbert", {}), ("gpt2", {}), ("llama", {"attention_dropout": 0.5})])
def test_a_base_model_in_training_drops_nothing_whatever_its_config_calls_it(kind, rates, scft_config, tmp_path):
    folder = write_tiny_decoder(tmp_path / kind, kind, with_head=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | rates))
    encoder = make_model(EncoderFolder.read(folder), scft_config, precision="fp32").train()
    assert encoder.model.training
    torch.testing.assert_close(encoder(TEXTS), encoder(TEXTS), rtol=0, atol=0)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_base_model_takes_the_memory_of_its_precision(scft_config: ScftConfig, tuning):
    config = scft_config.model_copy(update={"tuning": tuning})
    encoder = make_model(EncoderFolder.read(Path(config.base_model)), config, precision="bf16")
    dtypes = {weight.dtype for name, weight in encoder.named_parameters() if "lora_" not in name}
    assert dtypes == {torch.bfloat16}


def test_the_adapters_dropout_is_a_setting_of_its_own(scft_config: ScftConfig):
    config = scft_config.model_copy(update={"lora": scft_config.lora.model_copy(update={"dropout": 0.25})})
    encoder = make_model(EncoderFolder.read(Path(config.base_model)), config, precision="fp32")
    rates = {name: each.p for name, each in encoder.named_modules() if isinstance(each, torch.nn.Dropout)}
    assert {rate for name, rate in rates.items() if "lora_dropout" in name} == {0.25}
    assert {rate for name, rate in rates.items() if "lora_dropout" not in name} == {0.0}


def test_layers_that_the_model_does_not_have_are_one_line(scft_config: ScftConfig):
    lora = scft_config.lora.model_copy(update={"target_modules": ["q_proj", "v_proj"]})
    config = scft_config.model_copy(update={"lora": lora})
    with pytest.raises(InputError, match=r"^lora\.target_modules: .*q_proj"):
        make_model(EncoderFolder.read(Path(config.base_model)), config, precision="fp32")
