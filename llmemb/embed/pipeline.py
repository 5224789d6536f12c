"""The embedding job: what changed → tokens → vectors → shards → a published snapshot."""

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from llmemb import __version__, progress, storage
from llmemb.compute.connection import connect
from llmemb.compute.devices import has_gpus
from llmemb.compute.nodes import check_room, say_if_waiting
from llmemb.compute.ray_data import quiet_actor_pools, quiet_ray_data
from llmemb.data.dataset import Dataset
from llmemb.embed.config import EmbedConfig
from llmemb.embed.meter import Meter, Stint, describe, total_work
from llmemb.embed.parity import check_parity, check_parity_fits
from llmemb.embed.plan import RECORDS_FOLDER, SnapshotPlan, plan_snapshot, vector_identity
from llmemb.embed.records import REFUSED_FILE, Records, encoded_buckets, read_records, write_refused
from llmemb.embed.shards import EncodeBucket, compare, tokenize_bucket, write_shard
from llmemb.embed.snapshot import FORMAT, Snapshot, check_files, is_published, latest, point_latest, publish
from llmemb.encoder.folder import EncoderFolder, local_folder, tokenizer_fingerprint
from llmemb.errors import InputError, TemporaryError
from llmemb.prompts import PromptTemplate


def run_embed(config: EmbedConfig) -> None:
    """Embeds what changed in a dataset's catalogue since the root's newest snapshot, keeps the rest, and publishes.

    A snapshot's id is the fingerprint of its parent, its number of shards, its engine and all that determines its
    vectors. So a rerun of a job that was cut off goes on in the same folder, after the shards that are complete, and
    another catalogue, encoder or engine never mixes with it.

    Raises:
        InputError: no such dataset or encoder, a prompt attribute that the catalogue lacks, nothing to embed, vectors
            that fail the parity check, or another run that published first. LATEST has not been moved then.
    """
    dataset = Dataset.open(config.dataset)
    with local_folder(config.encoder) as path:
        folder = EncoderFolder.read(path)
        encoder_fingerprint, num_parameters = folder.checked_fingerprint(), folder.num_parameters
        width = folder.embedding_dim
    template = _template(config, folder)
    template.check_columns(dataset.item_columns, config.dataset)
    storage.check_writable(config.output)
    connect()
    parent = latest(config.output)
    identity = vector_identity(config, folder, encoder_fingerprint, width=width, on_gpu=has_gpus())
    identity |= {"catalogue": dataset.catalogue_fingerprint, "prompt_template": template.model_dump(mode="json")}
    if template.tokenizer is not None:  # which may be replaced where it is
        identity["prompt_tokenizer"] = tokenizer_fingerprint(template.tokenizer)
    if parent is not None and identity.items() <= parent.manifest.items():
        _remove_records(parent.uri)  # of a run that was killed just before it would have done so
        print(f"embeddings: {parent.uri} is published already; LATEST names it")
        return
    plan = plan_snapshot(config, dataset, template, identity, parent, num_parameters=num_parameters)
    if not is_published(plan.uri):
        storage.write_bytes(storage.join(plan.uri, "config.yaml"), config.to_yaml().encode())
        try:
            manifest = _make(config, dataset, plan, identity | {"parent": parent.snapshot_id if parent else None})
        except InputError:
            if not is_published(plan.uri):
                raise
            # Another run of this job was faster, and has taken away the records that this one was reading.
    if is_published(plan.uri):
        point_latest(config.output, storage.name(plan.uri), parent)
        _remove_records(plan.uri)
        print(f"embeddings: another run of this job published {plan.uri}; LATEST names it")
        return
    is_mine = publish(config.output, manifest, parent)
    _remove_records(plan.uri)
    print(_described(plan.uri, manifest) if is_mine else f"embeddings: another run of this job published {plan.uri}")


def _make(config: EmbedConfig, dataset: Dataset, plan: SnapshotPlan, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes all that the manifest names, and returns the manifest: these facts, and what was written."""
    records = _make_shards(config, dataset, plan)
    check_files(plan.uri, [record["entry"] for record in records.values()])  # before any of them is read
    manifest = facts | _summary(records, dataset, plan)
    manifest["refused_file"] = write_refused(plan, [i for i, record in records.items() if record["counts"]["refused"]])
    _check_refused(manifest["counts"], plan.uri, config.max_refused_share)
    manifest["parity"] = check_parity(Snapshot(plan.uri, manifest), plan, encoded_buckets(records), config.parity)
    return manifest


def _template(config: EmbedConfig, folder: EncoderFolder) -> PromptTemplate:
    if config.prompt is not None:
        return config.prompt
    if "prompt_template" not in folder.info():
        raise InputError(f"prompt: {config.encoder} carries no template of its own; expected one in the config")
    return PromptTemplate.model_validate(folder.info()["prompt_template"])


def _make_shards(config: EmbedConfig, dataset: Dataset, plan: SnapshotPlan) -> Records:
    """The records of all shards: an earlier run's, those of the parent's vectors alone, and those encoded now."""
    records = read_records(plan)
    if records:
        print(f"embed: goes on after {len(records):,} finished shards of {plan.num_buckets:,}")
    todo = [bucket for bucket in range(plan.num_buckets) if bucket not in records]
    num_fresh = dataset.num_items - sum(map(_items, records.values()))
    if plan.parent is not None:
        fresh = _compare(todo, plan, records)
        todo, num_fresh = [bucket for bucket in todo if bucket not in records], sum(fresh.values())
    if todo:
        _encode(config, plan, todo, num_fresh, records)
    return dict(sorted(records.items()))


def _compare(todo: list[int], plan: SnapshotPlan, records: Records) -> dict[int, int]:
    """How many items of each bucket are to be encoded; adds the records of the shards of which nothing is."""
    fresh: dict[int, int] = {}
    with progress.bar("compare", total=len(todo), unit="shards") as bar:
        if todo:
            rows = quiet_ray_data().from_items([{"bucket": bucket} for bucket in todo], override_num_blocks=len(todo))
            for row in rows.map(compare, fn_kwargs={"plan": plan}).iter_rows():
                fresh[row["bucket"]] = row["num_fresh"]
                if row["record"]:
                    records[row["bucket"]] = json.loads(row["record"])
                bar.update(len(fresh), to_encode=sum(fresh.values()))
    return fresh


def _encode(config: EmbedConfig, plan: SnapshotPlan, todo: list[int], num_fresh: int, records: Records) -> None:
    check_parity_fits(plan.encoder)
    started = time.monotonic()
    stints = []
    with (
        quiet_actor_pools(),
        progress.remote_bar("embed", total=num_fresh, unit="items", board_class=Meter) as meter,
    ):
        for record in _stream(config, plan, todo, meter):
            records[record["bucket"]] = record
            stints.append(Stint(*record["stint"]))
    if total_work(stints).items:
        print(describe(stints, time.monotonic() - started, config.price_per_hour))


def _stream(config: EmbedConfig, plan: SnapshotPlan, todo: list[int], meter: Any) -> Iterator[dict[str, Any]]:
    data = quiet_ray_data()
    min_workers, max_workers = (
        min(workers, len(todo)) for workers in (config.num_workers, config.max_workers or config.num_workers)
    )
    encoder = plan.encoder
    check_room("embed", encoder.request, setting="engine.threads_per_worker")
    say_if_waiting("embed", min_workers, encoder.request)
    tokenise: dict[str, Any] = {"num_cpus": 1}
    write = tokenise
    if not encoder.on_gpu:
        # The encoders hold every core; the other stages take a few percent of their time and no slot. Tokenisers are
        # few: each loads as much as an encoder.
        tokenise = {"num_cpus": 0, "compute": data.TaskPoolStrategy(size=1 + max_workers // 8)}
        write = {"num_cpus": 0, "compute": data.TaskPoolStrategy(size=max_workers + 1)}
    rows = data.from_items([{"bucket": bucket} for bucket in todo], override_num_blocks=len(todo))
    rows = rows.map(tokenize_bucket, fn_kwargs={"plan": plan}, **tokenise)
    rows = rows.map(
        EncodeBucket,
        fn_constructor_args=(encoder, meter),
        compute=data.ActorPoolStrategy(min_size=min_workers, max_size=max_workers),
        **encoder.request.options,
    )
    rows = rows.map(write_shard, fn_kwargs={"plan": plan}, **write)
    for row in rows.iter_rows():
        yield json.loads(row["record"])


def _items(record: dict[str, Any]) -> int:
    return record["entry"]["rows"] + record["counts"]["refused"]


def _summary(records: Records, dataset: Dataset, plan: SnapshotPlan) -> dict[str, Any]:
    work = total_work([Stint(*record["stint"]) for record in records.values() if record["stint"]])
    names = ("new", "changed", "kept", "deleted", "refused")
    counts = {name: sum(record["counts"][name] for record in records.values()) for name in names}
    return {
        "format": FORMAT,
        "snapshot_id": storage.name(plan.uri),
        "created_at": datetime.now(UTC).isoformat(),
        "dataset": dataset.fingerprint,
        "encoder_uri": plan.encoder.uri,
        "dimension": records[0]["dimension"],
        "counts": {"total": counts["new"] + counts["changed"] + counts["kept"], **counts},
        "encoded": {"items": work.items, "tokens": work.tokens},
        "files": [record["entry"] for record in records.values()],
        "llmemb": __version__,
    }


def _check_refused(counts: dict[str, int], uri: str, max_share: float) -> None:
    share = counts["refused"] / max(1, counts["total"] + counts["refused"])
    if share > max_share or not counts["total"]:
        raise InputError(
            f"embed: {counts['refused']:,} items could not be embedded, {share:.1%} of all; expected at most "
            f"{max_share:.1%} (max_refused_share); {uri}/{REFUSED_FILE} says why; nothing is published"
        )


def _remove_records(uri: str) -> None:
    with contextlib.suppress(InputError, TemporaryError):  # the snapshot stands, and no reader looks at them
        storage.remove(storage.join(uri, RECORDS_FOLDER))


def _described(uri: str, manifest: dict[str, Any]) -> str:
    counts = manifest["counts"]
    shown = ", ".join(f"{counts[name]:,} {name}" for name in ("new", "changed", "kept", "deleted", "refused"))
    cosine = manifest["parity"]["min_cosine"]
    checked = "nothing encoded" if cosine is None else f"cosine to unbatched float32 ≥ {cosine:.5f}"
    vectors = f"{counts['total']:,} items x {manifest['dimension']} {manifest['dtype']}"
    return f"embeddings: {uri}: {vectors} ({shown}), {checked}"
