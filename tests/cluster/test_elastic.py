"""Fine-tuning on a cluster that loses a node and gets none back."""

import json
import time
from collections.abc import Iterator

import pytest

from cluster.local.nodes import LocalCluster
from tests.clusters import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
MAX_STEPS, DEADLINE_SECONDS = 60, 200


@pytest.fixture
def cluster(tmp_path) -> Iterator[LocalCluster]:
    started = LocalCluster.start(tmp_path / "cluster", num_workers=2, cpus=1)
    yield started
    started.stop()


def test_scft_goes_on_with_the_worker_that_is_left(cluster, tiny_dataset, tiny_encoder, tmp_path):
    output = tmp_path / "encoder"
    overrides = [f"dataset={tiny_dataset}", f"base_model={tiny_encoder}", f"output={output}"]
    overrides += ["prompt.attributes=[title,brand]", f"max_steps={MAX_STEPS}", "batch_size=9", "num_workers=2"]
    overrides += ["engine.min_workers=1", "engine.threads_per_worker=1", "engine.save_every_steps=1"]
    overrides += ["validation.metric=none"]
    with Client(cluster).start("scft", *overrides) as job:
        try:
            wait_for_a_step(output / "checkpoints", job)
            cluster.kill(cluster.nodes[-1])
            printed, errors = job.communicate(timeout=DEADLINE_SECONDS)
        finally:
            job.kill()
    assert job.returncode == 0, printed[-3000:] + errors[-3000:]
    steps = [json.loads(line)["step"] for line in (output / "history.jsonl").read_text().splitlines()]
    assert steps == list(range(1, MAX_STEPS + 1))


def wait_for_a_step(checkpoints, job) -> None:
    """Returns once a checkpoint of some step stands, long before the last."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any(json.loads(path.read_text())["step"] > 0 for path in checkpoints.glob("*/state.json")):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
