"""A cluster that grows for a job and shrinks after it, and the snapshot that comes out."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.local.nodes import GCS_PORT, LocalCluster
from llmemb.embed.snapshot import Snapshot
from llmemb.embed.verification import verify
from tests.clusters import Client
from tests.generated import hashed_titles, write_catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUM_ITEMS = 2_000


@contextmanager
def counted_nodes(cluster: LocalCluster) -> Iterator[Counter[int]]:
    """How often which number of nodes was alive."""
    seen: Counter[int] = Counter()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            seen[cluster.alive()] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def test_a_cluster_grows_from_one_node_to_three_for_an_embed_job_and_back(tiny_encoder, tmp_path):
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", GCS_PORT)) == 0:
            pytest.skip(f"port {GCS_PORT} is taken, and Ray's provider of local nodes knows no other")
    titles = dict(hashed_titles(NUM_ITEMS))
    dataset = write_catalogue(tmp_path / "dataset", titles, num_files=16)
    overrides = [f"dataset={dataset}", f"encoder={tiny_encoder}", f"output={tmp_path / 'embeddings'}"]
    overrides += ["num_workers=2", "items_per_shard=150", "prompt.attributes=[title]"]
    overrides += ["engine.threads_per_worker=2", "engine.tokens_per_batch=64"]
    cluster = LocalCluster.start_autoscaling(tmp_path / "cluster", max_workers=2, idle_seconds=20)
    try:
        with counted_nodes(cluster) as seen:
            # Its nodes share a folder for what is uploaded, and each unpacks it under the feet of those before it.
            result = Client(cluster).submit("embed", "--in-place", *overrides)
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
            cluster.wait_for_nodes(1, seconds=120)
    finally:
        cluster.stop()
    assert max(seen) == 3
    assert "waits for nodes" in result.stdout
    snapshot = Snapshot.open(str(tmp_path / "embeddings"))
    assert snapshot.manifest["counts"]["total"] == NUM_ITEMS
    assert [found for _, found in verify(snapshot) if found] == []
    assert sorted(id_ for table in snapshot.tables() for id_ in table["item_id"].to_pylist()) == sorted(titles)
