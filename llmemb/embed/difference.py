"""What one snapshot has that another has not, by item and prompt hash."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmemb import storage
from llmemb.buckets import overlapping
from llmemb.embed.snapshot import PROMPT_HASH, VECTOR_KEYS, Snapshot
from llmemb.vectors import ITEM_ID


@dataclass
class Difference:
    """Items by what happened to them, with examples; ``settings`` has what makes all vectors differ: old, new."""

    settings: dict[str, tuple[Any, Any]]
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("new", "changed", "kept", "deleted"), 0))
    examples: dict[str, list[str]] = field(default_factory=lambda: {"new": [], "changed": [], "deleted": []})


def difference(old: Snapshot, new: Snapshot, *, num_examples: int) -> Difference:
    """Compares two snapshots of a catalogue, a bucket at a time: memory does not grow with the catalogue.

    ``changed`` is an item whose prompt is another one; ``kept`` has the same prompt in both.
    """
    settings = {key: (old.manifest.get(key), new.manifest.get(key)) for key in VECTOR_KEYS}
    result = Difference({key: values for key, values in settings.items() if values[0] != values[1]})
    # Cuts are powers of two, so a file of the coarser holds what several files of the finer do.
    num_buckets = min(len(old.manifest["files"]), len(new.manifest["files"]))
    for bucket in range(num_buckets):
        before, after = _entries(old, bucket, num_buckets), _entries(new, bucket, num_buckets)
        if [entry["sha256"] for entry in before] == [entry["sha256"] for entry in after]:
            result.counts["kept"] += sum(entry["rows"] for entry in after)
        else:
            _compare(_hashes(old, before), _hashes(new, after), result, num_examples)
    return result


def _entries(snapshot: Snapshot, bucket: int, num_buckets: int) -> list[dict[str, Any]]:
    files = snapshot.manifest["files"]
    return [files[index] for index in overlapping(bucket, num_buckets, len(files))]


def _hashes(snapshot: Snapshot, entries: list[dict[str, Any]]) -> pa.Table:
    columns = [ITEM_ID, PROMPT_HASH]
    return pa.concat_tables([storage.read_table(storage.entry_uri(snapshot.uri, entry), columns) for entry in entries])


def _compare(before: pa.Table, after: pa.Table, result: Difference, num_examples: int) -> None:
    rows = pc.index_in(after.column(ITEM_ID), value_set=before.column(ITEM_ID).combine_chunks())
    known = pc.is_valid(rows)
    same = pc.equal(before.column(PROMPT_HASH).take(rows.drop_null()), after.column(PROMPT_HASH).filter(known))
    survivors = pc.is_in(before.column(ITEM_ID), value_set=after.column(ITEM_ID).combine_chunks())
    found = {
        "new": after.column(ITEM_ID).filter(pc.invert(known)),
        "changed": after.column(ITEM_ID).filter(known).filter(pc.invert(same)),
        "deleted": before.column(ITEM_ID).filter(pc.invert(survivors)),
    }
    result.counts["kept"] += pc.sum(same).as_py() or 0
    for kind, item_ids in found.items():
        result.counts[kind] += len(item_ids)
        examples = result.examples[kind]
        examples += item_ids.slice(0, num_examples - len(examples)).to_pylist()
