"""MELT (Kim et al., SIGIR 2023): mutual enhancement of long-tailed users and items, from an ID-only recommender.

A *user branch* learns from head users what the state of a short history lacks of the whole one's. An *item branch*
learns from head items to tell an item's embedding from the contexts that it occurs in, enhanced by the user branch.
Tail items are given what it tells before each epoch, tail users are enhanced when recommending. No text is read.

Where we go our own way: states and embeddings are compared on the scale of the backbone's inputs; the targets of both
branches are detached; nothing is overwritten before the first epoch, in which the branches have learnt nothing yet;
whether a user is of the tail is said by the history at hand, which in a test is longer by the validation item; random
suffixes are no longer than a tail user's history, since the user branch is given no others when recommending.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Sequences
from llmemb.errors import InputError
from llmemb.metrics.slices import NUM_GROUPS, head_items, length_groups
from llmemb.rat.config import MeltConfig
from llmemb.rat.methods.ids import id_table
from llmemb.rat.methods.method import Inputs, Method
from llmemb.rat.training import Auxiliary, Step, TrainableRecommender
from llmemb.srs.item_table import IdTable
from llmemb.srs.tail_users import TailUsers

ITEMS_PER_CHUNK = 512
HISTORIES_PER_READ = 32


class Mutual(Auxiliary):
    """Both branches' losses, and tail items' new embeddings before each epoch."""

    def __init__(self, sequences: Sequences, *, num_items: int, hidden_dim: int, settings: MeltConfig) -> None:
        super().__init__()
        popularity = sequences.counts(num_items)
        self.item_branch = nn.Linear(hidden_dim, hidden_dim)
        nn.init.eye_(self.item_branch.weight)
        nn.init.zeros_(self.item_branch.bias)
        self._settings = settings
        self._contexts = Contexts(sequences, num_items=num_items, max_contexts=settings.max_contexts)
        self._tail_items = np.flatnonzero((popularity > 0) & ~head_items(popularity))
        self._head_items = _descending(known_head_items(popularity), popularity)
        self._head_users = _descending(head_users(sequences), sequences.lengths)
        self._sequences = sequences

    @torch.no_grad()
    def begin_epoch(self, model: TrainableRecommender, epoch: int, random: np.random.Generator) -> None:
        """Overwrites the embeddings of tail items with what the item branch makes of their contexts."""
        if epoch == 0:
            return
        assert isinstance(model.table, IdTable)
        model.eval()
        embeddings = model.item_embeddings()
        for start in range(0, len(self._tail_items), ITEMS_PER_CHUNK):
            items = self._tail_items[start : start + ITEMS_PER_CHUNK]
            told = self._tell(model, items, embeddings, random)
            model.table.weight[torch.from_numpy(items - 1)] = told / model.encoder.input_scale

    def loss(self, model: TrainableRecommender, step: Step) -> Float[Tensor, ""]:
        embeddings = model.item_embeddings()
        users = self._user_loss(model, embeddings, step)
        return self._settings.user_weight * users + self._settings.item_weight * self._item_loss(
            model, embeddings, step
        )

    def _user_loss(self, model: TrainableRecommender, embeddings: Tensor, step: Step) -> Tensor:
        """A head user's whole history from a random suffix of it."""
        tail_users = model.encoder.tail_users
        assert tail_users is not None
        places = step.random.integers(len(self._head_users), size=self._settings.users_per_step)
        whole = self._sequences.take(self._head_users[places])
        suffix = whole.newest(step.random.integers(1, np.minimum(whole.lengths, tail_users.longest + 1).clip(min=2)))
        told = tail_users.branch(newest_states(model, suffix, embeddings))
        with torch.no_grad():
            wanted = newest_states(model, whole, embeddings)
        return _weighted((told - wanted).square().mean(1), attention(places, len(self._head_users), step.progress))

    def _item_loss(self, model: TrainableRecommender, embeddings: Tensor, step: Step) -> Tensor:
        """A head item's embedding from its contexts."""
        places = step.random.integers(len(self._head_items), size=self._settings.items_per_step)
        items = self._head_items[places]
        told = self._tell(model, items, embeddings, step.random)
        wanted = embeddings[torch.from_numpy(items - 1).to(told.device)].detach() * model.encoder.input_scale
        errors = (told - wanted).square().mean(1)
        return _weighted(errors, attention(places, len(self._head_items), step.progress))

    def _tell(
        self, model: TrainableRecommender, items: NDArray[np.int64], embeddings: Tensor, random: np.random.Generator
    ) -> Float[Tensor, "item dim"]:
        """What the item branch makes of some items' contexts."""
        histories, owners = self._contexts.draw(items, random)
        assert model.encoder.tail_users is not None
        states = model.encoder.tail_users.enhance(newest_states(model, histories, embeddings))
        owner = torch.from_numpy(owners).to(states.device)
        sums = torch.zeros(len(items), states.shape[1], device=states.device).index_add(0, owner, states)
        return self.item_branch(sums / torch.bincount(owner, minlength=len(items))[:, None])


class Contexts:
    """The histories that end with an item: one for each of its training interactions."""

    def __init__(self, sequences: Sequences, *, num_items: int, max_contexts: int) -> None:
        self._sequences, self._offsets, self._max_contexts = sequences, sequences.offsets, max_contexts
        self._places = np.argsort(sequences.items, kind="stable")
        self._ends = np.cumsum(sequences.counts(num_items))

    def draw(self, items: NDArray[np.int64], random: np.random.Generator) -> tuple[Sequences, NDArray[np.int64]]:
        """Up to ``max_contexts`` different histories for each item, and which of the items each belongs to."""
        places = [self._draw(int(item), random) for item in items]
        owners = np.repeat(np.arange(len(items)), [len(chosen) for chosen in places])
        return self._prefixes(np.concatenate(places)), owners

    def _draw(self, item: int, random: np.random.Generator) -> NDArray[np.int64]:
        occurrences = self._places[self._ends[item - 1] : self._ends[item]]
        if len(occurrences) <= self._max_contexts:
            return occurrences
        return random.choice(occurrences, self._max_contexts, replace=False)

    def _prefixes(self, places: NDArray[np.int64]) -> Sequences:
        """The histories that end at some places of all users' items, one user's after another's."""
        users = np.searchsorted(self._offsets, places, side="right") - 1
        return self._sequences.take(users).without_last(self._offsets[users + 1] - places - 1)


def check_head(dataset: Dataset) -> None:
    """Looks for the users and items that both branches learn from, before anything is trained.

    Raises:
        InputError: there are none.
    """
    known_head_items(dataset.popularity)
    head_users(dataset.train)


def known_head_items(popularity: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the most popular fifth of the items, those that occur in training.

    Args:
        popularity: Training interactions by item index.

    Raises:
        InputError: there are none.
    """
    items = np.flatnonzero((popularity > 0) & head_items(popularity))
    if not len(items):
        raise InputError(
            f"method: melt learns from the most popular fifth of the items, and {len(popularity) - 1} have none: "
            "expected a catalogue of five items or more"
        )
    return items


def head_users(sequences: Sequences) -> NDArray[np.int64]:
    """Users in the fifth of the longest training sequences; users of one length stay together.

    Raises:
        InputError: nobody's sequence is longer than most.
    """
    users = np.flatnonzero((length_groups(sequences.lengths) == NUM_GROUPS - 1) & (sequences.lengths > 1))
    if not len(users):
        raise InputError(
            "method: melt learns from users with long histories, and here all are as short: expected a fifth of the "
            "users with longer training sequences than the others"
        )
    return users


def attention(places: NDArray[np.int64], number: int, progress: float) -> NDArray[np.float64]:
    """A sinusoid that moves over the training from the first of ``number``, the most popular, to the last.

    Args:
        places: By popularity, from 0.
        progress: From 0 to 1.
    """
    return np.cos(np.pi / 2 * (places / max(1, number - 1) - progress))


def newest_states(
    model: TrainableRecommender, histories: Sequences, embeddings: Float[Tensor, "item dim"]
) -> Float[Tensor, "user dim"]:
    """The backbone's state after each history; those of like length are read together, with hardly any padding."""
    by_length = np.argsort(histories.lengths, kind="stable")
    read = []
    for rows in np.array_split(by_length, math.ceil(len(by_length) / HISTORIES_PER_READ)):
        item_index = model.encoder.questions(histories.take(rows), 0, len(rows)).to(embeddings.device)
        read.append(model.encoder.states(item_index, embeddings)[:, -1])
    states = torch.cat(read)
    return states[torch.from_numpy(np.argsort(by_length)).to(states.device)]


def _weighted(errors: Float[Tensor, " row"], weights: NDArray[np.float64]) -> Tensor:
    return (errors * torch.from_numpy(weights).to(errors)).mean()


def _descending(indices: NDArray[np.int64], by: NDArray[np.int64]) -> NDArray[np.int64]:
    return indices[np.argsort(-by[indices], kind="stable")]


def _start_from_collaborative(inputs: Inputs, model: TrainableRecommender) -> None:
    """Gives an ID-only model the weights of the finished one.

    Raises:
        InputError: that one has other weights.
    """
    assert inputs.collaborative is not None
    try:
        model.load_state_dict(inputs.collaborative.weights)
    except RuntimeError as error:
        raise InputError(
            f"collaborative: its weights are not those of this backbone and model: {' '.join(str(error).split())[:200]}"
        ) from error


def _extend(inputs: Inputs, model: TrainableRecommender) -> None:
    _start_from_collaborative(inputs, model)
    config, sequences = inputs.config, inputs.dataset.train
    longest = int(np.delete(sequences.lengths, head_users(sequences)).max(initial=1))
    hidden_dim = config.model.hidden_dim
    most_read = config.model.max_seq_len - (0 if model.encoder.causal else 1)  # a mask stands behind what is read
    model.encoder.tail_users = TailUsers(hidden_dim, longest=min(longest, most_read - 1))
    model.auxiliary = Mutual(sequences, num_items=inputs.dataset.num_items, hidden_dim=hidden_dim, settings=config.melt)


MELT = Method("MELT", id_table, _extend, check_head, goes_on=True)
