"""Tiny trainings."""

import pytest

from llmemb.scft.config import ScftConfig


@pytest.fixture(scope="session")
def scft_config(tiny_dataset: str, tiny_encoder) -> ScftConfig:
    """Six steps of nine pairs on the tiny dataset, of whose 38 usable items three are held out."""
    return ScftConfig.parse(
        {
            "dataset": tiny_dataset,
            "base_model": str(tiny_encoder),
            "output": "unused",
            "seed": 1,
            "max_steps": 6,
            "batch_size": 9,
            "prompt": {"attributes": ["title", "brand", "price"]},
            "loss": {"kind": "info_nce", "temperature": 0.2, "learn_temperature": True},
            "optimizer": {"learning_rate": 0.01, "max_gradient_norm": 0.5},
            "lora": {"rank": 2},
            "validation": {"every_steps": 2, "num_histories": 20},
        }
    )
