from typing import Any

import pytest
import ray


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A head that computes nothing, a node of 4 CPUs, a spot one of 6 CPUs and 2 GPUs, and a dead one."""
    found = [({}, True), ({"CPU": 4.0}, True), ({"CPU": 6.0, "GPU": 2.0}, True), ({"CPU": 64.0}, False)]
    nodes = [{"Resources": resources, "Alive": alive, "Labels": {}} for resources, alive in found]
    nodes[2]["Labels"] = {"market": "spot"}
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 10.0, "GPU": 2.0})
    return nodes
