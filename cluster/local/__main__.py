"""``python -m cluster.local up | down``: a cluster on this machine, with one command."""

import argparse
import os
import sys
from pathlib import Path

from cluster.local.nodes import LocalCluster

FOLDER = Path(os.environ.get("LLMEMB_RUNS", "runs")) / "cluster"
DASHBOARD_PORT = 8265


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description="A Ray cluster on this machine.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where its token, log and state are (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a head and workers, and say how to submit")
    up.add_argument("--workers", type=int, default=2, help="beside the head; with --autoscaling at most (%(default)s)")
    up.add_argument("--cpus", type=int, default=2, help="that each node says to have (%(default)s)")
    up.add_argument("--autoscaling", action="store_true", help="start workers when work waits, stop them when idle")
    up.add_argument("--idle-seconds", type=float, default=60, help="after which a worker goes (%(default)s)")
    up.add_argument("--port", type=int, default=DASHBOARD_PORT, help="of the dashboard and of jobs (%(default)s)")
    commands.add_parser("down", help="stop what `up` has started")
    arguments = parser.parse_args()
    return _up(arguments) if arguments.command == "up" else _down(arguments.folder)


def _up(arguments: argparse.Namespace) -> int:
    running = LocalCluster.open(arguments.folder)
    if running is not None and running.nodes[0].processes():
        print(f"error: a cluster is up already at {running.address}: expected `down` before `up`", file=sys.stderr)
        return 2
    # Jobs on the cluster have working directories of their own: what the presets call runs/ has to be absolute there.
    os.environ["LLMEMB_RUNS"] = os.path.abspath(os.environ.get("LLMEMB_RUNS", "runs"))
    try:
        if arguments.autoscaling:
            cluster = LocalCluster.start_autoscaling(
                arguments.folder,
                max_workers=arguments.workers,
                cpus=arguments.cpus,
                idle_seconds=arguments.idle_seconds,
                dashboard_port=arguments.port,
            )
        else:
            cluster = LocalCluster.start(
                arguments.folder, num_workers=arguments.workers, cpus=arguments.cpus, dashboard_port=arguments.port
            )
    except RuntimeError as error:
        print(f"error: the cluster did not start: {error}", file=sys.stderr)
        return 1
    up_to = "up to " if arguments.autoscaling else ""
    settings = " ".join(f"{key}={value}" for key, value in cluster.environment.items())
    print(f"a head and {up_to}{arguments.workers} workers of {arguments.cpus} CPUs each: {cluster.address}")
    print(f"  export {settings}")
    in_place = " --in-place" if arguments.autoscaling else ""  # its nodes share a folder for what is uploaded
    print(f"  llmemb submit embed{in_place} --address {cluster.address} --config jobs/configs/demo/embed.yaml")
    print(f"down: python -m cluster.local --folder {arguments.folder} down")
    return 0


def _down(folder: Path) -> int:
    cluster = LocalCluster.open(folder)
    if cluster is None:
        print(f"no cluster was started in {folder}")
        return 0
    cluster.stop()
    print("the cluster is down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
