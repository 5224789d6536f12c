"""Names for contents."""

import hashlib
import json
from pathlib import Path


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def checksum_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: object) -> str:
    """16 hex digits that name a JSON value: equal values, in any key order, have equal fingerprints."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
