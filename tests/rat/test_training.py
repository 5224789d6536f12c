import copy

import numpy as np
import pytest
import torch

from llmemb.data.sequences import LeaveOneOut, Sequences
from llmemb.errors import InputError
from llmemb.rat.config import TrainingConfig
from llmemb.rat.training import Auxiliary, Step, TrainableRecommender, learning_rate, train, validation_ndcg
from llmemb.srs.backbone import BACKBONES, make_backbone
from llmemb.srs.encoder import HistoryEncoder
from llmemb.srs.item_table import AdaptedTable, FrozenTable, IdTable, SummedTable
from llmemb.workers import Worker

NUM_ITEMS, DIM = 12, 8
# Everybody walks round a circle: what comes next is certain.
CIRCLE = Sequences.from_lists([[(start + step) % NUM_ITEMS + 1 for step in range(6)] for start in range(NUM_ITEMS)])
SETTINGS = TrainingConfig(
    batch_positions=16,
    learning_rate=1e-2,
    weight_decay=0.0,
    popularity_offset=0.0,
    warmup_steps=0,
    max_epochs=40,
    patience=25,
    mask_share=0.4,
    newest_share=0.5,
)


def make_model(name: str = "sasrec") -> TrainableRecommender:
    torch.manual_seed(0)
    backbone = make_backbone(name, hidden_dim=DIM, num_blocks=1, num_heads=1, max_seq_len=4, dropout=0.0)
    encoder = HistoryEncoder(backbone, hidden_dim=DIM, max_seq_len=4, similarity="cosine", temperature=0.1)
    return TrainableRecommender(IdTable(NUM_ITEMS, DIM), encoder, num_items=NUM_ITEMS)


class Constant(Auxiliary):
    """Adds a number to every loss."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def loss(self, model: TrainableRecommender, step: Step) -> torch.Tensor:
        return step.embeddings.sum() * 0 + self.value


def fit(
    settings: TrainingConfig = SETTINGS,
    *,
    backbone: str = "sasrec",
    auxiliary: Auxiliary | None = None,
    precision: torch.dtype = torch.float32,
) -> tuple[TrainableRecommender, list]:
    model, split = make_model(backbone), LeaveOneOut()
    model.auxiliary = auxiliary
    targets = split.targets(CIRCLE, "validation")
    history = train(model, split.train(CIRCLE), targets, settings, seed=1, precision=precision)
    return model, history


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_learns_and_the_best_weights_are_restored(backbone):
    model, history = fit(SETTINGS.model_copy(update={"max_epochs": 120, "patience": 60}), backbone=backbone)
    best = max(epoch.validation_ndcg for epoch in history)
    assert history[0].validation_ndcg < 0.65 < 0.85 < best
    targets = LeaveOneOut().targets(CIRCLE, "validation")
    assert validation_ndcg(model, targets, worker=Worker()) == pytest.approx(best)


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce", "bce"])
def test_every_loss_learns(loss):
    settings = SETTINGS.model_copy(update={"loss": loss, "num_negatives": 4, "calibration": 0.75})
    _, history = fit(settings)
    assert history[0].validation_ndcg < 0.6 < 0.75 < max(epoch.validation_ndcg for epoch in history)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "bce"])
def test_in_half_precision_the_losses_are_nearly_the_same(loss):
    short = SETTINGS.model_copy(update={"max_epochs": 2, "loss": loss, "num_negatives": 4})
    exact, half = (
        [epoch.step_losses for epoch in fit(short, precision=precision)[1]]
        for precision in (torch.float32, torch.bfloat16)
    )
    np.testing.assert_allclose(half, exact, rtol=0.03)
    assert half != exact


def test_training_stops_after_its_patience():
    _, history = fit(SETTINGS.model_copy(update={"learning_rate": 1e-9, "patience": 2}))
    assert len(history) == 3  # nothing moves: the first epoch stays the best
    assert sorted(history[0].summary()) == ["epoch", "loss", "positions_per_second", "seconds", "validation_ndcg"]


def test_the_same_seed_gives_the_same_losses():
    short = SETTINGS.model_copy(update={"max_epochs": 2})
    assert [epoch.step_losses for epoch in fit(short)[1]] == [epoch.step_losses for epoch in fit(short)[1]]


def test_an_auxiliary_loss_is_added_once_in_every_step():
    short = SETTINGS.model_copy(update={"max_epochs": 1, "learning_rate": 1e-9})
    plain, aligned = fit(short)[1][0], fit(short, auxiliary=Constant(0.5))[1][0]
    np.testing.assert_allclose(np.subtract(aligned.step_losses, plain.step_losses), 0.5, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_training():
    with pytest.raises(FloatingPointError, match="epoch 1, step 1: loss nan"):
        fit(auxiliary=Constant(float("nan")))


class OneOfTwo(Worker):
    """Beside one whose checkpoint has three epochs more."""

    def max(self, values: torch.Tensor) -> torch.Tensor:
        return values + 3


def test_workers_that_read_different_checkpoints_do_not_train_together(tmp_path):
    model, uri = make_model(), f"{tmp_path}/checkpoint.safetensors"
    targets = LeaveOneOut().targets(CIRCLE, "validation")
    with pytest.raises(
        InputError, match=f"{uri}: one worker finds 3 finished epochs and another 0; .* all of them share"
    ):
        train(model, CIRCLE, targets, SETTINGS, seed=0, worker=OneOfTwo(), checkpoint_uri=uri)


def test_the_learning_rate_rises_and_falls_linearly():
    settings = SETTINGS.model_copy(update={"learning_rate": 8.0, "warmup_steps": 2, "max_epochs": 2})
    rates = [learning_rate(step, 4, settings) for step in range(8)]
    assert rates == [8 * 0.5, 8 * 7 / 8, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_adapters_learn_at_a_rate_of_their_own():
    torch.manual_seed(0)
    encoder = make_model().encoder
    adapter = torch.nn.Linear(5, DIM)
    table = SummedTable([AdaptedTable(FrozenTable(torch.randn(NUM_ITEMS, 5)), adapter), IdTable(NUM_ITEMS, DIM)])
    model, split = TrainableRecommender(table, encoder, num_items=NUM_ITEMS), LeaveOneOut()
    before = copy.deepcopy(model.state_dict())
    settings, targets = SETTINGS.model_copy(update={"max_epochs": 2}), split.targets(CIRCLE, "validation")
    train(model, split.train(CIRCLE), targets, settings, seed=1, adapter_rate=0.0)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert "table.parts.1.weight" in changed
    assert not any("adapter" in name for name in changed)
    assert [(group["rate"], len(group["params"])) for group in model.parameter_groups(adapter_rate=0.5)][1] == (0.5, 2)
    unfrozen = AdaptedTable(IdTable(NUM_ITEMS, 5), adapter)  # the LLM's own table, trained too
    groups = TrainableRecommender(unfrozen, encoder, num_items=NUM_ITEMS).parameter_groups(adapter_rate=0.5)
    assert [(group["rate"], len(group["params"])) for group in groups][1] == (0.5, 3)
