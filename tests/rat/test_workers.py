"""Two workers take the step of one: whatever is trained, and by which loss."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from llmemb.data.sequences import LeaveOneOut, Sequences
from llmemb.rat import training
from llmemb.rat.alignment import CollaborativeAlignment
from llmemb.rat.config import MeltConfig, TrainingConfig
from llmemb.rat.methods.melt import Mutual
from llmemb.rat.training import Auxiliary, TrainableRecommender, TrainingLoop
from llmemb.srs.backbone import BACKBONES, make_backbone
from llmemb.srs.encoder import HistoryEncoder
from llmemb.srs.item_table import IdTable
from llmemb.srs.tail_users import TailUsers
from llmemb.workers import Worker

NUM_ITEMS, DIM, MAX_SEQ_LEN = 15, 8, 6
# A fifth of the users walk on where the others stop.
WALKS = Sequences.from_lists(
    [[(start + step) % NUM_ITEMS + 1 for step in range(4 + 5 * (start % 5 == 0))] for start in range(NUM_ITEMS)]
)
TRAIN = LeaveOneOut().train(WALKS)
SETTINGS = TrainingConfig(
    batch_positions=12,
    learning_rate=1e-2,
    weight_decay=0.0,
    popularity_offset=0.3,
    warmup_steps=0,
    max_epochs=2,
    patience=2,
    mask_share=0.4,
    newest_share=0.5,
    num_negatives=5,
    calibration=0.5,
)


def make_model(backbone: str, method: str) -> TrainableRecommender:
    torch.manual_seed(0)
    sizes = {"hidden_dim": DIM, "num_blocks": 1, "num_heads": 2, "max_seq_len": MAX_SEQ_LEN, "dropout": 0.0}
    encoder = HistoryEncoder(
        make_backbone(backbone, **sizes), hidden_dim=DIM, max_seq_len=MAX_SEQ_LEN, similarity="cosine", temperature=0.1
    )
    model = TrainableRecommender(IdTable(NUM_ITEMS, DIM, init_std=1.0), encoder, num_items=NUM_ITEMS)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.auxiliary = make_auxiliary(model, method)
    return model


def make_auxiliary(model: TrainableRecommender, method: str) -> Auxiliary | None:
    popularity = torch.from_numpy(TRAIN.counts(NUM_ITEMS)[1:])
    if method == "melt":
        model.encoder.tail_users = TailUsers(DIM, longest=2)
        settings = MeltConfig(users_per_step=3, items_per_step=3, max_contexts=2)
        return Mutual(TRAIN, num_items=NUM_ITEMS, hidden_dim=DIM, settings=settings)
    if method == "llmemb":
        table = torch.randn(NUM_ITEMS, DIM)
        return CollaborativeAlignment(
            table, popularity=popularity, loss="info_nce", weight=0.5, temperature=0.1, popularity_power=0.5
        )
    return None


def gradients(
    model: TrainableRecommender, settings: TrainingConfig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and gradients of a worker's part of some steps, as they are before the workers put them together."""
    found: dict[str, Tensor] = {}

    def record(worker: Worker, model: torch.nn.Module) -> None:
        for name, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = found.get(name, 0) + gradient.clone()
            parameter.grad = None  # and no step is taken

    monkeypatch.setattr(Worker, "sum_gradients", record)
    monkeypatch.setattr(Worker, "sum", lambda self, values: values)
    model = copy.deepcopy(model).train()
    loop = TrainingLoop(model, TRAIN, settings, seed=0, worker=worker)
    objective = training.make_objective(TRAIN, model.encoder, settings)
    losses = [
        loop.step(batch, np.random.default_rng(step), progress=0.5)
        for step, batch in enumerate(objective.batches(seed=0, epoch=0))
    ]
    return losses, found


@pytest.mark.parametrize(
    ("backbone", "method", "loss"),
    [
        *((backbone, "none", "softmax") for backbone in BACKBONES),
        *(("sasrec", "none", loss) for loss in ("sampled_softmax", "gbce", "bce")),
        ("bert4rec", "none", "sampled_softmax"),
        ("gru4rec", "melt", "softmax"),
        ("bert4rec", "melt", "softmax"),
        ("sasrec", "llmemb", "sampled_softmax"),
    ],
)
@pytest.mark.parametrize("num_workers", [2, 13])  # with 13 some have no row of a batch
def test_workers_gradients_add_up_to_those_of_one(backbone, method, loss, num_workers, monkeypatch):
    model, settings = make_model(backbone, method), SETTINGS.model_copy(update={"loss": loss})
    expected_losses, expected = gradients(model, settings, Worker(), monkeypatch)
    workers = [gradients(model, settings, Worker(rank, num_workers), monkeypatch) for rank in range(num_workers)]
    assert len(expected_losses) > 1
    for step, value in enumerate(expected_losses):
        assert sum(losses[step] for losses, _ in workers) == pytest.approx(value, rel=1e-5)
    for name, gradient in expected.items():
        summed = torch.stack([own[name] for _, own in workers]).sum(0)
        torch.testing.assert_close(
            summed, gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
