import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.torch_engine import TorchEngine
from llmemb.errors import InputError

SETTINGS: dict[str, Any] = {"precision": "fp32", "tokens_per_batch": 64, "device": "cpu"}


@pytest.fixture
def inductor() -> Iterator[Any]:
    """torch.compile's settings, with nothing compiled yet."""
    from torch._inductor import config

    torch._dynamo.reset()
    with config.patch(force_disable_caches=True):
        yield config
    torch._dynamo.reset()


def test_without_a_compiler_compile_is_one_clear_line(tiny_encoder, inductor):
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(InputError, match=r"engine\.compile: .*no-such-compiler.*; expected a C\+\+ compiler") as caught,
    ):
        TorchEngine(EncoderFolder.read(tiny_encoder), **SETTINGS, compiled=True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_a_compiled_encoder_gives_the_same_vectors(tiny_encoder, inductor):
    generator = np.random.default_rng(0)
    token_ids = [generator.integers(1, 20, length) for length in (4, 30, 1, 9, 9, 17, 63)]
    folder = EncoderFolder.read(tiny_encoder)
    compiled = TorchEngine(folder, **SETTINGS, compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    expected = TorchEngine(folder, **SETTINGS).encode(token_ids)
    np.testing.assert_allclose(compiled.encode(token_ids), expected, atol=1e-6)


def test_any_number_of_threads_gives_the_same_vectors_to_the_bit(tiny_encoder):
    engine = TorchEngine(EncoderFolder.read(tiny_encoder), precision="fp32", tokens_per_batch=16, device="cpu")
    random = np.random.default_rng(0)
    texts = [random.integers(4, 20, length) for length in random.integers(1, 12, 40)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(engine.encode(texts))
            assert torch.get_num_threads() == threads
            with pytest.raises(IndexError):
                engine.encode([*texts, np.array([10**6])])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len({vectors.tobytes() for vectors in found}) == 1
