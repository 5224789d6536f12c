"""An output folder belongs to one job, one config and one set of inputs."""

import json
from typing import Any

from llmemb import storage
from llmemb.config import JobConfig
from llmemb.errors import InputError
from llmemb.lease import LEASE_FILE
from llmemb.storage.compare_and_swap import LOCK_FILE

RECORD, CONFIG = "job.json", "config.yaml"


def claim(
    config: JobConfig, output: str, *, job: str, inputs: dict[str, str], finished_by: str, renew_inputs: bool = False
) -> bool:
    """Takes an output folder for a run; writes the resolved config there as ``config.yaml``.

    Args:
        inputs: Fingerprints of what the job reads.
        finished_by: The file whose presence says that the output is complete.
        renew_inputs: Whether an output of the same job and config may have other inputs: one that is complete stays as
            it is, any other becomes one of these.

    Returns:
        True if there is work to do, False if this very output is complete already.

    Raises:
        InputError: the folder cannot be written, or holds the output of another job, config or input.
    """
    record = storage.join(output, RECORD)
    # Read first: a record that changes from here on is not the one that is swapped below.
    found = storage.read_bytes(record) if storage.exists(record) else None
    begun = json.loads(found)["inputs"] if found and renew_inputs else inputs
    if is_finished(config, output, job=job, inputs=begun, finished_by=finished_by):
        return False
    if found is None or begun != inputs:
        storage.check_writable(output)
        content = json.dumps(_identity(config, job, inputs), indent=2, ensure_ascii=False).encode()
        if not storage.swap(record, content, found):  # another was faster: the same run, or one that is named
            return not is_finished(config, output, job=job, inputs=inputs, finished_by=finished_by)
    written = storage.join(output, CONFIG)
    if not storage.exists(written):  # also where an earlier run was killed before it came to this
        storage.write_bytes(written, config.to_yaml().encode())
    return True


def is_finished(config: JobConfig, output: str, *, job: str, inputs: dict[str, str], finished_by: str) -> bool:
    """Whether this very output is complete; takes nothing.

    Raises:
        InputError: the folder holds the output of another job, config or input.
    """
    record = storage.join(output, RECORD)
    finished = storage.exists(storage.join(output, finished_by))
    if storage.exists(record):
        theirs, mine = (_wherever(each) for each in (storage.read_json(record), _identity(config, job, inputs)))
        if theirs != mine:
            way_out = "choose another"
            if not _has_results(output):
                way_out += ", or delete it if it is not running: it has made nothing yet"
            raise InputError(f"output: {output} belongs to another run ({_difference(theirs, mine)}); {way_out}")
    elif finished:
        raise InputError(f"output: {output} holds a {finished_by} that no {job} job wrote; choose another")
    return finished


def _has_results(output: str) -> bool:
    """Whether a folder holds more than whose it is."""
    files = {storage.name(uri) for uri in storage.list_files(output)}
    return not files <= {RECORD, CONFIG, LEASE_FILE, LOCK_FILE} or bool(storage.list_folders(output))


def recorded_inputs(output: str) -> dict[str, str]:
    """The fingerprints of what the run read that an output belongs to; empty where it is nobody's yet."""
    record = storage.join(output, RECORD)
    return storage.read_json(record)["inputs"] if storage.exists(record) else {}


def _identity(config: JobConfig, job: str, inputs: dict[str, str]) -> dict[str, Any]:
    return {"job": job, "config": config.identity(), "inputs": inputs}


def _wherever(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the places of inputs: it has their fingerprints, and the same content may lie anywhere."""
    config = {key: value for key, value in record["config"].items() if key not in record["inputs"]}
    return record | {"config": config}


def _difference(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    """What is not the same, the first few; of two kinds of job everything is."""
    if theirs["job"] != mine["job"]:
        return f"job: {theirs['job']} there, {mine['job']} here"
    flat_theirs, flat_mine = dict(_leaves(theirs)), dict(_leaves(mine))
    changed = [
        f"{key}: {flat_theirs.get(key, 'unset')} there, {flat_mine.get(key, 'unset')} here"
        for key in sorted(flat_theirs.keys() | flat_mine.keys())
        if flat_theirs.get(key) != flat_mine.get(key)
    ]
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{path}.{key}" if path else str(key))]
    return [(path, value)]
