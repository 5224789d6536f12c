"""What every stage of the embedding job needs to know: plain values that travel to any node."""

from dataclasses import dataclass, field
from typing import Any

from llmemb import storage
from llmemb.buckets import num_buckets
from llmemb.compute.devices import has_gpus
from llmemb.compute.nodes import cpu_threads
from llmemb.compute.request import Request
from llmemb.data.dataset import Dataset
from llmemb.embed.config import EmbedConfig
from llmemb.embed.snapshot import VECTOR_KEYS, Snapshot
from llmemb.encoder.engine import EngineKind
from llmemb.encoder.folder import EncoderFolder, Precision
from llmemb.prompts import PromptTemplate
from llmemb.vectors import VectorDtype

RECORDS_FOLDER = "_shards"
# A CPU loses to the padding of large batches and to states that outgrow its caches; a GPU starves on small ones.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 32768}
MIN_SHARDS = 8
OUTGROWN = 4


@dataclass(frozen=True)
class EncoderPlan:
    """Which encoder, and how it runs."""

    uri: str
    fingerprint: str
    kind: EngineKind
    max_seq_len: int
    precision: Precision
    normalize: bool
    dimension: int | None
    dtype: VectorDtype
    tokens_per_batch: int
    threads: int
    device: str
    gpus_per_worker: int
    compiled: bool
    num_parameters: int = 0
    node_labels: dict[str, str] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def num_gpus(self) -> int:
        """Of one encoder."""
        return self.gpus_per_worker if self.on_gpu else 0

    @property
    def request(self) -> Request:
        """What one encoder asks for; beside its GPUs a CPU."""
        return Request(cpus=1 if self.on_gpu else self.threads, gpus=self.num_gpus, labels=self.node_labels)


@dataclass(frozen=True)
class Parent:
    """The snapshot whose vectors are kept where the prompt is the same; ``files`` are its manifest's."""

    uri: str
    files: tuple[dict[str, Any], ...]
    dimension: int


@dataclass(frozen=True)
class SnapshotPlan:
    """Which items go into which shard of which snapshot."""

    uri: str
    item_files: tuple[str, ...]
    """Bucket ``i`` of ``len(item_files)`` in file ``i``."""
    num_buckets: int
    template: PromptTemplate
    encoder: EncoderPlan
    parent: Parent | None

    def shard_file(self, bucket: int) -> str:
        return f"part-{bucket:05d}.parquet"

    def shard_uri(self, bucket: int) -> str:
        return storage.join(self.uri, self.shard_file(bucket))

    def record_uri(self, bucket: int) -> str:
        """Says that the shard is complete: a rerun starts after it."""
        return storage.join(self.uri, RECORDS_FOLDER, f"part-{bucket:05d}.json")


def vector_identity(
    config: EmbedConfig, folder: EncoderFolder, encoder_fingerprint: str, *, width: int, on_gpu: bool
) -> dict[str, Any]:
    """What determines a prompt's vector, under the manifest's keys.

    Args:
        width: How many values the encoder's vectors have before any cut.
    """
    return {
        "encoder": encoder_fingerprint,
        "max_seq_len": min(config.engine.max_seq_len or folder.max_seq_len, folder.max_seq_len),
        "precision": config.engine.precision or ("bf16" if on_gpu else "fp32"),
        "dtype": config.dtype,
        "normalize": folder.normalize if config.normalize is None else config.normalize,
        "dimension": config.dimension or width,
    }


def plan_snapshot(
    config: EmbedConfig,
    dataset: Dataset,
    template: PromptTemplate,
    identity: dict[str, Any],
    parent: Snapshot | None,
    *,
    num_parameters: int,
) -> SnapshotPlan:
    """The plan of the snapshot that follows ``parent``; ``identity`` names all that determines its vectors."""
    device = "cuda" if has_gpus() else "cpu"
    max_workers = config.max_workers or config.num_workers
    encoder = EncoderPlan(
        uri=config.encoder,
        fingerprint=identity["encoder"],
        kind=config.engine.kind,
        max_seq_len=identity["max_seq_len"],
        precision=identity["precision"],
        normalize=identity["normalize"],
        dimension=config.dimension,
        dtype=config.dtype,
        tokens_per_batch=config.engine.tokens_per_batch or TOKENS_PER_BATCH[device],
        threads=config.engine.threads_per_worker or cpu_threads(max_workers, config.node_labels),
        device=device,
        gpus_per_worker=config.engine.gpus_per_worker,
        compiled=config.engine.compile,
        num_parameters=num_parameters,
        node_labels=config.node_labels,
    )
    num_shards = _num_shards(dataset.num_items, parent, config.items_per_shard)
    # Another engine does not go on with what a broken one has made.
    engine = config.engine.model_dump(include={"kind", "compile"})
    lineage = {"parent": parent.snapshot_id if parent else None, "num_shards": num_shards, "engine": engine}
    return SnapshotPlan(
        uri=storage.join(config.output, storage.fingerprint(identity | lineage)),
        item_files=tuple(dataset.item_files),
        num_buckets=num_shards,
        template=template,
        encoder=encoder,
        parent=_comparable(parent, identity),
    )


def _num_shards(num_items: int, parent: Snapshot | None, items_per_shard: int) -> int:
    """The parent's number, so that shards can be copied, unless the catalogue has outgrown it."""
    if parent is not None and num_items <= OUTGROWN * items_per_shard * len(parent.manifest["files"]):
        return len(parent.manifest["files"])
    return num_buckets(num_items, items_per_bucket=items_per_shard, at_least=MIN_SHARDS)


def _comparable(parent: Snapshot | None, identity: dict[str, Any]) -> Parent | None:
    """The parent if its vectors are what this job would make of the same prompts."""
    if parent is None:
        return None
    for key in VECTOR_KEYS:
        there, here = parent.manifest.get(key), identity[key]
        if there != here:
            print(f"embed: every item is new: {parent.uri} has {key} {there}, this job {here}")
            return None
    return Parent(parent.uri, tuple(parent.manifest["files"]), parent.embedding_dim)
