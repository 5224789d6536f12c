"""The embedding job: item files → tokens → vectors → shards → a published snapshot."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from llmemb import __version__, progress, storage
from llmemb.cluster import connect, cpu_threads, has_gpus, quiet_ray_data
from llmemb.data.dataset import Dataset
from llmemb.embed.config import EmbedConfig
from llmemb.embed.parity import check_parity
from llmemb.embed.shards import RECORDS_FOLDER, EncodeShard, ShardPlan, record_uri, tokenize_items, write_refused
from llmemb.embed.snapshot import Snapshot, latest_id, point_latest, publish
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.errors import InputError
from llmemb.prompts import PromptTemplate
from llmemb.vectors import MANIFEST_FILE

# A CPU gains nothing from large batches and loses to their padding; a GPU starves on small ones.
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}


def run_embed(config: EmbedConfig) -> None:
    """Embeds a dataset's catalogue and publishes the snapshot; one that stands already is only pointed at.

    The snapshot's id is the fingerprint of all that determines its vectors, so a rerun of a job that was cut off goes
    on in the same folder, after the shards that are complete, and another catalogue or encoder never mixes with it.

    Raises:
        InputError: no such dataset or encoder, a prompt attribute that the catalogue lacks, nothing to embed.
    """
    dataset = Dataset.open(config.dataset)
    with local_folder(config.encoder) as path:
        folder = EncoderFolder.read(path)
        encoder_fingerprint = folder.fingerprint()
    template = _template(config, folder)
    template.check_columns(dataset.item_columns, config.dataset)
    storage.check_writable(config.output)
    connect()
    identity: dict[str, Any] = {
        "catalogue": dataset.catalogue_fingerprint,
        "encoder": encoder_fingerprint,
        "prompt_template": template.model_dump(mode="json"),
        "max_seq_len": min(config.engine.max_seq_len or folder.max_seq_len, folder.max_seq_len),
        "precision": config.engine.precision or ("bf16" if has_gpus() else "fp32"),
        "dtype": config.dtype,
        "normalize": folder.normalize,
    }
    uri = storage.join(config.output, storage.fingerprint(identity))
    if storage.exists(storage.join(uri, MANIFEST_FILE)):
        point_latest(config.output, storage.name(uri))
        print(f"embeddings: {uri} is published already; LATEST names it")
        return
    storage.write_bytes(storage.join(uri, "config.yaml"), config.to_yaml().encode())

    plan = _plan(config, uri, template, identity)
    records = _encode(dataset, plan, config.num_workers)
    manifest = identity | _totals(records, dataset)
    manifest |= {"snapshot_id": storage.name(uri), "parent": latest_id(config.output), "llmemb": __version__}
    manifest |= {"created_at": datetime.now(UTC).isoformat(timespec="seconds"), "encoder_uri": config.encoder}
    manifest["parity"] = check_parity(Snapshot(uri, manifest), dataset, plan, config.parity)
    manifest["refused_file"] = write_refused(uri, records)
    snapshot = publish(config.output, manifest)
    storage.remove(storage.join(uri, RECORDS_FOLDER))
    _summarise(snapshot)


def _template(config: EmbedConfig, folder: EncoderFolder) -> PromptTemplate:
    if config.prompt is not None:
        return config.prompt
    if "prompt_template" not in folder.info():
        raise InputError(f"prompt: {config.encoder} carries no template of its own; expected one in the config")
    return PromptTemplate.model_validate(folder.info()["prompt_template"])


def _plan(config: EmbedConfig, uri: str, template: PromptTemplate, identity: dict[str, Any]) -> ShardPlan:
    return ShardPlan(
        encoder=config.encoder,
        snapshot=uri,
        template=template,
        max_seq_len=identity["max_seq_len"],
        precision=identity["precision"],
        tokens_per_batch=config.engine.tokens_per_batch or TOKENS_PER_BATCH["cuda" if has_gpus() else "cpu"],
        dtype=config.dtype,
        threads=config.engine.threads_per_worker or cpu_threads(config.num_workers),
        device="cuda" if has_gpus() else "cpu",
    )


def _encode(dataset: Dataset, plan: ShardPlan, num_workers: int) -> list[dict[str, Any]]:
    """The records of all shards: those that an earlier run finished, and those made now."""
    todo, records = [], []
    for index, items in enumerate(dataset.item_files):
        shard = f"part-{index:05d}.parquet"
        if storage.exists(record_uri(plan.snapshot, shard)):
            records.append(storage.read_json(record_uri(plan.snapshot, shard)))
        else:
            todo.append({"shard": shard, "items": items})
    with progress.bar("embed", total=dataset.num_items, unit="items") as bar:
        bar.update(sum(map(_items, records)))
        for record in _stream(todo, plan, num_workers):
            records.append(record)
            bar.update(bar.done + _items(record), padding=f"{record['padding_share']:.1%}")
    return sorted(records, key=lambda record: record["entry"]["file"])


def _stream(todo: list[dict[str, str]], plan: ShardPlan, num_workers: int) -> Iterator[dict[str, Any]]:
    if not todo:
        return
    data = quiet_ray_data()
    # On a CPU cluster the encoders hold every core; a tokenizer takes about 1 % of their time and waits for no slot.
    on_gpu = plan.device == "cuda"
    shards = data.from_items(todo, override_num_blocks=len(todo))
    shards = shards.map(tokenize_items, fn_kwargs={"plan": plan}, num_cpus=1 if on_gpu else 0)
    shards = shards.map(
        EncodeShard,
        fn_constructor_args=(plan,),
        compute=data.ActorPoolStrategy(size=num_workers),
        num_cpus=1 if on_gpu else plan.threads,
        num_gpus=1 if on_gpu else 0,
    )
    for row in shards.iter_rows():
        yield json.loads(row["record"])


def _items(record: dict[str, Any]) -> int:
    return record["entry"]["rows"] + len(record["refused"])


def _totals(records: list[dict[str, Any]], dataset: Dataset) -> dict[str, Any]:
    total = sum(record["entry"]["rows"] for record in records)
    refused = sum(len(record["refused"]) for record in records)
    if total == 0:
        raise InputError(f"dataset: {dataset.uri}: none of its {refused} items has a value for the prompt's attributes")
    return {
        "format": 1,
        "dataset": dataset.fingerprint,
        "dimension": records[0]["dimension"],
        "counts": {"total": total, "new": total, "changed": 0, "kept": 0, "deleted": 0, "refused": refused},
        "encoded": {"items": total, "tokens": sum(record["tokens"] for record in records)},
        "files": [record["entry"] for record in records],
    }


def _summarise(snapshot: Snapshot) -> None:
    manifest = snapshot.manifest
    counts = manifest["counts"]
    print(
        f"embeddings: {snapshot.uri}: {counts['total']:,} items x {manifest['dimension']} {manifest['dtype']}, "
        f"{counts['refused']:,} refused, {manifest['encoded']['tokens']:,} tokens, "
        f"cosine to unbatched float32 ≥ {manifest['parity']['min_cosine']:.5f}"
    )
