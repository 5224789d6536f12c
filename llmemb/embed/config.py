"""Settings of the embedding job."""

from typing import ClassVar

from pydantic import Field

from llmemb.config import Config, JobConfig
from llmemb.encoder.engine import Precision
from llmemb.prompts import PromptTemplate
from llmemb.vectors import VectorDtype


class EngineConfig(Config):
    """How vectors are computed."""

    precision: Precision | None = None
    """bf16 on GPUs and fp32 on CPUs by default; CPUs with AVX-512 BF16 or AMX are 1.8 times faster with bf16, others
    emulate it and crawl."""
    tokens_per_batch: int | None = Field(default=None, ge=1)
    """Padded tokens in one forward pass; 2,048 on CPUs and 32,768 on GPUs by default."""
    max_seq_len: int | None = Field(default=None, ge=1)
    """Longer prompts are cut; the encoder's own limit by default."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of one encoder; the cluster's CPUs shared out by default. Ignored on GPUs."""


class ParityConfig(Config):
    """The check before a snapshot is published: stored vectors against unbatched float32 ones."""

    sample_items: int = Field(default=32, ge=1)
    min_cosine: float = Field(default=0.999, gt=0, le=1)


class EmbedConfig(JobConfig):
    """Embeds the catalogue of a dataset: every item's prompt through an encoder, into a Parquet snapshot."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_workers", "parity"})
    uri_keys: ClassVar[frozenset[str]] = frozenset({"dataset", "output"})

    dataset: str
    encoder: str
    """Any sentence-transformers folder: SCFT's output, another, or ``package://NAME/FOLDER``."""
    output: str
    """The root under which snapshots are published."""
    num_workers: int = Field(default=1, ge=1)
    """Encoders that work at the same time; one GPU each where the cluster has GPUs."""
    prompt: PromptTemplate | None = None
    """The template; SCFT's own, from ``encoder.json``, by default."""
    dtype: VectorDtype = "float16"
    engine: EngineConfig = EngineConfig()
    parity: ParityConfig = ParityConfig()
