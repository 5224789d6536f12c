"""Whatever is killed, and whatever the store does: the snapshot that is published is that of an undisturbed run."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llmemb import storage
from llmemb.embed.config import EmbedConfig
from llmemb.embed.pipeline import run_embed
from llmemb.embed.snapshot import Snapshot
from tests.generated import hashed_titles, write_catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_ITEMS, NUM_SHARDS, SEED = 20_000, 16, 0
REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 300
NODE_IS_KILLED = """
import sys, time, ray
from ray.cluster_utils import Cluster
from llmemb.embed.config import EmbedConfig
from llmemb.embed.pipeline import run_embed
from tests.embed.test_faults import killed_after

config = EmbedConfig.load(sys.argv[1])
memory = {"object_store_memory": 2**28}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **memory})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")  # this driver's node is the head
victim = cluster.add_node(num_cpus=2, **memory)
cluster.wait_for_nodes()
with killed_after(config.output, int(sys.argv[2]), lambda: cluster.remove_node(victim, allow_graceful=False)):
    run_embed(config)
deadline = time.monotonic() + 60
while sum(node["Alive"] for node in ray.nodes()) > 1:  # the heartbeats of the dead one have to be missed first
    assert time.monotonic() < deadline
    time.sleep(0.1)
ray.shutdown()  # before the cluster ends, which else takes this process with it
cluster.shutdown()
print("published while a node was killed")
"""


def num_records(root: str) -> int:
    return len(list(Path(root).glob("*/_shards/part-*.json")))


@contextlib.contextmanager
def killed_after(root: str, shards: int, kill: Callable[[], object]) -> Iterator[None]:
    """Kills once, when so many shards are finished; fails where there was nothing left to kill by then."""
    killed_at: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while num_records(root) < shards and time.monotonic() < deadline:
            time.sleep(0.005)
        finished = num_records(root)
        kill()
        killed_at.append(finished)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join()
    assert killed_at, "nothing was killed"
    assert shards <= killed_at[0] < NUM_SHARDS


def kill_an_encoder() -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):  # others end meanwhile
            if process.cmdline()[0].startswith("ray::MapWorker(Map(EncodeBucket))"):
                process.kill()
                return
    raise RuntimeError("there is no encoder")


@pytest.fixture(scope="module")
def config(tiny_encoder, tmp_path_factory) -> EmbedConfig:
    folder = tmp_path_factory.mktemp("faults")
    settings = {
        "dataset": write_catalogue(folder / "dataset", dict(hashed_titles(NUM_ITEMS)), num_files=NUM_SHARDS),
        "encoder": str(tiny_encoder),
        "output": str(folder / "undisturbed"),
        "prompt": {"attributes": ["title"]},
        "items_per_shard": 1500,
        "num_workers": 2,
        # Small batches: encoding is to last, so that there is something to kill.
        "engine": {"threads_per_worker": 1, "tokens_per_batch": 64},
    }
    return EmbedConfig.parse(settings)


@pytest.fixture(scope="module")
def undisturbed(config, ray_local) -> dict[str, bytes]:
    run_embed(config)
    return published(config.output)


def published(root: str) -> dict[str, bytes]:
    snapshot = Snapshot.open(root)
    assert len(snapshot.manifest["files"]) == NUM_SHARDS
    assert snapshot.manifest["counts"]["total"] == NUM_ITEMS
    parts = {
        entry["file"]: storage.read_bytes(f"{snapshot.uri}/{entry['file']}") for entry in snapshot.manifest["files"]
    }
    return parts | {"id": snapshot.snapshot_id.encode()}


def test_every_item_is_there_once(undisturbed, config):
    item_ids = [item for table in Snapshot.open(config.output).tables() for item in table.column("item_id").to_pylist()]
    assert sorted(item_ids) == sorted(item for item, _ in hashed_titles(NUM_ITEMS))


def test_encoders_are_killed(undisturbed, config, tmp_path):
    again = config.model_copy(update={"output": str(tmp_path)})
    first, second = sorted(random.Random(SEED).sample(range(1, NUM_SHARDS // 2), 2))
    with (
        killed_after(again.output, first, kill_an_encoder),
        killed_after(again.output, second, kill_an_encoder),
    ):
        run_embed(again)
    assert published(again.output) == undisturbed


def test_a_node_is_killed(undisturbed, config, tmp_path):
    (tmp_path / "embed.yaml").write_text(config.model_copy(update={"output": str(tmp_path / "root")}).to_yaml())
    shards = random.Random(SEED + 1).randrange(1, NUM_SHARDS // 4)
    command = [sys.executable, "-c", NODE_IS_KILLED, str(tmp_path / "embed.yaml"), str(shards)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert "published while a node was killed" in result.stdout, result.stdout[-2000:] + result.stderr[-2000:]
    assert published(str(tmp_path / "root")) == undisturbed


def test_the_driver_is_killed_again_and_again(undisturbed, config, tmp_path):
    root = str(tmp_path / "root")
    (tmp_path / "embed.yaml").write_text(config.model_copy(update={"output": root}).to_yaml())
    for shards in sorted(random.Random(SEED + 2).sample(range(1, NUM_SHARDS // 2), 2)):
        job = start_job(tmp_path / "embed.yaml")
        with killed_after(root, shards, lambda job=job: job.send_signal(signal.SIGKILL)):
            job.wait(WAIT_SECONDS)
        assert not (tmp_path / "root" / "LATEST").exists()
        finished = num_records(root)
    job = start_job(tmp_path / "embed.yaml")
    output, _ = job.communicate(timeout=WAIT_SECONDS)
    assert job.returncode == 0, output
    resumed = re.search(rf"goes on after (\d+) finished shards of {NUM_SHARDS}", output)
    assert resumed, output
    # Workers outlive their driver by a moment, in which they may finish what they were at; none is lost.
    assert finished <= int(resumed[1]) < NUM_SHARDS
    assert "constructor arguments" not in output  # Ray's false alarm about its own actor pools
    assert published(root) == undisturbed


def start_job(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "jobs/embed.py", "--config", str(config)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("bucket", ["faulty", "faulty-conditional"])
def test_the_store_throttles_resets_and_crawls(undisturbed, config, object_stores, bucket):
    root = f"s3://{bucket}/{uuid.uuid4().hex}"
    for name in ("dataset", "encoder"):
        storage.upload(Path(getattr(config, name)), f"{root}/{name}")
    moved = {"dataset": f"{root}/dataset", "encoder": f"{root}/encoder", "output": f"{root}/embeddings"}
    before = object_stores.counts.total()
    run_embed(config.model_copy(update=moved))
    assert object_stores.counts.total() - before > 5 * NUM_SHARDS
    assert published(moved["output"]) == undisturbed
