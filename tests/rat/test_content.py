"""Content that is learnt: the loss, what it finds out, and that several workers learn the same."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from llmemb.data.sequences import Sequences
from llmemb.rat.config import ContentConfig
from llmemb.rat.content import ContentTraining, decayed_means, following_loss
from llmemb.rat.training import TrainableRecommender
from llmemb.srs.backbone import make_backbone
from llmemb.srs.content import ContentMap, content_queries, unit
from llmemb.srs.encoder import HistoryEncoder
from llmemb.srs.item_table import IdTable
from llmemb.workers import Worker

WIDTH, DECAY, TEMPERATURE = 4, 0.6, 0.07


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    return unit(torch.from_numpy(np.random.default_rng(seed).normal(size=shape)))


def moved(width: int, *, seed: int) -> ContentMap:
    """A map that is not the identity any more."""
    mapped = ContentMap(width).double()
    mapped.weight.data = torch.from_numpy(np.random.default_rng(seed).normal(size=(width, width)))
    return mapped


def model_of(content: Tensor, *, max_seq_len: int = 6) -> TrainableRecommender:
    sizes = {"hidden_dim": 4, "num_blocks": 1, "num_heads": 1, "max_seq_len": max_seq_len, "dropout": 0.0}
    encoder = HistoryEncoder(
        make_backbone("sasrec", **sizes),
        hidden_dim=4,
        max_seq_len=max_seq_len,
        similarity="cosine",
        temperature=0.1,
        content_decay=DECAY,
        content_temperature=TEMPERATURE,
    )
    return TrainableRecommender(IdTable(len(content), 4), encoder, num_items=len(content), content=content.clone())


def naive_loss(
    inputs: list[list[int]], targets: list[list[int]], content: Tensor, weight: Tensor, offsets: Tensor
) -> float:
    """Position by position, item by item."""
    total = 0.0
    rows = content.tolist()
    for history, wanted in zip(inputs, targets, strict=True):
        for at, target in enumerate(wanted):
            if not target:
                continue
            mean = torch.zeros(WIDTH, dtype=torch.float64)
            for age, item in enumerate(reversed(history[: at + 1])):
                mean += DECAY**age * torch.tensor(rows[item - 1], dtype=torch.float64)
            query = mean + mean @ weight
            query = query / query.norm()
            logits = {
                item: float(query @ content[item - 1]) / TEMPERATURE + float(offsets[item - 1])
                for item in range(1, len(rows) + 1)
                if item == target or item not in history[: at + 1]
            }
            total += math.log(sum(math.exp(logit) for logit in logits.values())) - logits[target]
    return total


def test_the_loss_is_the_naive_one() -> None:
    content, offsets = unit_rows(7, WIDTH), torch.linspace(-1, 1, 7, dtype=torch.float64)
    inputs = [[1, 2, 3, 2], [5, 5, 0, 0], [7, 0, 0, 0]]
    targets = [[2, 3, 2, 6], [5, 1, 0, 0], [4, 0, 0, 0]]  # what comes again is asked for too
    of_history = moved(WIDTH, seed=1)
    loss = following_loss(
        torch.tensor(inputs),
        torch.tensor(targets),
        content,
        of_history,
        decay=DECAY,
        temperature=TEMPERATURE,
        logit_offsets=offsets,
    )
    shortened = [[item for item in row if item] for row in inputs]
    assert loss.item() == pytest.approx(naive_loss(shortened, targets, content, of_history.weight.detach(), offsets))


def test_it_begins_with_the_cosines_that_it_replaces() -> None:
    content = unit_rows(9, WIDTH)
    histories = torch.tensor([[3, 1, 4, 1], [2, 7, 8, 9]])
    means = decayed_means(histories, content, decay=DECAY)
    untrained = ContentMap(WIDTH).double()
    for length in range(1, 5):
        expected = content_queries(histories[:, :length], content, decay=DECAY)
        torch.testing.assert_close(untrained(means[:, length - 1]), expected)
    torch.testing.assert_close(untrained(content), content)
    assert not untrained(torch.zeros(1, WIDTH, dtype=torch.float64)).any()  # an item without an embedding stays so


@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_learnt_holds_for_items_that_nobody_has_had(sampled: bool) -> None:
    # An item of one half goes with the item of the other half that has the same content but for a turn.
    num, width = 60, 6
    first = unit_rows(num, width, seed=2).float()
    turn = torch.linalg.qr(torch.from_numpy(np.random.default_rng(3).normal(size=(width, width))))[0].float()
    content = torch.cat([first, first @ turn])
    known = range(1, num - 9)  # the last ten pairs are in no sequence
    sequences = Sequences.from_lists([[item, item + num] for item in known for _ in range(4)])
    settings = ContentConfig(epochs=30, learning_rate=1e-2, popularity_offset=0.0, batch_positions=32)
    model = model_of(content)
    new = torch.arange(num - 9, num + 1)

    def found() -> float:
        assert model.content is not None
        queries = model.encoder.content_queries(new[:, None], model.content)
        best = (queries @ model.content.T).scatter(1, new[:, None] - 1, -2.0).argmax(1) + 1
        return float((best == new + num).float().mean())

    assert found() < 0.3
    learnt = ContentTraining(model, sequences, settings, sampled=sampled, seed=0).run()
    learnt.maps.put_into(model)
    assert found() > 0.8
    assert len(learnt.losses) == 30
    assert learnt.losses[-1] < learnt.losses[0]
    assert model.content is not None
    torch.testing.assert_close(model.content.norm(dim=1), torch.ones(2 * num))


@pytest.mark.parametrize("sampled", [False, True])
def test_two_workers_take_the_step_of_one(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = unit_rows(15, WIDTH).float()
    walks = Sequences.from_lists([[(user + step) % 15 + 1 for step in range(3 + user % 3)] for user in range(15)])
    settings = ContentConfig(epochs=1, batch_positions=20)

    def gradients(worker: Worker) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        training = ContentTraining(model_of(content), walks, settings, sampled=sampled, seed=0, worker=worker)

        def record(worker: Worker, maps: torch.nn.Module) -> None:
            for name, parameter in maps.named_parameters():
                assert parameter.grad is not None
                found[name] = found.get(name, 0) + parameter.grad.clone()
                parameter.grad.zero_()  # nobody moves: the next step is at the same place

        monkeypatch.setattr(Worker, "sum_gradients", record)
        monkeypatch.setattr(Worker, "sum", lambda self, values: values)
        training.epoch(0)
        return found

    one, parts = gradients(Worker()), [gradients(Worker(rank, 2)) for rank in range(2)]
    for name, whole in one.items():
        assert whole.abs().max() > 0.1
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole, rtol=1e-4, atol=1e-4)


def test_of_many_users_some_are_drawn_and_popularity_is_that_of_all() -> None:
    walks = Sequences.from_lists([[user % 5 + 1, user % 5 + 2] for user in range(40)])
    model, passes = model_of(unit_rows(6, WIDTH).float()), []
    for seed in (0, 0, 1):
        settings = ContentConfig(epochs=1, max_users=9)
        training = ContentTraining(model, walks, settings, sampled=False, seed=seed, worker=Worker())
        [batch] = training.objective.batches(seed=0, epoch=0)
        assert batch.num_targets == 9
        passes.append(batch.targets.tolist())
        whole = ContentTraining(model, walks, ContentConfig(), sampled=False, seed=seed, worker=Worker())
        torch.testing.assert_close(training._softmax.offsets, whole._softmax.offsets)
    assert passes[0] == passes[1] != passes[2]


def test_a_loss_that_is_not_finite_ends_it() -> None:
    content = unit_rows(5, WIDTH).float()
    content[2] = float("nan")
    walks = Sequences.from_lists([[1, 2, 3, 4]])
    with pytest.raises(FloatingPointError, match="content, epoch 1, step 1: loss nan"):
        ContentTraining(model_of(content), walks, ContentConfig(epochs=1), sampled=False, seed=0).run()
