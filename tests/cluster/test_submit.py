"""Every job submitted to a cluster of three nodes with token authentication, and what happens when one is killed."""

import json
import secrets
import time
from pathlib import Path

import pytest

from cluster.local.nodes import Node
from llmemb.data.sample import write_sample
from tests.clusters import Client

DETECTION_SECONDS, WAIT_SECONDS = 90, 200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_a_client_with_another_token_is_turned_away(client):
    result = client.submit("embed", RAY_AUTH_TOKEN=secrets.token_hex(16))
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: address: {client.cluster.address} refuses the token: expected ")
    assert len(result.stderr.splitlines()) == 1
    assert (client.cluster.token_file.stat().st_mode & 0o077) == 0


def test_every_job_submitted_in_turn_ends_with_a_report(client, tiny_encoder, tmp_path):
    write_sample(str(tmp_path / "sample"), num_items=200, num_users=150, seed=0)
    folders = {name: str(tmp_path / name) for name in ("dataset", "encoder", "embeddings", "recommender", "report")}
    inputs = [f"{table}={tmp_path / 'sample' / table}.parquet" for table in ("items", "interactions")]
    dataset, embeddings = f"dataset={folders['dataset']}", f"embeddings={folders['embeddings']}"
    settings = {
        "prepare": [*inputs, f"output={folders['dataset']}"],
        "scft": [dataset, f"output={folders['encoder']}", f"base_model={tiny_encoder}", "max_steps=2", "batch_size=8"],
        "embed": [dataset, f"encoder={folders['encoder']}", f"output={folders['embeddings']}"],
        "rat": [dataset, embeddings, f"output={folders['recommender']}", "training.max_epochs=1"],
        "evaluate": [
            *[dataset, embeddings, f"models=[{folders['recommender']}]"],
            *[f"output={folders['report']}", "num_workers=2"],
        ],
    }
    for job, overrides in settings.items():
        result = client.submit(job, *overrides)
        assert result.returncode == 0, f"{job}:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert "recommender" in {Path(model["uri"]).name for model in metrics["models"] if model.get("uri")}
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_bad_input_to_a_submitted_job_is_the_clients_line_and_exit_code(client, tiny_dataset, tiny_encoder, tmp_path):
    dataset = f"dataset={tiny_dataset}"
    with client.start("scft", dataset, f"output={tmp_path / 'wrong'}", "max_stepz=2") as wrong:
        lost = client.submit("embed", dataset, f"encoder={tiny_encoder}", "output=relative/folder")
        printed, _ = wrong.communicate(timeout=WAIT_SECONDS)
    assert lost.returncode == 2
    assert "a relative path in a submitted job is deleted" in lost.stdout
    assert wrong.returncode == 2
    assert "error: config: max_stepz: unknown key" in printed


def test_a_night_whose_training_node_is_killed_publishes_what_an_undisturbed_one_does(
    client, tiny_dataset, tiny_encoder, tmp_path
):
    overrides = [f"dataset={tiny_dataset}", f"embed.encoder={tiny_encoder}", "embed.prompt.attributes=[title,brand]"]
    # Enough epochs that there is something to kill; threads, for the same sums in the same order.
    overrides += ["rat.training.max_epochs=60", "rat.training.patience=60", "rat.engine.threads_per_worker=2"]
    overrides += ["embed.engine.threads_per_worker=2", "rat.model.hidden_dim=8", "evaluate.sampled=null"]
    overrides += ["rat.max_missing_share=0.1"]  # two of the 40 items have no attribute
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    result = client.submit("nightly", *overrides, f"output={calm}")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]

    # It finds its embeddings made: what is killed is the training.
    night = client.start("nightly", *overrides, f"output={disturbed}", f"embed.output={calm}/embeddings")
    kill_training(client, disturbed)
    output, errors = night.communicate(timeout=WAIT_SECONDS)
    assert night.returncode == 0, output[-3000:] + errors[-3000:]
    assert published(disturbed) == published(calm)


def kill_training(client: Client, root: Path) -> None:
    """Kills the node on which a recommender is being trained, and lets another take its place."""
    cluster = client.cluster
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := list(root.glob("recommenders/*/**/checkpoint.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [victim] = [node for node in cluster.nodes[1:] if trains(node)]
    cluster.kill(victim)
    assert not [file for file in found if (file.parent / "recommender.json").exists()], "there was nothing to kill"
    cluster.wait_for_nodes(len(cluster.nodes), seconds=DETECTION_SECONDS)
    cluster.add_worker()
    cluster.wait_for_nodes(len(cluster.nodes))


def trains(node: Node) -> bool:
    return any("RayTrainWorker" in part for process in node.processes() for part in process.cmdline())


def published(root: Path) -> dict[str, bytes]:
    live = (root / "LIVE").read_text().strip()
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted((root / "recommenders" / live).rglob("*"))
        if file.suffix in (".safetensors", ".parquet")
    } | {"LIVE": live.encode()}
