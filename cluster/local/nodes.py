"""Several Ray nodes on one machine, each a tree of processes, behind token authentication."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

import psutil
import yaml

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
START_SECONDS, STOP_SECONDS, POLL_SECONDS = 120.0, 30.0, 0.2
OBJECT_STORE_BYTES = 256 * 2**20
GCS_PORT = 6379  # Ray's provider of nodes on one machine knows no other
STATE_FILE, TOKEN_FILE = "cluster.json", "token"


@dataclass(frozen=True)
class Node:
    """The process that ``ray start --block`` runs in; all of a node's are its children."""

    pid: int
    created: float
    folder: str
    """Its own: nodes that share one delete the working directories of each other's jobs."""

    @property
    def name(self) -> str:
        """What the cluster calls it."""
        return Path(self.folder).name

    def processes(self) -> list[psutil.Process]:
        """The node's processes, its first one first; none where it is gone, even if another has its id by now."""
        try:
            first = psutil.Process(self.pid)
            if first.create_time() != self.created or not _runs(first):
                return []
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL to all its processes, as when a machine is lost; returns once they are gone."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(_runs, processes)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)


class LocalCluster:
    """A head and workers; their token, log and process ids are in one folder, for whoever takes them down."""

    def __init__(self, folder: Path, address: str, gcs_address: str, nodes: list[Node]) -> None:
        self.folder, self.address, self.gcs_address = folder, address, gcs_address
        self.nodes = nodes
        """The head first. Those that an autoscaler started are not among them: they live and die with the head."""

    @classmethod
    def start(cls, folder: Path, *, num_workers: int, cpus: int = 2, dashboard_port: int = 0) -> Self:
        """A head that runs drivers only, as it should where it may not be lost, and workers of so many CPUs each.

        Raises:
            RuntimeError: a node does not come up; what it wrote is in the message.
        """
        ports = {"port": free_port(), "dashboard-port": dashboard_port or free_port()}
        cluster = cls._start_head(folder, [], ports)
        try:
            for started in range(num_workers):
                cluster.add_worker(cpus=cpus)
                # One after the other: of two that start at once on one machine, one may never come up (Ray 2.60).
                cluster.wait_for_nodes(2 + started)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def start_autoscaling(
        cls, folder: Path, *, max_workers: int, cpus: int = 2, idle_seconds: float = 30, dashboard_port: int = 0
    ) -> Self:
        """A head that starts up to ``max_workers`` of so many CPUs each when work waits, and stops idle ones."""
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "autoscaling.yaml"
        config.write_text(yaml.safe_dump(_autoscaling(max_workers, cpus, idle_seconds / 60), sort_keys=False))
        ports = {"port": GCS_PORT, "dashboard-port": dashboard_port or free_port()}
        return cls._start_head(folder, [f"--autoscaling-config={config}"], ports)

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """The cluster that was started in a folder; None where there is none."""
        if not (folder / STATE_FILE).exists():
            return None
        state = json.loads((folder / STATE_FILE).read_text())
        return cls(folder, state["address"], state["gcs_address"], [Node(**node) for node in state["nodes"]])

    @property
    def token_file(self) -> Path:
        return self.folder / TOKEN_FILE

    @property
    def environment(self) -> dict[str, str]:
        """With which a client, or a node, may join."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    def add_worker(self, *, cpus: int = 2) -> Node:
        """Starts one more node, and does not wait for it."""
        return self._start_node([f"--address={self.gcs_address}", f"--num-cpus={cpus}"])

    def kill(self, node: Node) -> None:
        """Ends a node the hard way, as when a machine is lost."""
        node.kill()
        self._save([other for other in self.nodes if other != node])

    def announce_loss(self, node: Node, *, seconds: int) -> None:
        """Tells the cluster that a node goes in so many seconds, as a cloud does of a spot machine; it stays.

        Raises:
            subprocess.CalledProcessError: the cluster does not take the notice.
        """
        [node_id] = [known["node_id"] for known in self._known_nodes() if known["node_name"] == node.name]
        options = [f"--address={self.gcs_address}", f"--node-id={node_id}", f"--deadline-remaining-seconds={seconds}"]
        options += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the machine is taken back"]
        environment = os.environ | self.environment
        subprocess.run([*RAY, "drain-node", *options], env=environment, capture_output=True, check=True)

    def alive(self) -> int:
        """How many nodes the cluster knows to be alive.

        Raises:
            OSError: the head does not answer.
        """
        return sum(node["state"] == "ALIVE" for node in self._known_nodes())

    def _known_nodes(self) -> list[dict[str, Any]]:
        """All nodes that have joined, as Ray's state API describes them."""
        request = urllib.request.Request(f"{self.address}/api/v0/nodes?limit=1000")
        request.add_header("Authorization", f"Bearer {self.token_file.read_text().strip()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return found

    def wait_for_nodes(self, number: int, *, seconds: float = START_SECONDS) -> None:
        """Returns once exactly so many nodes are alive.

        Raises:
            RuntimeError: they are not, after so many seconds.
        """
        deadline, found = time.monotonic() + seconds, -1
        while found != number:
            if time.monotonic() > deadline or not self.nodes[0].processes():
                raise RuntimeError(f"{found} of {number} nodes are alive:\n{self._log_tail()}")
            time.sleep(POLL_SECONDS)
            try:
                found = self.alive()
            except (OSError, ValueError):  # not up yet
                continue

    def stop(self) -> None:
        """Ends the nodes and removes the token; only processes that this cluster started are touched.

        With SIGKILL: asked politely, raylets wait for their agents, the head for its raylets, and that for half a
        minute. There is nothing to save: what jobs have finished is in their outputs.
        """
        # Workers first: they would only watch their head die.
        for node in reversed(self.nodes):
            node.kill()
        for file in (STATE_FILE, TOKEN_FILE):
            (self.folder / file).unlink(missing_ok=True)

    @classmethod
    def _start_head(cls, folder: Path, options: list[str], ports: dict[str, int]) -> Self:
        folder.mkdir(parents=True, exist_ok=True)
        cluster = cls(
            folder.resolve(), f"http://127.0.0.1:{ports['dashboard-port']}", f"127.0.0.1:{ports['port']}", nodes=[]
        )
        cluster.token_file.touch(mode=0o600)
        cluster.token_file.write_text(secrets.token_hex(32))
        ports |= {"ray-client-server-port": free_port()}
        try:
            ports_of_head = [f"--{name}={port}" for name, port in ports.items()]
            cluster._start_node(["--head", "--num-cpus=0", *options, *ports_of_head])
            cluster.wait_for_nodes(1)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def _start_node(self, options: list[str]) -> Node:
        environment = os.environ | self.environment
        # Jobs are to run in this environment, and Ray's own limit on their niceness is for machines with other work.
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        if any(option.startswith("--autoscaling-config") for option in options):
            environment["RAY_FAKE_CLUSTER"] = "1"  # as provider fake_multinode demands
        environment.pop("RAY_ADDRESS", None)
        # Short: the names of sockets in it may have 107 characters.
        own_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        own = [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={own_folder}"]
        own += [f"--node-name={Path(own_folder).name}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        with self._log() as log:
            started = subprocess.Popen(
                [*RAY, "start", "--block", *own, *options],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(started.pid, psutil.Process(started.pid).create_time(), own_folder)
        self._save([*self.nodes, node])
        return node

    def _save(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        state = {"address": self.address, "gcs_address": self.gcs_address, "nodes": [asdict(node) for node in nodes]}
        (self.folder / STATE_FILE).write_text(json.dumps(state))

    @contextmanager
    def _log(self) -> Iterator[IO[str]]:
        with (self.folder / "log").open("a") as log:
            yield log

    def _log_tail(self) -> str:
        return (self.folder / "log").read_text()[-2000:]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _autoscaling(max_workers: int, cpus: int, idle_minutes: float) -> dict[str, Any]:
    """Ray's config for nodes that are processes of one machine (provider ``fake_multinode``)."""
    worker = {"CPU": cpus, "object_store_memory": OBJECT_STORE_BYTES}
    return {
        "cluster_name": "local",
        "max_workers": max_workers,
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 100,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{GCS_PORT}",
            "launch_multiple": True,
            "use_node_id_as_ip": True,  # they all have one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": max_workers},
        },
        "head_node_type": "ray.head.default",
        # Nothing is set up and nothing copied, and Ray wants it said.
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{key: [] for key in ("initialization_commands", "setup_commands", "head_setup_commands")},
        **{key: [] for key in ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")},
    }


def _runs(process: psutil.Process) -> bool:
    """False for zombies too: whoever adopts a node's orphans may never collect them (containers without an init)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
