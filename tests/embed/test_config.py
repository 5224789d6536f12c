import pytest

from llmemb.embed.config import EmbedConfig
from llmemb.errors import InputError


def test_several_gpus_share_an_encoder_with_vllm_only():
    settings = {"dataset": "d", "encoder": "e", "output": "o"}
    engine = {"kind": "vllm", "gpus_per_worker": 2}
    assert EmbedConfig.parse(settings | {"engine": engine}).engine.gpus_per_worker == 2
    with pytest.raises(InputError, match=r"engine: .*gpus_per_worker: 2 GPUs share one encoder with kind: vllm only"):
        EmbedConfig.parse(settings | {"engine": engine | {"kind": "torch"}})
