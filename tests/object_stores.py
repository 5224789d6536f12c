"""Real S3 servers for tests, behind one endpoint; the bucket decides how the store behaves.

    s3://plain               rclone: a real S3 server that ignores conditional puts
    s3://conditional         moto: honours them
    s3://faulty              rclone again, but requests are throttled, cut, lost or slowed, by a seeded draw
    s3://faulty-conditional  moto, the same way

One endpoint, fixed when the session begins, so that Ray's workers know it from their environment whenever they started.
"""

import contextlib
import http.client
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PLAIN, CONDITIONAL = ("plain", "faulty"), ("conditional", "faulty-conditional")
ACCESS_KEY, SECRET_KEY = "llmemb-test-access-key", "llmemb-test-secret-key"
STARTUP_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PORT = int(os.environ.get("LLMEMB_TEST_STORE_PORT") or free_port())
# The developer's own credentials and endpoint play no part in tests.
os.environ.update(
    AWS_ENDPOINT_URL=f"http://127.0.0.1:{PORT}",
    AWS_ACCESS_KEY_ID=ACCESS_KEY,
    AWS_SECRET_ACCESS_KEY=SECRET_KEY,
    AWS_DEFAULT_REGION="us-east-1",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    AWS_EC2_METADATA_DISABLED="true",
    AWS_REQUEST_CHECKSUM_CALCULATION="when_required",
    AWS_RESPONSE_CHECKSUM_VALIDATION="when_required",
)


class Faults:
    """Draws what happens to each request to a faulty bucket, and counts it."""

    KINDS = ("throttled", "reset before", "reset after", "cut", "slow")

    def __init__(self, share: float = 0.15, seed: int = 0) -> None:
        self.share = share
        self.counts: Counter[str] = Counter()
        self.read_only: set[str] = set()
        """Pieces of keys: in any bucket, what has one of them may be read and not written."""
        self.lost_answers: list[tuple[str, str]] = []
        """Methods and pieces of URLs: in any bucket, the answer to the next request that has both is lost."""
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> str:
        with self._lock:
            kind = self._random.choice(self.KINDS) if self._random.random() < self.share else "none"
            self.counts[kind] += 1
            return kind

    def loses_answer(self, method: str, path: str) -> bool:
        with self._lock:
            for lost in self.lost_answers:
                if lost[0] == method and lost[1] in path:
                    self.lost_answers.remove(lost)
                    return True
        return False

    def denies(self, method: str, path: str) -> bool:
        return method in ("PUT", "POST", "DELETE") and any(piece in path for piece in self.read_only)


class _Handler(BaseHTTPRequestHandler):
    """Passes a request on to the server of its bucket."""

    protocol_version = "HTTP/1.1"
    upstreams: tuple[int, int]
    faults: Faults

    def _forward(self) -> None:
        bucket = self.path.lstrip("/").split("/")[0].split("?")[0]
        fault = self.faults.draw() if bucket.startswith("faulty") else "none"
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.faults.denies(self.command, self.path):
            self._answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
            return
        if fault == "reset before":
            self._reset()
            return
        if fault == "throttled":
            self._answer(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>")
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstreams[bucket in CONDITIONAL])
        upstream.request(self.command, self.path, content, dict(self.headers.items()))
        response = upstream.getresponse()
        body, headers = response.read(), dict(response.getheaders())
        upstream.close()
        if fault == "reset after" or self.faults.loses_answer(self.command, self.path):
            self._reset()
        else:
            self._answer(response.status, headers, body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: str = "none") -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(key, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        half = len(body) // 2
        if fault == "cut" and body:
            self.wfile.write(body[:half])
            self._reset()
            return
        self.wfile.write(body[:half])
        if fault == "slow":
            self.wfile.flush()
            time.sleep(0.2)
        self.wfile.write(body[half:])

    def _reset(self) -> None:
        """Drops the connection without a word: the client sees a reset, not an end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the connection was dropped above
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def object_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """The three stores; yields the faults of the faulty one, to set their share and to count them."""
    folder = tmp_path_factory.mktemp("stores")
    for bucket in PLAIN:
        (folder / bucket).mkdir()
    rclone, moto = free_port(), free_port()
    executable = shutil.which("rclone", path=str(Path(sys.executable).parent)) or "rclone"
    serve = [executable, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{rclone}"]
    commands = [
        [*serve, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", os.devnull],
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(moto)],
    ]
    servers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    faults = Faults()
    handler = type("Handler", (_Handler,), {"upstreams": (rclone, moto), "faults": faults})
    proxy = ThreadingHTTPServer(("127.0.0.1", PORT), handler)
    proxy.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that were cut off do not wait
    try:
        for port, server in zip((rclone, moto), servers, strict=True):
            _wait_for(port, server)
        for bucket in CONDITIONAL:
            _create_bucket(moto, bucket)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield faults
    finally:
        proxy.shutdown()
        proxy.server_close()
        for server in servers:
            server.terminate()
            server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{server.args!r} does not listen on port {port}")


def _create_bucket(port: int, bucket: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/{bucket}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=x/1/us-east-1/s3"})
    assert connection.getresponse().status == 200
    connection.close()
