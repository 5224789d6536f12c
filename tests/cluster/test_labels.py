"""Work lands on the nodes whose labels it asks for, although others have room."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
# A cluster of its own, so a process of its own.
ON_TWO_NODES = """
import json, sys, ray
from ray._private.state import actors  # the public list of actors wants a dashboard
from ray.cluster_utils import Cluster
from llmemb.compute.training import train_on_ray, training_workers
from llmemb.embed.config import EmbedConfig
from llmemb.embed.pipeline import run_embed

MARKET = "llmemb/market"


def train(arguments):
    found = ray.get_runtime_context().get_node_labels()
    open(arguments["file"], "w").write(found[MARKET])


config, folder = EmbedConfig.load(sys.argv[1]), sys.argv[2]
cluster = Cluster()
for market in ("spot", "on-demand"):
    cluster.add_node(num_cpus=3, labels={MARKET: market}, object_store_memory=2**28, include_dashboard=False)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
markets = {node["NodeID"]: node["Labels"][MARKET] for node in ray.nodes()}
landed = {}
for market in ("spot", "on-demand"):
    labels = {MARKET: market}
    scaling = training_workers(1, threads=1, labels=labels)
    train_on_ray(
        train, {"file": f"{folder}/{market}"}, storage_uri=folder, name=f"ray-{market}", scaling=scaling, max_failures=0
    )
    before = set(actors())
    run_embed(config.model_copy(update={"output": f"{folder}/embeddings-{market}", "node_labels": labels}))
    encoders = [
        markets[actor["Address"]["NodeID"]]
        for key, actor in actors().items()
        if key not in before and "EncodeBucket" in actor["Name"] + actor["ActorClassName"]
    ]
    landed[market] = {"training": open(f"{folder}/{market}").read(), "encoders": sorted(set(encoders))}
ray.shutdown()
cluster.shutdown()
print("landed", json.dumps(landed))
"""


def test_encoders_and_training_go_where_their_labels_say(tiny_dataset, tiny_encoder, tmp_path):
    config = {"dataset": str(tiny_dataset), "encoder": str(tiny_encoder), "output": str(tmp_path)}
    (tmp_path / "embed.yaml").write_text(json.dumps(config | {"prompt": {"attributes": ["title"]}}))
    command = [sys.executable, "-c", ON_TWO_NODES, str(tmp_path / "embed.yaml"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("landed ")]
    assert lines, result.stdout[-2000:] + result.stderr[-2000:]
    expected = {market: {"training": market, "encoders": [market]} for market in ("spot", "on-demand")}
    assert json.loads(lines[0].removeprefix("landed ")) == expected
