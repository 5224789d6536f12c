"""A cluster in processes of its own."""

from collections.abc import Iterator

import psutil
import pytest

from cluster.local.nodes import LocalCluster
from tests.clusters import Client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Three nodes, one of them the head, which runs drivers only."""
    cluster = LocalCluster.start(tmp_path_factory.mktemp("cluster"), num_workers=2)
    try:
        yield Client(cluster)
    finally:
        processes = [process for node in cluster.nodes for process in node.processes()]
        cluster.stop()
        assert len(processes) > 10
        assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
