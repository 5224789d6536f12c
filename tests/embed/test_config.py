import pytest

from llmemb.embed.config import EmbedConfig
from llmemb.errors import InputError


def test_several_gpus_share_an_encoder_with_vllm_only():
    settings = {"dataset": "d", "encoder": "e", "output": "o"}
    engine = {"kind": "vllm", "gpus_per_worker": 2}
    assert EmbedConfig.parse(settings | {"engine": engine}).engine.gpus_per_worker == 2
    with pytest.raises(InputError, match=r"engine: .*gpus_per_worker: 2 GPUs share one encoder with kind: vllm only"):
        EmbedConfig.parse(settings | {"engine": engine | {"kind": "torch"}})


def test_compiling_is_for_the_torch_engine():
    settings = {"dataset": "d", "encoder": "e", "output": "o"}
    assert not EmbedConfig.parse(settings).engine.compile
    with pytest.raises(InputError, match="compile: is for kind: torch; vllm compiles by itself"):
        EmbedConfig.parse(settings | {"engine": {"kind": "vllm", "compile": True}})


def test_auto_leaves_the_precision_to_the_device_and_is_no_other_run():
    settings = {"dataset": "d", "encoder": "e", "output": "o"}
    chosen = EmbedConfig.parse(settings | {"engine": {"precision": "auto"}})
    assert chosen.identity() == EmbedConfig.parse(settings).identity()
    assert EmbedConfig.parse(settings | {"engine": {"precision": "bf16"}}).engine.precision == "bf16"
