"""The watcher against a metadata service of our own, and a ``ray`` that writes down what it is asked."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

WATCHER = Path(__file__).resolve().parents[2] / "cluster" / "spot_notice.py"
LOOKS_BEFORE_THE_NOTICE = 3


class Metadata(ThreadingHTTPServer):
    """Wants a token, has no notice at first, and fails once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.looks = 0
        self.time = (datetime.now(UTC) + timedelta(seconds=120)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Answers(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if known else 400, "a-token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            return self._answer(401)
        if self.path != "/latest/meta-data/spot/instance-action":
            return self._answer(400)
        self.server.looks += 1
        if self.server.looks == 1:
            return self._answer(500)
        if self.server.looks <= LOOKS_BEFORE_THE_NOTICE:
            return self._answer(404)
        return self._answer(200, json.dumps({"action": "terminate", "time": self.server.time}))

    def _answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_notice_drains_the_node_by_its_time_however_often_ray_fails_first(metadata, tmp_path):
    ray = tmp_path / "ray"
    ray.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/asked\ntest $(grep -c drain-node {tmp_path}/asked) = 2\n'
    )
    ray.chmod(0o755)
    url = f"http://127.0.0.1:{metadata.server_port}"
    watcher = subprocess.run(
        [sys.executable, str(WATCHER), "--metadata", url, "--every-seconds", "0.01"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"spot notice: {url}: HTTP Error 500" in watcher.stdout
    asked = (tmp_path / "asked").read_text().splitlines()
    assert metadata.looks == LOOKS_BEFORE_THE_NOTICE + 2
    assert len(asked) == 2 * 7
    assert asked[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert asked[3:6] == [
        "--reason-message",
        f"EC2 will terminate this spot node at {metadata.time}",
        "--deadline-remaining-seconds",
    ]
    assert 60 < int(asked[6]) <= 120


def test_ray_knows_the_options():
    from ray.scripts.scripts import drain_node

    options = {name for parameter in drain_node.params for name in parameter.opts}
    assert {"--reason", "--reason-message", "--deadline-remaining-seconds"} <= options
    [reason] = [parameter for parameter in drain_node.params if parameter.name == "reason"]
    assert "DRAIN_NODE_REASON_PREEMPTION" in reason.type.choices
    [node] = [parameter for parameter in drain_node.params if parameter.name == "node_id"]
    assert not node.required
