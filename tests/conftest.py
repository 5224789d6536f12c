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
    RAY_worker_niceness="0",
    # What Ray waits for on large clusters: here a process that is kept, or a death that is noticed, is seconds saved.
    RAY_num_workers_soft_limit="6",
    RAY_health_check_period_ms="500",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.25",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",  # but in the test of notices
    MPLBACKEND="agg",
)
os.environ.pop("RAY_ADDRESS", None)

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

collect_ignore = ["peers"]  # these have an environment of their own

# Shapes in signatures are checked here and nowhere else.
install_import_hook(["llmemb.contrastive", "llmemb.encoder.pooling", "llmemb.srs"], "beartype.beartype")

# A shared machine may stall for seconds; what a property test checks is not its own speed.
settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("shared machine")

pytest_plugins = ["tests.object_stores", "tests.pages"]

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


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT of 32 dimensions with a word-level tokenizer, as a sentence-transformers folder."""
    from tests.generated import write_tiny_encoder

    return write_tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared dataset of 40 items, two of them without any attribute, and 30 users."""
    import numpy as np
    import polars as pl

    from tests.generated import prepare_dataset

    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    colours, things = ["red", "blue", "green"], ["table", "lamp", "chair", "desk"]
    items = pl.DataFrame(
        {
            "item_id": [f"i{index}" for index in range(40)],
            "title": [f"{generator.choice(colours)} {generator.choice(things)}" if i > 1 else None for i in range(40)],
            "brand": [str(generator.choice(["acme", "nova"])) if i > 1 else None for i in range(40)],
            "price": [float(generator.choice([10, 20])) if i > 1 else None for i in range(40)],
        }
    )
    interactions = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(30) for _ in range(8)],
            "item_id": [f"i{item}" for item in generator.integers(0, 36, 240)],
            "timestamp": list(range(240)),
        }
    )
    return prepare_dataset(folder, items, interactions)
