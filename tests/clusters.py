"""Somebody who submits to a cluster."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.local.nodes import LocalCluster

REPOSITORY = Path(__file__).resolve().parents[1]
JOB_SECONDS = 300


@dataclass(frozen=True)
class Client:
    """Somebody with a cluster's address, and with its token."""

    cluster: LocalCluster

    def start(self, job: str, *overrides: str, **changed: str) -> subprocess.Popen[str]:
        config = f"jobs/configs/demo/{job}.yaml"
        command = [sys.executable, "-c", "from llmemb.cli import app; app()", "submit", job, "--config", config]
        return subprocess.Popen(
            [*command, "--address", self.cluster.address, *overrides],
            env=os.environ | self.cluster.environment | {"LLMEMB_RUNS": "/nowhere"} | changed,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, job: str, *overrides: str, **changed: str) -> subprocess.CompletedProcess[str]:
        with self.start(job, *overrides, **changed) as process:
            try:
                output, errors = process.communicate(timeout=JOB_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
                errors += f"not done after {JOB_SECONDS} s"
            return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
