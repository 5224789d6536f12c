"""Tells Ray that EC2 takes this spot node back: python cluster/spot_notice.py

EC2 announces it two minutes before, in the instance's metadata alone, which nothing in Ray reads. Drained, the
node gets no new work, and training writes a checkpoint while it still can. RAY_ADDRESS names the cluster.
"""

import argparse
import json
import subprocess
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

METADATA = "http://169.254.169.254"
TIMEOUT_SECONDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata", default=METADATA, help="where the instance's metadata service answers")
    parser.add_argument("--every-seconds", type=float, default=5)
    arguments = parser.parse_args()
    while not _is_drained(arguments.metadata):
        time.sleep(arguments.every_seconds)


def _is_drained(metadata: str) -> bool:
    """Whether a notice has come and Ray has been told; what fails is tried again at the next look."""
    try:
        notice = read_notice(metadata)
    except OSError as error:
        print(f"spot notice: {metadata}: {error}", flush=True)
        return False
    if notice is None:
        return False
    deadline = datetime.fromisoformat(notice["time"])
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", f"EC2 will {notice['action']} this spot node at {notice['time']}"]
    seconds = max(0, int((deadline - datetime.now(UTC)).total_seconds()))
    command += ["--deadline-remaining-seconds", str(seconds)]  # of the node it runs on, which is Ray's default
    print("spot notice:", *command, flush=True)
    return subprocess.run(command, check=False).returncode == 0


def read_notice(metadata: str) -> dict[str, str] | None:
    """What EC2 will do to this instance (``action``) and when (``time``); None where it has no such plan.

    Raises:
        OSError: the metadata service does not answer, or refuses.
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _request(f"{metadata}/latest/api/token", lifetime, method="PUT")
    try:
        return json.loads(
            _request(f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
        )
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _request(url: str, headers: dict[str, str], *, method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
