import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from llmemb.data.sequences import LeaveOneOut, Sequences
from llmemb.rat import checkpoint, tensors
from llmemb.rat.config import MeltConfig, TrainingConfig
from llmemb.rat.methods.melt import Mutual
from llmemb.rat.training import TrainableRecommender, train
from llmemb.srs.backbone import make_backbone
from llmemb.srs.encoder import HistoryEncoder, TermWeights
from llmemb.srs.item_table import IdTable
from llmemb.srs.tail_users import TailUsers

NUM_ITEMS, DIM, EPOCHS = 12, 8, 5
CIRCLE = Sequences.from_lists([[(start + step) % NUM_ITEMS + 1 for step in range(6)] for start in range(NUM_ITEMS)])
# A few users walk on where the others stop.
WALKS = Sequences.from_lists(
    [[(start + step) % NUM_ITEMS + 1 for step in range(5 + 4 * (start % 6 == 0))] for start in range(NUM_ITEMS)]
)
SETTINGS = TrainingConfig(
    batch_positions=16,
    learning_rate=1e-2,
    weight_decay=0.01,
    popularity_offset=0.3,
    warmup_steps=3,
    max_epochs=EPOCHS,
    patience=EPOCHS,
    mask_share=0.4,
    newest_share=0.5,
)


class KilledError(Exception):
    pass


def make_model(backbone: str, method: str = "none") -> TrainableRecommender:
    torch.manual_seed(0)
    module = make_backbone(backbone, hidden_dim=DIM, num_blocks=1, num_heads=1, max_seq_len=4, dropout=0.3)
    encoder = HistoryEncoder(module, hidden_dim=DIM, max_seq_len=4, similarity="cosine", temperature=0.1)
    model = TrainableRecommender(IdTable(NUM_ITEMS, DIM), encoder, num_items=NUM_ITEMS)
    if method == "melt":
        encoder.tail_users = TailUsers(DIM, longest=2)
        settings = MeltConfig(users_per_step=3, items_per_step=3, max_contexts=2)
        model.auxiliary = Mutual(LeaveOneOut().train(WALKS), num_items=NUM_ITEMS, hidden_dim=DIM, settings=settings)
    return model


def fit(uri: str | None, *, backbone: str = "sasrec", method: str = "none", killed_after: int | None = None):
    model, split = make_model(backbone, method), LeaveOneOut()
    sequences = WALKS if method == "melt" else CIRCLE

    def tell(done: int, total: int, figures: Mapping[str, float]) -> None:
        if done == killed_after:
            raise KilledError

    history = train(
        model,
        split.train(sequences),
        split.targets(sequences, "validation"),
        SETTINGS,
        seed=1,
        checkpoint_uri=uri,
        tell=tell,
    )
    return model, history


# Both objectives, and a method that writes the table before an epoch and has weights of its own.
@pytest.mark.parametrize(("backbone", "method"), [("sasrec", "none"), ("bert4rec", "none"), ("sasrec", "melt")])
def test_a_training_that_was_cut_ends_as_one_that_was_not(tmp_path: Path, backbone, method):
    expected, undisturbed = fit(None, backbone=backbone, method=method)
    uri = str(tmp_path / "checkpoint.safetensors")
    for killed_after in (1, 3, EPOCHS):
        with pytest.raises(KilledError):
            fit(uri, backbone=backbone, method=method, killed_after=killed_after)
        done = checkpoint.load(uri)
        assert done is not None
        assert len(done.history) == killed_after
    model, history = fit(uri, backbone=backbone, method=method)
    assert [epoch.step_losses for epoch in history] == [epoch.step_losses for epoch in undisturbed]
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=0)


def test_what_a_backbone_freezes_and_writes_itself_is_kept_with_its_weights(tmp_path: Path):
    """Such as a codebook: the training changes it, whether or not it has a gradient."""
    model = make_model("sasrec")
    model.encoder.backbone.codebook = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    kept = copy.deepcopy(model.trained())
    model.encoder.backbone.codebook.data.fill_(1.0)
    model.encoder.weights = TermWeights(-3.0, 4.0, 0.3)
    model.load_trained(kept)
    assert model.encoder.backbone.codebook.tolist() == [0.0, 0.0]
    assert model.encoder.weights.content_weight == 4.0  # given, and not trained
    assert not [name for name in kept if "content_weight" in name]


def test_what_another_version_began_is_begun_again(tmp_path: Path):
    uri = str(tmp_path / "checkpoint.safetensors")
    with pytest.raises(KilledError):
        fit(uri, killed_after=2)
    done = checkpoint.load(uri)
    assert done is not None
    for weights in (done.weights, done.best_weights):
        weights["encoder.seen_logit"] = torch.zeros(())  # as one that kept this with what is trained
    checkpoint.save(uri, done)
    _, history = fit(uri)
    assert len(history) == EPOCHS
    assert [epoch.step_losses for epoch in history] == [epoch.step_losses for epoch in fit(None)[1]]


def test_what_is_told_of_single_steps_is_not_in_the_header(tmp_path: Path):
    uri = str(tmp_path / "checkpoint.safetensors")
    _, history = fit(uri)
    assert len(history[0].step_losses) > 1
    _, notes = tensors.read(uri)
    assert [epoch.keys() for epoch in notes["history"]] == [history[0].summary().keys()] * EPOCHS
    done = checkpoint.load(uri)
    assert done is not None
    assert done.history == history


def test_without_a_file_there_is_nothing_to_go_on_with(tmp_path):
    assert checkpoint.load(str(tmp_path / "none.safetensors")) is None
