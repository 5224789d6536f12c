"""Ray Train's record of a run's checkpoints, which it writes in place: a kill can leave it cut off."""

import json
from contextlib import suppress
from typing import Any

from llmemb import storage
from llmemb.errors import TemporaryError

RECORD = "checkpoint_manager_snapshot.json"
"""As Ray Train calls it."""
COPY = "checkpoint_manager_snapshot.copy.json"


def mend(folder: str) -> None:
    """Puts the copy in the place of a record that is cut off; without a copy there is no record any more."""
    record, copy = storage.join(folder, RECORD), storage.join(folder, COPY)
    if not storage.exists(record) or _is_whole(storage.read_bytes(record)):
        return
    if storage.exists(copy):
        print(
            "training: the record of its checkpoints was cut off: it goes on from the one before the last", flush=True
        )
        storage.write_bytes(record, storage.read_bytes(copy))
    else:
        print("training: the record of its checkpoints was cut off: it begins again", flush=True)
        storage.remove(record)


def keeping_a_copy(folder: str) -> Any:
    """A callback that copies the record after each report: checkpoints that the copy names go only after the next."""
    import ray.train

    class KeepCopy(ray.train.UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            if checkpoint is not None:
                with suppress(TemporaryError):  # the training goes on without it, and the next report writes it
                    storage.write_bytes(storage.join(folder, COPY), storage.read_bytes(storage.join(folder, RECORD)))

    return KeepCopy()


def _is_whole(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
