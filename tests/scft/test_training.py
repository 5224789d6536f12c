import itertools

import polars as pl
import pytest
import torch

from llmemb import storage
from llmemb.errors import InputError, TemporaryError
from llmemb.scft import training
from llmemb.scft.config import ScftConfig
from llmemb.scft.model import trainable
from llmemb.scft.training import Training
from tests.generated import prepare_dataset
from tests.scft.process_group import run_workers

pytestmark = pytest.mark.slow


def with_stage(config: ScftConfig, stage: int) -> ScftConfig:
    return config.model_copy(update={"engine": config.engine.model_copy(update={"zero_stage": stage})})


def take_steps(rank: int, num_workers: int, values: dict) -> None:
    config, norms = ScftConfig.model_validate(values), []
    for stage, precision in [*itertools.product((0, 1, 2, 3), ["fp32"]), (2, "bf16"), (3, "bf16")]:
        training = Training(with_stage(config, stage), precision)
        norms.append(training.step()["gradient_norm"])
        *_, parameter = trainable(training.engine.module).values()
        parameter.register_hook(lambda gradient: gradient * torch.nan)
        with pytest.raises(FloatingPointError, match=r"step 2: loss \d\.\d+, gradient norm (nan|inf), in a batch of"):
            training.step()
        assert training.progress.step == 1
        assert parameter.isfinite().all()
    assert norms[:4] == pytest.approx([norms[0]] * 4, rel=1e-4)
    assert min(norms) > config.optimizer.max_gradient_norm


def test_every_stage_records_the_gradients_norm_before_clipping_and_stops_where_it_is_none(scft_config):
    optimizer = scft_config.optimizer.model_copy(update={"max_gradient_norm": 1e-3})
    run_workers(take_steps, 2, scft_config.model_copy(update={"optimizer": optimizer}).model_dump(mode="json"))


def test_an_outage_of_the_store_costs_the_history_alone(monkeypatch):
    def fails(*_: object) -> None:
        raise TemporaryError("s3://bucket: no answer")

    told: list[str] = []
    monkeypatch.setattr(storage, "write_bytes", fails)
    # Not by caplog, which hears nothing where some library has turned loggers off.
    monkeypatch.setattr(training.logger, "warning", lambda message, *values: told.append(message % values))
    training._write_history("s3://bucket/encoder", [{"step": 1, "loss": 0.5}])
    assert told == ["history.jsonl is left to the next checkpoint: s3://bucket: no answer"]


def check_broken_vectors(rank: int, num_workers: int, values: dict) -> None:
    training = Training(ScftConfig.model_validate(values), "fp32")
    assert "next_item_ndcg@10" in training.check()
    with torch.no_grad():
        next(iter(trainable(training.engine.module).values())).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"step 0: the vectors of \d+ of the sample's items .*, i\d+, …;"):
        training.check()


def test_a_check_of_vectors_that_are_not_finite_ends_training(scft_config):
    run_workers(check_broken_vectors, 1, scft_config.model_dump(mode="json"))


def write_dataset(folder, num_items: int, interactions_per_user: int) -> str:
    """20 users, as many interactions of each."""
    names = itertools.islice(itertools.cycle(["red lamp", "desk", "chair"]), num_items)
    items = pl.DataFrame({"item_id": [f"i{item}" for item in range(num_items)], "title": list(names)})
    rows = range(20 * interactions_per_user)
    interactions = pl.DataFrame(
        {
            "user_id": [f"u{row // interactions_per_user}" for row in rows],
            "item_id": [f"i{row % num_items}" for row in rows],
            "timestamp": list(rows),
        }
    )
    return prepare_dataset(folder, items, interactions)


def check_small_datasets(rank: int, num_workers: int, values: list[dict]) -> None:
    few_items, no_histories, nothing = (Training(ScftConfig.model_validate(each), "fp32") for each in values)
    assert {"next_item_ndcg@10", "retrieval_accuracy"} & few_items.check().keys() == {"next_item_ndcg@10"}
    assert few_items.step()["loss"] > 0
    assert {"next_item_ndcg@10", "retrieval_accuracy"} & no_histories.check().keys() == {"retrieval_accuracy"}
    with pytest.raises(InputError, match=r"validation\.metric: next_item_ndcg@10 needs histories of two items"):
        nothing.check()


def test_a_check_does_with_what_a_small_dataset_has(scft_config, tmp_path):
    values = []
    for num_items, each, metric in (
        (15, 6, "next_item_ndcg@10"),
        (30, 3, "retrieval_accuracy"),
        (15, 3, "next_item_ndcg@10"),
    ):
        folder = tmp_path / f"{num_items}-{each}"
        folder.mkdir()
        update = {
            "dataset": write_dataset(folder, num_items, each),
            "prompt": scft_config.prompt.model_validate({"attributes": ["title"]}),
            "validation": scft_config.validation.model_copy(update={"metric": metric}),
        }
        values.append(scft_config.model_copy(update=update).model_dump(mode="json"))
    run_workers(check_small_datasets, 1, values)
