"""What all tests share: a quiet, offline, single-threaded machine, one local Ray, and the real data where it is."""

import os

# Before torch, transformers, deepspeed or ray is imported: each reads these once.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    DS_ACCELERATOR="cpu",
    RAY_AUTH_MODE="disabled",  # clusters of this session are local; tests of a secured cluster set their own
    RAY_USAGE_STATS_ENABLED="0",
    RAY_TRAIN_V2_ENABLED="1",
    MPLBACKEND="agg",
)
os.environ.pop("RAY_ADDRESS", None)

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Shapes in signatures are checked here and nowhere else.
install_import_hook(["llmemb.contrastive", "llmemb.encoder.pooling", "llmemb.srs"], "beartype.beartype")

# A shared machine may stall for seconds; what a property test checks is not its own speed.
settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("shared machine")

REPOSITORY = Path(__file__).resolve().parent.parent
OBJECT_STORE_BYTES = 256 * 2**20


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A local Ray with two CPUs, started at the first test that needs it."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, which lives beside the checkout and not in it."""
    folder = Path(os.environ.get("LLMEMB_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set LLMEMB_DATA to the folder that holds amazon-beauty")
    return folder
