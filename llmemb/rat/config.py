"""Settings of the RAT job."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from llmemb.config import Config, JobConfig, ModelUri, NodeLabels, Uri
from llmemb.prompts import PromptTemplate
from llmemb.rat.adapter import AdapterStart
from llmemb.rat.criterion import CriterionName
from llmemb.rat.scaling import Scaling
from llmemb.srs.backbone import find_backbone
from llmemb.srs.encoder import Similarity


class ModelConfig(Config):
    """The sequential recommender."""

    hidden_dim: int = Field(default=64, ge=1)
    """Length of the final item embeddings."""
    num_blocks: int = Field(default=2, ge=1)
    num_heads: int = Field(default=1, ge=1)
    max_seq_len: int = Field(default=50, ge=1)
    """A history's newest items that are read."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    similarity: Similarity = "cosine"
    """How states meet items: ``cosine`` over a temperature, or ``dot`` (SASRec's own)."""
    temperature: float = Field(default=0.07, gt=0)
    """Divides cosines; ``dot`` does not use it."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"expected hidden_dim divisible by num_heads = {self.num_heads}")
        return self


class AdapterConfig(Config):
    """From LLM embeddings to item embeddings (method llmemb)."""

    kind: Literal["linear", "mlp", "paper", "pca"] = "linear"
    """``paper`` is two linear layers with nothing between, at random initial weights; ``pca`` is the projection on the
    principal components, and nothing of it is trained (the ablation without adapter)."""
    start: AdapterStart = "pca"
    """Whether ``linear`` and ``mlp`` start as the projection on principal components or, as ``paper``, at random."""
    scaling: Scaling = "standardise"
    """What the frozen table goes through first; raw LLM embeddings share one direction and hardly differ in others."""
    start_length: float = Field(default=0.3, gt=0)
    """How long adapted vectors are at first, in the mean; ID vectors have more of a say beside short ones."""
    learning_rate_factor: float = Field(default=0.05, ge=0)
    """The adapter's rate in that of all else: a fast one follows the popular items and forgets the text."""
    freeze_embeddings: bool = True
    """Off, the LLM's own table is trained too, from where it stands (the ablation without freezing)."""
    add_ids: bool = True
    """Adds a trainable vector per item, zero at first, for what text does not say; off in the paper."""


class AlignmentConfig(Config):
    """Keeps the adapted items near the ID-only recommender's (the paper's collaborative alignment)."""

    loss: Literal["info_nce", "paper"] = "info_nce"
    weight: float = Field(default=0.0, ge=0)
    """The paper's gamma, 0.01 there, for its own loss. Off by default, since it has not been seen to help
    (docs/experiments.md); InfoNCE begins to tell at about 0.03. On, an ID-only recommender is trained first."""
    temperature: float = Field(default=0.1, gt=0)
    popularity_power: float = Field(default=0.0, ge=0)
    """An item's loss counts as its training interactions to this power: IDs know most of the popular ones."""


class ContentConfig(Config):
    """How it is learnt which content follows which (methods llmemb and text_sum), before the recommender's training."""

    epochs: int = Field(default=3, ge=0)
    """Passes over the sequences; with 0 the whitened embeddings are compared as they are."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """At first; falls linearly to zero."""
    popularity_offset: float = Field(default=0.8, ge=0, le=1)
    """As in the training; more of it here, since content is there for the tail."""
    max_users: int = Field(default=100_000, ge=1)
    """Users, at most, from whose sequences it is learnt, drawn by the seed: the maps know no item, and a position costs
    more here than in the training."""
    batch_positions: int = Field(default=1024, ge=1)
    """Positions to predict in a global batch, over all workers."""


class Llm2xConfig(Config):
    """How the table starts (method llm2x)."""

    scaling: Scaling = "standardise"
    """What the embeddings go through before the principal components are taken."""
    start_length: float = Field(default=0.3, gt=0)
    """The root mean square length of the vectors that training starts from; short ones turn sooner."""


class MeltConfig(Config):
    """The two branches (method melt)."""

    user_weight: float = Field(default=0.1, ge=0)
    """The user branch's loss in the sum."""
    item_weight: float = Field(default=0.4, ge=0)
    """The item branch's."""
    users_per_step: int = Field(default=32, ge=1)
    """Head users that the user branch learns from in a step."""
    items_per_step: int = Field(default=32, ge=1)
    """Head items that the item branch learns from in a step."""
    max_contexts: int = Field(default=5, ge=1)
    """Contexts of an item that are averaged, drawn anew each time (the paper's K)."""


class SaidConfig(Config):
    """How the item vectors are learnt (method said)."""

    epochs: int = Field(default=10, ge=1)
    """Passes over the catalogue."""
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    """Of the vectors, each of which is in one batch of an epoch; what all items share learns at a third of it."""
    max_tokens: int = Field(default=64, ge=1)
    """An item's text is read up to here."""
    freeze: bool = True
    """Whether the vectors stay as they are while the recommender is trained."""


class TslrecConfig(Config):
    """How the item vectors are learnt (method tslrec)."""

    num_categories: int = Field(default=32, ge=2)
    """Latent categories: clusters of the ID-only recommender's item embeddings."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the users."""
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    max_items: int = Field(default=20, ge=1)
    """A history's newest items that are read."""
    start_length: float = Field(default=0.3, gt=0)
    """The root mean square length of the vectors that the recommender's training starts from."""


class TrainingConfig(Config):
    """How the recommender is trained; the same for all methods."""

    loss: CriterionName = "auto"
    """``softmax`` is over the whole catalogue; ``sampled_softmax`` over the batch's items and some others, log-Q
    corrected; ``auto`` is the first for up to 100,000 items and the second for more. ``gbce`` and ``bce`` (the paper's)
    are binary, against sampled negatives."""
    num_negatives: int | None = Field(default=None, ge=1)
    """Items drawn for a whole batch (``sampled_softmax``, 4,096 by default) or for each of its positions (``gbce``, 256
    by default); ``bce`` draws one for each, ``softmax`` none."""
    calibration: float = Field(default=0.75, ge=0, le=1)
    """gBCE's t: how much of the overconfidence that sampling brings is undone."""
    batch_positions: int = Field(default=1024, ge=1)
    """Positions to predict in a global batch, over all workers."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Reached after the warm-up; falls linearly to zero over ``max_epochs``."""
    weight_decay: float = Field(default=0.0, ge=0)
    popularity_offset: float = Field(default=0.3, ge=0, le=1)
    """How much of an item's log popularity is added to its logit in training and not when recommending: what the
    offset explains, the model need not learn, which helps the tail (logit adjustment, Menon et al., 2021). Of softmax
    losses alone: ``gbce`` and ``bce`` have none."""
    warmup_steps: int = Field(default=50, ge=0)
    max_epochs: int = Field(default=24, ge=1)
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation NDCG@10 after which training ends; the best weights are kept."""
    mask_share: float = Field(default=0.4, gt=0, lt=1)
    """The share of items that a backbone which sees both sides (BERT4Rec) has to fill in."""
    newest_share: float = Field(default=0.2, ge=0, le=1)
    """For the same, the share of sequences of which the newest item alone is masked, as when recommending."""


class FusionConfig(Config):
    """What is added to a score beside the trained logit; the weights are chosen on validation."""

    repeats: bool = True
    """Lets items of the history fall: tried are 0, the log of the share of repeats among the training targets, and half
    of it. Where nothing repeats this is what a filter of seen items does; where much does, nothing falls."""
    content: bool = True
    """Lets the cosine of a candidate's whitened LLM embedding and the history's be a part of the score (methods llmemb
    and text_sum)."""
    content_weights: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0, 8.0)
    """Tried factors of that cosine, which is added to the trained logit; while an epoch is validated the middle one."""
    content_shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    """Tried shares of content by itself in the probability of the next item; the logits with it have the rest. While an
    epoch is validated the middle one."""
    content_temperature: float = Field(default=0.07, gt=0)
    """Divides the cosines where they alone are the logits."""
    content_decay: float = Field(default=0.6, gt=0, le=1)
    """How much less each item of a history adds to its content than the one after it."""
    tail_price: float = Field(default=0.01, ge=0, lt=1)
    """The part of the best validation NDCG@10 that may be paid for the tail: of the weights that cost no more, those
    with the best NDCG@10 on tail items are taken. 0 takes the best overall."""

    @field_validator("content_weights")
    @classmethod
    def _some_weight(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if not weights or min(weights) < 0:
            raise ValueError("expected one weight or more, none below 0")
        return weights

    @field_validator("content_shares")
    @classmethod
    def _some_share(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or min(shares) < 0 or max(shares) > 1:
            raise ValueError("expected one share or more, from 0 to 1")
        return shares


class EngineConfig(Config):
    """How a step is computed; none of it changes the loss or the gradients beyond rounding."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products; sums and weights stay float32. ``auto`` is bf16 where the hardware of all workers has it (newer
    GPUs, CPUs with AVX-512 BF16 or AMX) and fp32 elsewhere."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of one worker; the cluster's CPUs shared out by default. Ignored on GPUs: each has its share of its
    node's CPUs."""
    max_failures: int = Field(default=2, ge=-1)
    """How often training goes on, from its last epoch, after losing a worker; -1 for however often it does."""


MethodName = Literal["none", "llmemb", "llm2x", "melt", "said", "tslrec", "text_sum"]
CONTENT = frozenset(f"fusion.{name}" for name in FusionConfig.model_fields if name.startswith("content"))
READS: Mapping[str, frozenset[str]] = {
    "none": frozenset(),
    "llmemb": frozenset({"embeddings", "collaborative", "adapter", "alignment", "content", "content_maps"}) | CONTENT,
    "llm2x": frozenset({"embeddings", "llm2x"}),
    "melt": frozenset({"collaborative", "melt"}),
    "said": frozenset({"base_model", "prompt", "item_vectors", "said"}),
    "tslrec": frozenset({"base_model", "collaborative", "item_vectors", "tslrec"}),
    "text_sum": frozenset({"embeddings", "content", "content_maps"}) | CONTENT,
}
"""By method, the keys that it reads and not every method does. What a method does not read is no part of what it makes,
and is not opened."""
EXPECTED = {
    "embeddings": "the URI of a snapshot",
    "base_model": "a language model's folder",
    "prompt": "how an item reads",
}
"""Of these keys, those without which a method that reads them cannot be."""


class RatConfig(JobConfig):
    """Trains a sequential recommender on a dataset, with or without LLM embeddings."""

    # Content maps are what the other keys make them, wherever they are.
    execution_keys: ClassVar[frozenset[str]] = frozenset(
        {"max_missing_share", "content_maps", "num_workers", "node_labels", "engine"}
    )

    dataset: Uri
    embeddings: Uri | None = None
    """A snapshot, or a root whose newest one is taken; needed by ``llmemb``, ``llm2x`` and ``text_sum``."""
    max_missing_share: float = Field(default=0.01, ge=0, le=1)
    """The share of the dataset's items that the snapshot may lack; these start at zero, and are counted."""
    collaborative: Uri | None = None
    """The ID-only recommender that ``llmemb`` (with an ``alignment.weight``), ``melt`` and ``tslrec`` start from,
    trained there where there is none yet; ``<output>/collaborative`` by default."""
    base_model: ModelUri | None = None
    """The language model of ``said`` and ``tslrec``: a model folder, ``package://NAME/FOLDER``, or a name on the
    Hugging Face hub."""
    prompt: PromptTemplate | None = None
    """The text of an item that ``said`` has it generate."""
    item_vectors: Uri | None = None
    """What ``said`` and ``tslrec`` learn with it before the training, learnt there where it is not yet;
    ``<output>/item_vectors`` by default."""
    content_maps: Uri | None = None
    """A file with what is learnt of content, which is the same for every backbone and both methods that have it; learnt
    there where it is not yet. ``<output>/content_maps.safetensors`` by default."""
    output: Uri
    backbone: str = "sasrec"
    """``sasrec``, ``gru4rec``, ``bert4rec``, ``hstu``, or ``package.module:ClassName`` of one's own."""
    method: MethodName = "llmemb"
    """``none`` is the ID-only recommender; see :mod:`llmemb.rat.methods`."""
    num_workers: int = Field(default=1, ge=1)
    node_labels: NodeLabels = Field(default_factory=dict)
    """Those of the Ray nodes to train on, such as ``llmemb/market: on-demand``; any by default."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    validation_users: int = Field(default=50_000, ge=1)
    """Users, at most, by whom the best epoch and the weights of a score's terms are chosen; drawn by the seed."""
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    content: ContentConfig = ContentConfig()
    training: TrainingConfig = TrainingConfig()
    fusion: FusionConfig = FusionConfig()
    llm2x: Llm2xConfig = Llm2xConfig()
    melt: MeltConfig = MeltConfig()
    said: SaidConfig = SaidConfig()
    tslrec: TslrecConfig = TslrecConfig()
    engine: EngineConfig = EngineConfig()

    @field_validator("backbone")
    @classmethod
    def _backbone_exists(cls, name: str) -> str:
        find_backbone(name)
        return name

    @model_validator(mode="after")
    def _there_is_room_for_a_mask(self) -> Self:
        if not getattr(find_backbone(self.backbone), "causal", True) and self.model.max_seq_len < 2:
            raise ValueError(f"model.max_seq_len: expected 2 or more for {self.backbone}: an item and a mask behind it")
        return self

    @model_validator(mode="after")
    def _method_has_what_it_needs(self) -> Self:
        for key, expected in EXPECTED.items():
            if key in self.reads and getattr(self, key) is None:
                raise ValueError(f"method {self.method} needs {key}: expected {expected}")
        return self

    @property
    def reads(self) -> frozenset[str]:
        """The keys that the method reads with these settings, of those that not every method does."""
        reads = READS[self.method]
        if "alignment" in reads and not self.alignment.weight:
            reads -= {"collaborative"}
        if not self.fusion.content:
            reads -= {"content", "content_maps"} | CONTENT - {"fusion.content"}
        elif not self.content.epochs:
            reads -= {"content_maps"}
        return reads

    @property
    def needs_collaborative(self) -> bool:
        """Whether an ID-only recommender is trained before this one."""
        return "collaborative" in self.reads

    @property
    def has_content(self) -> bool:
        """Whether scores may have the term for content."""
        return self.reads >= CONTENT

    @property
    def learns_content(self) -> bool:
        """Whether it is learnt which content follows which."""
        return self.has_content and "content" in self.reads and self.content.epochs > 0

    def content_identity(self) -> dict[str, Any]:
        """The settings that determine what is learnt of content, on a dataset and a snapshot."""
        return {
            "content": self.content.model_dump(mode="json"),
            "decay": self.fusion.content_decay,
            "temperature": self.fusion.content_temperature,
            "max_seq_len": self.model.max_seq_len,
            "loss": self.training.loss if "softmax" in self.training.loss else "auto",
            "seed": self.seed,
        }

    def identity(self) -> dict[str, Any]:
        unread = self._unread() | dict.fromkeys(["output", *self.execution_keys], True)
        identity = self.only_read().model_dump(mode="json", exclude=unread)
        # Once the logit alone chose it: another recommender by the same settings.
        return identity | ({"best_epoch_by": "score"} if self.has_content else {})

    def only_read(self) -> Self:
        """With whatever the method does not read at its default: nobody opens it or counts it as an input.

        The same holds for how to align where the weight is 0, and how to learn content where that has no epochs.
        """
        unread = self._unread()
        if not self.alignment.weight:
            unread.setdefault("alignment", set(AlignmentConfig.model_fields) - {"weight"})
        if not self.content.epochs:
            unread.setdefault("content", set(ContentConfig.model_fields) - {"epochs"})
        return type(self).model_validate(self.model_dump(exclude=unread))

    def id_only(self, output: str) -> Self:
        """The same recommender from IDs alone."""
        return self.model_copy(update={"method": "none", "output": output}).only_read()

    def _unread(self) -> dict[str, Any]:
        """The keys that other methods read and this one does not, as pydantic excludes them."""
        unread: dict[str, Any] = {}
        for key in frozenset().union(*READS.values()) - self.reads:
            group, _, setting = key.partition(".")
            if setting:
                unread.setdefault(group, set()).add(setting)
            else:
                unread[group] = True
        return unread
