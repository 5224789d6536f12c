"""Stages of a job over its tasks: here one after another where the input is small, else on Ray Data.

A stage is a function from a task's number to its record, a plain JSON value; what is large goes through files in the
work folder. So a stage may run twice (Ray starts the tasks of a lost node again), anywhere, and in any order.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from llmemb import progress

Stage = Callable[[int], dict[str, Any]]


def run_stage(stage: Stage, num_tasks: int, *, description: str, on_ray: bool) -> list[dict[str, Any]]:
    """The records in the order of the tasks. One task has no progress to show."""
    if not on_ray and num_tasks == 1:
        return [stage(0)]
    records: dict[int, dict[str, Any]] = {}
    with progress.bar(description, num_tasks, "tasks") as bar:
        for task, record in _on_ray(stage, num_tasks) if on_ray else enumerate(map(stage, range(num_tasks))):
            records[task] = record
            bar.update(len(records))
    return [records[task] for task in range(num_tasks)]


def _on_ray(stage: Stage, num_tasks: int) -> Iterator[tuple[int, dict[str, Any]]]:
    from llmemb.compute.ray_data import quiet_ray_data

    def run(row: dict[str, Any]) -> dict[str, Any]:
        return {"task": row["task"], "record": json.dumps(stage(row["task"]))}

    rows = [{"task": task} for task in range(num_tasks)]
    if rows:
        for row in quiet_ray_data().from_items(rows, override_num_blocks=num_tasks).map(run).iter_rows():
            yield row["task"], json.loads(row["record"])
