"""The job as a whole: through Ray Train, killed, gone on with by other numbers of workers, exported."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from transformers import T5Config

from llmemb import lease
from llmemb.config import JobConfig
from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.torch_engine import TorchEngine, load_model, load_tokenizer, tokenize
from llmemb.errors import InputError
from llmemb.lease import Lease
from llmemb.scft import run, training
from llmemb.scft.config import OptimizerConfig, ScftConfig
from llmemb.scft.run import run_scft
from tests.generated import prepare_dataset, write_catalogue
from tests.scft.test_training import write_dataset

TEXTS = ["title is red lamp; brand is acme", "price is 10"]


def changed(config: ScftConfig, **values) -> ScftConfig:
    """The config with other values; groups are merged."""
    merged = config.model_dump()
    for key, value in values.items():
        merged[key] = merged[key] | value if isinstance(value, dict) else value
    return ScftConfig.model_validate(merged)


def read_history(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(scft_config, tmp_path_factory, ray_local) -> Path:
    output = tmp_path_factory.mktemp("scft") / "undisturbed"
    run_scft(changed(scft_config, output=str(output)))
    return output


@pytest.mark.slow
def test_the_encoder_is_what_sentence_transformers_and_peft_open(scft_config, undisturbed):
    import peft
    from sentence_transformers import SentenceTransformer

    info = json.loads((undisturbed / "encoder.json").read_text())
    folder = EncoderFolder.read(undisturbed)
    assert info["fingerprint"] == folder.fingerprint()
    assert info["prompt_template"]["attributes"][0]["name"] == "title"
    token_ids = tokenize(load_tokenizer(folder.path), TEXTS, 64)
    ours = TorchEngine(folder, precision="fp32", tokens_per_batch=64, device="cpu").encode(token_ids)
    np.testing.assert_allclose(ours, SentenceTransformer(str(undisturbed), device="cpu").encode(TEXTS), atol=1e-6)
    base = EncoderFolder.read(Path(scft_config.base_model))
    untrained = TorchEngine(base, precision="fp32", tokens_per_batch=64, device="cpu")
    assert np.abs(untrained.encode(token_ids) - ours).max() > 1e-4
    adapted = peft.PeftModel.from_pretrained(load_model(base, precision="fp32"), str(undisturbed / "adapter"))
    untrained.model = adapted.eval()
    np.testing.assert_allclose(untrained.encode(token_ids), ours, atol=1e-6)


@pytest.mark.slow
def test_the_best_check_is_exported_and_all_of_them_are_recorded(scft_config, undisturbed):
    history = read_history(undisturbed)
    checks = {entry["step"]: entry["next_item_ndcg@10"] for entry in history if "loss" not in entry}
    assert list(checks) == [0, 2, 4, 6]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    metrics = json.loads((undisturbed / "encoder.json").read_text())["metrics"]
    assert metrics["steps"] == max(checks, key=lambda step: checks[step]) > 0
    assert metrics["validation"]["next_item_ndcg@10"] == max(checks.values())
    assert metrics["validation_untrained"]["next_item_ndcg@10"] == checks[0]
    assert not (undisturbed / "checkpoints").exists()


@pytest.mark.slow
def test_training_stops_when_it_gets_worse_and_an_earlier_state_is_exported(scft_config, tmp_path, ray_local, capsys):
    output = tmp_path / "stopped"
    settings = {"optimizer": {"learning_rate": 0.03}, "validation": {"patience": 2}, "max_steps": 20}
    run_scft(changed(scft_config, output=str(output), **settings))
    scores = [entry["next_item_ndcg@10"] for entry in read_history(output) if "loss" not in entry]
    best = int(np.argmax(scores))
    assert 0 < best == len(scores) - 1 - 2 < 20 / 2 - 2
    info = json.loads((output / "encoder.json").read_text())
    assert info["metrics"]["steps"] == 2 * best
    assert f"step {2 * best} of 20" in capsys.readouterr().out


@pytest.mark.slow
def test_a_finished_output_is_kept_without_its_checkpoints_and_another_config_turned_away(
    scft_config, undisturbed, capsys
):
    job = changed(scft_config, output=str(undisturbed))
    left_behind = undisturbed / "checkpoints" / "checkpoint_manager_snapshot.json"
    left_behind.parent.mkdir()
    left_behind.touch()
    run_scft(changed(job, num_workers=2))
    assert not left_behind.parent.exists()
    assert "complete already" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match=r"config\.seed: 1 there, 2 here"):
        run_scft(changed(job, seed=2))
    with pytest.raises(InputError, match=r"config\.max_seq_len: None there, 8 here"):
        run_scft(changed(job, max_seq_len=8))


def test_another_run_of_the_same_output_is_refused_while_one_is_alive(scft_config, tmp_path, monkeypatch):
    job, others = changed(scft_config, output=str(tmp_path / "one")), []

    def begins_another(*_):
        with pytest.raises(InputError, match=r"held by .*, which is running: expected one run at a time"):
            run_scft(job)
        others.append("refused")

    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(run, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(run, "_fine_tune", begins_another)
    monkeypatch.setattr(run, "_tell", lambda _: None)
    run_scft(job)
    assert others == ["refused"]
    assert not (tmp_path / "one" / "LEASE").exists()


def test_a_run_that_was_killed_is_waited_for_and_one_that_was_stopped_is_not(
    scft_config, tmp_path, monkeypatch, capsys
):
    job = changed(scft_config, output=str(tmp_path / "one"))

    def is_stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(run, "_fine_tune", is_stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_scft(job)
    assert "waiting" not in capsys.readouterr().out
    (tmp_path / "one" / "LEASE").unlink()
    Lease.acquire(str(tmp_path / "one" / "LEASE"), owner="ann@there", seconds=0.5)
    with pytest.raises(KeyboardInterrupt):
        run_scft(job)
    told = " ".join(capsys.readouterr().out.split())
    assert "held by ann@there" in told
    assert "waiting to see whether that one is still alive" in told


def test_an_encoder_belongs_to_the_histories_that_chose_its_state(scft_config, tmp_path, monkeypatch, capsys):
    chosen = changed(scft_config, output=str(tmp_path / "chosen"), dataset=str(tmp_path / "dataset"))
    last = changed(chosen, output=str(tmp_path / "last"), validation={"metric": "none"})
    monkeypatch.setattr(run, "_fine_tune", lambda job, *_: Path(job.output, "encoder.json").write_text("{}"))
    monkeypatch.setattr(run, "_tell", lambda _: None)
    before = Dataset.open(scft_config.dataset)
    shutil.copytree(scft_config.dataset, chosen.dataset)
    for job in (chosen, last):
        run_scft(job)
    run_scft(changed(chosen, dataset=scft_config.dataset))
    assert "chosen is complete already" in " ".join(capsys.readouterr().out.split())

    interactions = {"user_id": ["u1"] * 4, "item_id": ["i1", "i2", "i3", "i4"], "timestamp": [1, 2, 3, 4]}
    (tmp_path / "others").mkdir()
    others = prepare_dataset(tmp_path / "others", pl.from_arrow(before.items()), pl.DataFrame(interactions))
    shutil.rmtree(chosen.dataset)
    shutil.copytree(others, chosen.dataset)
    after = Dataset.open(chosen.dataset)
    assert after.catalogue_fingerprint == before.catalogue_fingerprint
    assert after.fingerprint != before.fingerprint
    with pytest.raises(InputError, match=r"belongs to another run \(inputs\.dataset: "):
        run_scft(chosen)
    run_scft(last)
    assert "last is complete already" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_killed_twice_and_gone_on_with_by_two_workers_gives_the_undisturbed_encoder(
    scft_config, undisturbed, tmp_path, monkeypatch
):
    output = tmp_path / "killed"
    job = changed(scft_config, output=str(output), engine={"save_every_steps": 1, "max_failures": 0})
    monkeypatch.setattr(run, "train_worker", kills_itself(at_step=3, output=output, log=tmp_path))
    with pytest.raises(Exception, match=r"(?i)died|killed|failed"):
        run_scft(job)
    monkeypatch.setattr(run, "train_worker", kills_itself(at_step=5, output=output, log=tmp_path))
    run_scft(changed(job, num_workers=2, engine={"max_failures": 1, "zero_stage": 3}))

    starts = [int(line) for line in (tmp_path / "starts").read_text().split()]
    assert len(starts) == 3
    assert starts[0] == 0 < starts[1] <= 3 <= starts[2] <= 5
    ours, expected = read_history(output), read_history(undisturbed)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in expected]
    for key in ("loss", "next_item_ndcg@10", "temperature"):
        found, wanted = ([entry[key] for entry in history if key in entry] for history in (ours, expected))
        np.testing.assert_allclose(found, wanted, rtol=1e-3)
    weights = [safetensors.torch.load_file(folder / "model.safetensors") for folder in (output, undisturbed)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-2, atol=1e-4)


def kills_itself(*, at_step: int, output: Path, log: Path):
    """A worker function whose first rank dies by SIGKILL, once, with a checkpoint of that step or the one before."""

    def worker(arguments):
        original = training.Training.step

        def step(self):
            if self._worker.rank == 0 and not hasattr(self, "started"):
                self.started = True
                with (log / "starts").open("a") as starts:
                    starts.write(f"{self.progress.step}\n")
            marker = log / f"killed-{at_step}"
            if self._worker.rank == 0 and self.progress.step == at_step and not marker.exists():
                marker.touch()
                deadline = time.monotonic() + 60
                while not any(saved >= at_step - 1 for saved in saved_steps(output)) and time.monotonic() < deadline:
                    time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self)

        training.Training.step = step
        try:
            return training.train_worker(arguments)
        finally:
            training.Training.step = original

    return worker


def saved_steps(output: Path) -> list[int]:
    """The steps of the checkpoints that Ray Train's own record names: those that a new run can go on from."""
    record = output / "checkpoints" / "checkpoint_manager_snapshot.json"
    if not record.exists():
        return []
    names = {path.parent.name: path for path in (output / "checkpoints").glob("*/state.json")}
    known = record.read_text()
    return [json.loads(path.read_text())["step"] for name, path in names.items() if name in known]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_clear_line_and_is_not_tried_again(scft_config, tmp_path, ray_local):
    job = changed(
        scft_config,
        output=str(tmp_path / "x"),
        optimizer={"learning_rate": 1e30, "warmup_share": 0.0},
        validation={"metric": "none"},
    )
    with pytest.raises(InputError, match=r"training: step \d: loss (nan|inf).* in a batch of the items i\d+"):
        run_scft(job)
    assert not (tmp_path / "x" / "encoder.json").exists()


@pytest.mark.slow
def test_every_weight_can_be_trained_and_the_last_state_exported(scft_config, tmp_path, ray_local):
    output = tmp_path / "full"
    run_scft(changed(scft_config, output=str(output), tuning="full", max_steps=2, validation={"metric": "none"}))
    info = json.loads((output / "encoder.json").read_text())
    assert info["metrics"]["steps"] == 2
    assert not (output / "adapter").exists()
    before = safetensors.torch.load_file(Path(scft_config.base_model) / "model.safetensors")
    after = safetensors.torch.load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) > len(before) / 2


def test_a_batch_larger_than_the_catalogue_is_refused_before_work(scft_config, tmp_path):
    message = "batch_size: expected at most the 35 items that have a prompt, 3 others being held out for validation"
    with pytest.raises(InputError, match=message):
        run_scft(changed(scft_config, batch_size=36, output=str(tmp_path / "x")))
    with pytest.raises(InputError, match="batch_size: expected at most the 38 items that have a prompt, got 39"):
        run_scft(changed(scft_config, batch_size=39, validation={"metric": "none"}, output=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


def test_a_metric_without_items_to_hold_out_is_refused_before_work(scft_config, tmp_path):
    update = {
        "dataset": write_dataset(tmp_path, num_items=15, interactions_per_user=6),
        "prompt": {"attributes": ["title"]},
        "validation": {"metric": "retrieval_accuracy"},
        "output": str(tmp_path / "x"),
    }
    with pytest.raises(InputError, match=r"^validation\.metric: retrieval_accuracy needs histories of two items"):
        run_scft(changed(scft_config, **update))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        ({"a": None, "b": ""}, "none of the 2 items has a value for title"),
        ({"a": "a red lamp", "b": None}, "batch_size: expected at most the 1 items that have a prompt, got 2"),
    ],
)
def test_a_catalogue_with_nothing_to_tell_apart_is_refused_before_work(scft_config, tmp_path, titles, message):
    dataset = write_catalogue(tmp_path / "dataset", titles)
    with pytest.raises(InputError, match=message):
        run_scft(changed(scft_config, dataset=dataset, prompt={"attributes": ["title"]}, batch_size=2))


@pytest.mark.slow
def test_a_model_that_cannot_be_pooled_is_one_line(tmp_path, tiny_encoder):
    base = shutil.copytree(tiny_encoder, tmp_path / "base")
    T5Config(d_model=32, num_layers=1, num_heads=2, d_kv=16, d_ff=32, vocab_size=64).save_pretrained(base)
    with pytest.raises(InputError, match="base: t5 is an encoder-decoder; expected one of them alone"):
        load_model(EncoderFolder.read(base), precision="fp32")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": {"offload": "all"}}, "engine: offload all needs zero_stage 3, got 2"),
        ({"num_workers": 2, "engine": {"min_workers": 3}}, "expected engine.min_workers of at most num_workers = 2"),
        ({"trackers": ["excel"]}, "trackers.0"),
    ],
)
def test_settings_that_do_not_go_together_are_named(scft_config, values, message):
    with pytest.raises(InputError, match=message):
        ScftConfig.parse(scft_config.model_dump(exclude_defaults=True) | values)
    assert issubclass(ScftConfig, JobConfig)


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero():
    def rates(decay):
        settings = OptimizerConfig(learning_rate=1.0, warmup_share=0.2, decay=decay)
        return [training.learning_rate(step, max_steps=10, config=settings) for step in range(10)]

    assert rates("linear") == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rates("none") == pytest.approx([1 / 2] + [1] * 9)
    assert rates("cosine")[6] == pytest.approx(1 / 2)
