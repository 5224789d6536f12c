"""Settings of the embedding job."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from llmemb.config import Config, JobConfig, ModelUri, NodeLabels, Uri
from llmemb.encoder.engine import EngineKind
from llmemb.encoder.folder import ChosenPrecision
from llmemb.prompts import PromptTemplate
from llmemb.vectors import VectorDtype


class EngineConfig(Config):
    """How vectors are computed."""

    kind: EngineKind = "torch"
    """``vllm`` for encoders that need several GPUs, or more speed; it has to be installed on the workers."""
    precision: ChosenPrecision = None
    """``auto``, the default, is bf16 on GPUs and fp32 on CPUs; fp16 is for GPUs without bf16. CPUs with AVX-512 BF16 or
    AMX may be 1.8 times faster with bf16, others emulate it and crawl."""
    tokens_per_batch: int | None = Field(default=None, ge=1)
    """Tokens in one forward pass, padding included; 1,024 on CPUs and 32,768 on GPUs by default."""
    max_seq_len: int | None = Field(default=None, ge=1)
    """Longer prompts are cut; the encoder's own limit by default."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of one encoder; the cluster's CPUs shared out by default. Ignored on GPUs."""
    compile: bool = False
    """Fuses the encoder's small steps with torch.compile: minutes to start, then faster where matrix products are not
    all that there is, above all on GPUs. CPUs need a C++ compiler for it. ``kind: vllm`` compiles by itself."""
    gpus_per_worker: int = Field(default=1, ge=1)
    """GPUs that share one encoder; more than one needs ``kind: vllm``. Ignored on CPUs."""

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.compile and self.kind != "torch":
            raise ValueError(f"compile: is for kind: torch; {self.kind} compiles by itself")
        if self.gpus_per_worker > 1 and self.kind != "vllm":
            raise ValueError(f"gpus_per_worker: {self.gpus_per_worker} GPUs share one encoder with kind: vllm only")
        return self


class ParityConfig(Config):
    """The check before a snapshot is published: stored vectors against unbatched float32 ones."""

    sample_items: int = Field(default=32, ge=1)
    min_cosine: float = Field(default=0.999, gt=0, le=1)


class EmbedConfig(JobConfig):
    """Embeds the catalogue of a dataset: every item's prompt through an encoder, into a Parquet snapshot."""

    execution_keys: ClassVar[frozenset[str]] = frozenset(
        {"num_workers", "max_workers", "node_labels", "parity", "price_per_hour"}
    )

    dataset: Uri
    encoder: ModelUri
    """Any sentence-transformers folder: SCFT's output, another, or ``package://NAME/FOLDER``."""
    output: Uri
    """The root under which snapshots are published."""
    num_workers: int = Field(default=1, ge=1)
    """Encoders that work at the same time; one GPU each where the cluster has GPUs."""
    max_workers: int | None = Field(default=None, ge=1)
    """Up to so many more are started while there is work for them, so that an autoscaling cluster grows; as many as
    ``num_workers`` by default."""
    node_labels: NodeLabels = Field(default_factory=dict)
    """Those of the Ray nodes that encoders may run on, such as ``llmemb/market: spot``; any by default."""
    prompt: PromptTemplate | None = None
    """The template; SCFT's own, from ``encoder.json``, by default."""
    dtype: VectorDtype = "float16"
    dimension: int | None = Field(default=None, ge=1)
    """Keeps the first so many values of each vector, for encoders trained to be cut (Matryoshka); all by default."""
    normalize: bool | None = None
    """Whether vectors have length 1; as the encoder's folder says by default."""
    items_per_shard: int = Field(default=16384, ge=1)
    """Shards are a power of two in number. A root keeps its number, until there are four times as many items in each,
    so that an unchanged shard can be copied; set for the first snapshot of a root."""
    max_refused_share: float = Field(default=0.1, ge=0, le=1)
    """More refused items than this are a broken template or encoder, and nothing is published."""
    price_per_hour: float | None = Field(default=None, gt=0)
    """Of the whole cluster; the summary then says what a million items cost."""
    engine: EngineConfig = EngineConfig()
    parity: ParityConfig = ParityConfig()

    @model_validator(mode="after")
    def _workers_in_order(self) -> Self:
        if self.max_workers is not None and self.max_workers < self.num_workers:
            raise ValueError(f"max_workers: expected at least num_workers, {self.num_workers}, got {self.max_workers}")
        return self
