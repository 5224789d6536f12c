"""Every job through a real ``ray job submit`` to a cluster with token authentication."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmemb.data.sample import write_sample

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
START_SECONDS, JOB_SECONDS = 120, 300
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass(frozen=True)
class Cluster:
    """A one-node cluster in a process of its own."""

    address: str
    environment: dict[str, str]

    def ray(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*RAY, *arguments],
            env=self.environment | changed,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=JOB_SECONDS,
            check=False,
        )

    def submit(self, job: str, *overrides: str) -> subprocess.CompletedProcess:
        config = f"jobs/configs/demo/{job}.yaml"
        command = ["python", f"jobs/{job}.py", "--config", config, *overrides]
        return self.ray("job", "submit", "--address", self.address, "--working-dir", ".", "--", *command)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    dashboard_port = free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    started = Cluster(f"http://127.0.0.1:{dashboard_port}", environment)
    ports = {
        "port": free_port(),
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
    }
    log = (tmp_path_factory.mktemp("cluster") / "log").open("w")
    head = subprocess.Popen(
        [*RAY, "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=268435456"]
        + [f"--{name}={port}" for name, port in ports.items()],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while started.ray("job", "list", "--address", started.address).returncode != 0:
            assert head.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
        yield started
    finally:
        head.terminate()
        head.wait(timeout=60)
        log.close()


def test_a_client_with_another_token_is_turned_away(cluster):
    answer = cluster.ray("job", "list", "--address", cluster.address, RAY_AUTH_TOKEN=secrets.token_hex(16))
    assert answer.returncode != 0
    assert "authentication" in (answer.stdout + answer.stderr).lower()


def test_every_job_submitted_in_turn_ends_with_a_report(cluster, tiny_encoder, tmp_path):
    write_sample(str(tmp_path / "sample"), num_items=200, num_users=150, seed=0)
    folders = {name: str(tmp_path / name) for name in ("dataset", "encoder", "embeddings", "llmemb", "none", "report")}
    inputs = [f"{table}={tmp_path / 'sample' / table}.parquet" for table in ("items", "interactions")]
    dataset = f"dataset={folders['dataset']}"
    submissions = {
        "prepare": [*inputs, f"output={folders['dataset']}"],
        "scft": [dataset, f"output={folders['encoder']}", f"base_model={tiny_encoder}", "max_steps=2", "batch_size=8"],
        "embed": [dataset, f"encoder={folders['encoder']}", f"output={folders['embeddings']}"],
        "rat": [
            dataset,
            f"embeddings={folders['embeddings']}",
            f"collaborative={folders['none']}",
            f"output={folders['llmemb']}",
            "training.max_epochs=1",
        ],
        "evaluate": [
            dataset,
            f"models=[{folders['none']},{folders['llmemb']}]",
            f"embeddings={folders['embeddings']}",
            f"output={folders['report']}",
            "num_workers=2",
        ],
    }
    for job, overrides in submissions.items():
        result = cluster.submit(job, *overrides)
        assert result.returncode == 0, f"{job}:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert {"none", "llmemb"} <= {Path(model["uri"]).name for model in metrics["models"] if model.get("uri")}
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000

    wrong = cluster.submit("scft", dataset, f"output={tmp_path / 'wrong'}", "max_stepz=2")
    assert wrong.returncode != 0
    assert "error: config: max_stepz: unknown key" in wrong.stdout + wrong.stderr
    lost = cluster.submit("embed", dataset, f"encoder={folders['encoder']}", "output=relative/folder")
    assert lost.returncode != 0
    assert "a relative path in a submitted job is deleted" in lost.stdout + lost.stderr
