import math

import pytest

from llmemb.errors import InputError
from llmemb.rat.config import RatConfig

REQUIRED = {"dataset": "s3://bucket/dataset", "output": "s3://bucket/out"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "method llmemb needs embeddings"),
        ({"method": "none", "model": {"hidden_dim": 10, "num_heads": 3}}, "model: .*divisible by num_heads = 3"),
        ({"method": "none", "model": {"hiden_dim": 10}}, "model.hiden_dim: unknown key"),
        ({"embeddings": "e", "fusion": {"content_weights": [0.0, math.nan]}}, r"fusion.content_weights.1: .*finite"),
        ({"embeddings": "e", "fusion": {"content_shares": [math.inf]}}, r"fusion.content_shares.0: .*finite"),
        ({"embeddings": "e", "fusion": {"content_temperature": math.inf}}, "fusion.content_temperature: .*finite"),
        ({"method": "none", "backbone": "gru"}, "no backbone 'gru'; expected one of sasrec"),
        ({"method": "none", "seed": 2**32}, "seed: Input should be less than 4294967296"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(InputError, match=message):
        RatConfig.parse(REQUIRED | values)


def test_the_id_only_run_is_the_same_whatever_the_llm_part():
    first = RatConfig.parse(REQUIRED | {"embeddings": "s3://a", "alignment": {"weight": 0.3}, "seed": 3})
    second = RatConfig.parse(REQUIRED | {"embeddings": "s3://b", "adapter": {"kind": "mlp"}, "seed": 3})
    assert first.id_only("s3://ids") == second.id_only("s3://ids")
    assert first.id_only("s3://ids").seed == 3
    assert first.id_only("s3://ids").method == "none"
