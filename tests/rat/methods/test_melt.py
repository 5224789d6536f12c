import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llmemb.data.sequences import Sequences
from llmemb.errors import InputError
from llmemb.rat.config import MeltConfig
from llmemb.rat.methods import METHODS
from llmemb.rat.methods.melt import Contexts, Mutual, attention, head_users, newest_states
from llmemb.rat.model import make_model
from llmemb.rat.training import Step, TrainableRecommender
from tests.rat.methods.conftest import SEQUENCES, make_inputs

TRAIN = make_inputs("melt").dataset.train


def make_melt(**settings) -> tuple[TrainableRecommender, Mutual]:
    model = make_model(make_inputs("melt", **settings))
    assert isinstance(model.auxiliary, Mutual)
    return model, model.auxiliary


def step(model: TrainableRecommender, progress: float = 0.0) -> Step:
    rows = torch.arange(6)
    return Step(model.item_embeddings(), rows, progress, np.random.default_rng(0))


def test_head_users_have_the_longest_histories():
    assert head_users(TRAIN).tolist() == [0, 1]
    with pytest.raises(InputError, match="all are as short"):
        head_users(Sequences.from_lists([[1, 2], [2, 3], [3, 4]]))


def test_a_catalogue_without_head_items_is_refused():
    histories = Sequences.from_lists([[1, 2, 3, 4, 1, 2], [1, 2], [3, 4], [2, 1], [4, 3]])
    with pytest.raises(InputError, match="4 have none: expected a catalogue of five items or more"):
        Mutual(histories, num_items=4, hidden_dim=4, settings=MeltConfig())
    dataset: Any = SimpleNamespace(popularity=histories.counts(4), train=histories)
    with pytest.raises(InputError, match="4 have none"):
        METHODS["melt"].check(dataset)


def test_contexts_are_the_histories_that_end_with_the_item():
    sequences = Sequences.from_lists([[1, 2, 1], [2, 1], [3]])
    random = np.random.default_rng(0)
    histories, owners = Contexts(sequences, num_items=3, max_contexts=5).draw(np.array([1, 3]), random)
    assert [list(histories[number]) for number in range(len(histories))] == [[1], [1, 2, 1], [2, 1], [3]]
    assert owners.tolist() == [0, 0, 0, 1]
    few, owners = Contexts(sequences, num_items=3, max_contexts=2).draw(np.array([1]), random)
    assert len(few) == 2
    assert all(few[number][-1] == 1 for number in range(2))


def test_attention_moves_from_the_most_popular_to_the_least():
    places = np.arange(5)
    assert attention(places, 5, 0.0).argmax() == 0
    assert attention(places, 5, 0.5).argmax() == 2
    assert attention(places, 5, 1.0).argmax() == 4
    assert attention(places, 5, 0.0)[-1] == pytest.approx(0.0)


HISTORIES = [[3, 1, 2, 4], [1, 3, 5, 2, 6, 3], [2, 1, 3, 7, 3]]
HISTORIES += [[8 + user % 8, (3, 1, 2)[user % 3]] for user in range(12)]
BY_LENGTH, BY_POPULARITY = [1, 2, 0], [3, 1, 2]  # a fifth of 15 users, a fifth of 15 items


class Chosen:
    """In place of a generator: gives what it was told to, and keeps from which ranges it was asked to draw."""

    def __init__(self, *draws: list[int]) -> None:
        self.draws, self.ranges = list(draws), []

    def integers(self, low, high=None, size=None):
        self.ranges.append((0, low) if high is None else (low, int(np.max(high))))
        return np.array(self.draws.pop(0))


def linear(layer: torch.nn.Linear, state: torch.Tensor) -> torch.Tensor:
    return layer.weight @ state + layer.bias


def losses_by_hand(model, *, suffixes, items, progress):
    """The user branch's loss and the item branch's, one history after another.

    Args:
        suffixes: Of head users, by length: the rank of one, and how many items of theirs are read.
        items: Ranks of head items, by popularity.
    """
    embeddings, tail_users = model.item_embeddings(), model.encoder.tail_users

    def state(history):
        return model.encoder.states(model.encoder.questions(Sequences.from_lists([history]), 0, 1), embeddings)[0, -1]

    def weighted(told, wanted, rank):
        error = sum((told[place] - wanted[place].detach()) ** 2 for place in range(4)) / 4
        return error * math.cos(math.pi / 2 * (rank / 2 - progress))  # three head users, and three head items

    users = 0.0
    for rank, length in suffixes:
        history = HISTORIES[BY_LENGTH[rank]]
        users += weighted(linear(tail_users.branch, state(history[-length:])), state(history), rank) / len(suffixes)
    popular = 0.0
    for rank in items:
        item = BY_POPULARITY[rank]
        occurrences = [
            (history, place) for history in HISTORIES for place, other in enumerate(history) if other == item
        ]
        states = [state(history[: place + 1]) for history, place in occurrences]
        mean = sum(each + linear(tail_users.branch, each) for each in states) / len(states)
        wanted = embeddings[item - 1] * 2  # the backbone reads unit vectors times the root of four dimensions
        popular += weighted(linear(model.auxiliary.item_branch, mean), wanted, rank) / len(items)
    return users, popular


@pytest.mark.parametrize("progress", [0.25, 0.8])
def test_the_losses_are_those_written_out(backbone, progress):
    sequences = Sequences.from_lists([[*history, 1, 1] for history in HISTORIES])  # training leaves the last two out
    model = make_model(make_inputs("melt", sequences, num_items=15, backbone=backbone, melt={"max_contexts": 99}))
    mutual = model.auxiliary
    assert isinstance(mutual, Mutual)
    torch.manual_seed(0)
    for parameter in model.parameters():  # untrained, states hardly feel older items, and branches tell nothing
        torch.nn.init.normal_(parameter)
    exact = copy.deepcopy(model).double()
    suffixes, places = [(0, 2), (1, 1), (2, 2), (1, 2)], [2, 0, 1, 1]
    users, items = losses_by_hand(exact, suffixes=suffixes, items=places, progress=progress)
    both, embeddings = 0.1 * users + 0.4 * items, model.item_embeddings()

    def drawn(*draws):
        random: Any = Chosen(*draws)
        return random, Step(embeddings, torch.arange(15), progress, random)

    ranks, lengths = map(list, zip(*suffixes, strict=True))
    random, asked = drawn(ranks, lengths)
    assert mutual._user_loss(model, embeddings, asked).item() == pytest.approx(users.item(), rel=1e-4)
    assert random.ranges == [(0, 3), (1, 3)]  # suffixes are as short as tail users' histories, of two items at most
    random, asked = drawn(places)
    assert mutual._item_loss(model, embeddings, asked).item() == pytest.approx(items.item(), rel=1e-4)
    assert random.ranges == [(0, 3)]
    loss = mutual.loss(model, drawn(ranks, lengths, places)[1])
    assert loss.item() == pytest.approx(both.item(), rel=1e-4)
    loss.backward()
    both.backward()  # through what is told, not through what is wanted
    learnt = [(one.grad, other.grad) for one, other in zip(model.parameters(), exact.parameters(), strict=True)]
    assert sum(other is not None for _, other in learnt) > 5
    for one, other in learnt:
        if other is not None:
            torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-3)


def test_both_branches_learn_from_the_loss(backbone):
    model, mutual = make_melt(backbone=backbone)
    assert model.encoder.tail_users is not None
    branches = [*mutual.parameters(), *model.encoder.tail_users.parameters()]
    optimizer = torch.optim.Adam(branches, lr=0.02)
    losses = []
    for _ in range(60):
        loss = mutual.loss(model, step(model))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in branches if parameter.grad is not None)


def test_tail_items_are_overwritten_before_each_epoch_but_the_first():
    model, mutual = make_melt()
    before = model.table.weight.detach().clone()  # type: ignore[union-attr]
    mutual.begin_epoch(model, 0, np.random.default_rng(0))
    assert torch.equal(model.table.weight, before)  # type: ignore[union-attr]
    mutual.begin_epoch(model, 1, np.random.default_rng(0))
    after = model.table.weight.detach()  # type: ignore[union-attr]
    popularity = TRAIN.counts(6)[1:]
    head = int(popularity.argmax())  # a fifth of six items is one
    changed = (after != before).any(1).tolist()
    assert changed == [row != head and popularity[row] > 0 for row in range(6)]


def test_a_history_has_the_same_state_alone_and_among_many(backbone):
    model, _ = make_melt(backbone=backbone)
    model.eval()
    embeddings = model.item_embeddings()
    histories = [[1 + (start + place) % 6 for place in range(1 + 7 * start % 5)] for start in range(70)]
    states = newest_states(model, Sequences.from_lists(histories), embeddings)
    alone = [newest_states(model, Sequences.from_lists([history]), embeddings) for history in histories]
    torch.testing.assert_close(states, torch.cat(alone))


def test_what_overwrites_is_the_item_branch_of_the_mean_enhanced_context():
    model, mutual = make_melt(melt={"max_contexts": 99})
    item = 4
    histories, _ = Contexts(TRAIN, num_items=6, max_contexts=99).draw(np.array([item]), np.random.default_rng(0))
    model.eval()
    states = newest_states(model, histories, model.item_embeddings())
    expected = mutual.item_branch(model.encoder.tail_users.enhance(states).mean(0)) / model.encoder.input_scale
    mutual.begin_epoch(model, 1, np.random.default_rng(0))
    torch.testing.assert_close(model.table.weight[item - 1], expected)  # type: ignore[union-attr]


def test_only_tail_users_are_enhanced_and_only_when_recommending():
    model, _ = make_melt()
    tail_users = model.encoder.tail_users
    assert tail_users is not None
    assert tail_users.longest == 2
    torch.nn.init.ones_(tail_users.branch.bias)
    short, long = torch.tensor([[1, 2]]), torch.tensor([[1, 2, 3]])
    embeddings = model.item_embeddings()
    for history, expected in ((short, True), (long, False)):
        plain = model.train().encoder(history, embeddings)
        enhanced = model.eval().encoder(history, embeddings)
        assert torch.allclose(plain, enhanced) != expected


def test_it_starts_from_the_finished_recommender():
    inputs = make_inputs("melt")
    assert inputs.collaborative is not None
    torch.testing.assert_close(make_model(inputs).item_embeddings(), inputs.collaborative.item_embeddings)
    inputs.collaborative.weights.pop("table.weight")
    with pytest.raises(InputError, match="collaborative: its weights are not those"):
        make_model(inputs)


def test_the_sample_is_as_these_tests_need_it():
    assert TRAIN.lengths.tolist() == [6, 6, *[2] * 8]
    assert len(SEQUENCES) == 10


@pytest.mark.parametrize(("backbone", "longest"), [("sasrec", 2), ("bert4rec", 1)])
def test_a_user_of_whom_all_is_read_that_can_be_is_no_tail_user(backbone, longest):
    model, _ = make_melt(backbone=backbone, model={"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 3, "dropout": 0.0})
    assert model.encoder.tail_users.longest == longest
