"""Stages of a job over its tasks: here one after another where the input is small, else on Ray Data.

A stage is a function from one task to its record, both plain JSON values; what is large goes through files in the
work folder. So a stage may run twice (Ray starts the tasks of a lost node again), anywhere, and in any order.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmemb import progress

Stage = Callable[[Any], dict[str, Any]]


def run_stage(stage: Stage, tasks: Sequence[Any], *, description: str, on_ray: bool) -> list[dict[str, Any]]:
    """The records in the order of the tasks. One task has no progress to show."""
    if not on_ray and len(tasks) == 1:
        return [stage(tasks[0])]
    records: dict[int, dict[str, Any]] = {}
    with progress.bar(description, len(tasks), "tasks") as bar:
        for index, record in _on_ray(stage, tasks) if on_ray else enumerate(map(stage, tasks)):
            records[index] = record
            bar.update(len(records))
    return [records[index] for index in range(len(tasks))]


def _on_ray(stage: Stage, tasks: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    from llmemb.compute.ray_data import quiet_ray_data

    def run(row: dict[str, Any]) -> dict[str, Any]:
        return {"index": row["index"], "record": json.dumps(stage(json.loads(row["task"])))}

    rows = [{"index": index, "task": json.dumps(task)} for index, task in enumerate(tasks)]
    if rows:
        for row in quiet_ray_data().from_items(rows, override_num_blocks=len(rows)).map(run).iter_rows():
            yield row["index"], json.loads(row["record"])
