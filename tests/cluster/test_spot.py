"""Fine-tuning on machines that are taken back: with notice, and with nothing to replace them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.nodes import LocalCluster
from tests.clusters import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MAX_STEPS, DEADLINE_SECONDS = 300, 300


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[LocalCluster]:
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
    started = LocalCluster.start(tmp_path / "cluster", num_workers=2, cpus=1)
    yield started
    started.stop()


def test_scft_saves_at_the_notice_and_goes_on_with_the_worker_that_is_left(
    cluster, tiny_dataset, tiny_encoder, tmp_path
):
    output = tmp_path / "encoder"
    overrides = [f"dataset={tiny_dataset}", f"base_model={tiny_encoder}", f"output={output}"]
    overrides += ["prompt.attributes=[title,brand]", f"max_steps={MAX_STEPS}", "batch_size=9", "num_workers=2"]
    overrides += ["engine.min_workers=1", "engine.threads_per_worker=1"]
    # Nothing is saved between the first step and the last, unless there is notice.
    overrides += ["validation.metric=none", f"validation.every_steps={MAX_STEPS}"]
    with Client(cluster).start("scft", *overrides) as job:
        try:
            wait_for_a_checkpoint(output, job, after_step=-1)
            victim = cluster.nodes[-1]
            cluster.announce_loss(victim, seconds=30)
            at_notice = wait_for_a_checkpoint(output, job, after_step=0)
            assert at_notice < MAX_STEPS, "there was nothing to save"
            cluster.kill(victim)
            printed, errors = job.communicate(timeout=DEADLINE_SECONDS)
        finally:
            job.kill()
    assert job.returncode == 0, printed[-3000:] + errors[-3000:]
    steps = [
        entry for line in (output / "history.jsonl").read_text().splitlines() if "loss" in (entry := json.loads(line))
    ]
    assert [entry["step"] for entry in steps] == list(range(1, MAX_STEPS + 1))


def wait_for_a_checkpoint(output: Path, job, *, after_step: int) -> int:
    """Its step."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = [json.loads(path.read_text())["step"] for path in output.glob("checkpoints/*/state.json")]
        if max(found, default=-1) > after_step:
            return max(found)
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
