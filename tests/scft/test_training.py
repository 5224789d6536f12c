"""SCFT through Ray Train and DeepSpeed: nothing about how a step is computed changes what it computes."""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from llmemb import contrastive
from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, pad, tokenize
from llmemb.errors import InputError
from llmemb.scft import training
from llmemb.scft.batches import worker_slice
from llmemb.scft.config import OptimizerConfig, ScftConfig
from llmemb.scft.run import run_scft

STEPS = 3
CELLS = [(stage, tokens) for stage in (0, 1, 2, 3) for tokens in (40, 10_000)]


@pytest.fixture(scope="module")
def config(tiny_dataset, tiny_encoder) -> ScftConfig:
    return ScftConfig.parse(
        {
            "dataset": tiny_dataset,
            "base_model": str(tiny_encoder),
            "output": "unused",
            "max_steps": STEPS,
            "batch_size": 9,
            "prompt": {"attributes": ["title", "brand", "price"]},
            "optimizer": {"learning_rate": 0.01, "max_gradient_norm": 0.05},
            "lora": {"rank": 2},
        }
    )


def reference_losses(config: ScftConfig) -> list[float]:
    """The same training in plain torch: one process, one whole batch at a time."""
    folder = EncoderFolder.read(Path(config.base_model))
    model = training.PooledEncoder(training.lora_model(folder, config, precision="fp32"), "mean")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    batches = training.PairBatches(Dataset.open(config.dataset), config, load_tokenizer(folder.path), 64)
    losses = []
    for step in range(STEPS):
        token_ids = batches.token_ids(batches.items(step), slice(None))
        first, second = model(*pad(token_ids, "cpu")).view(2, config.batch_size, -1)
        loss = contrastive.soft_targets(first, second, temperature=config.loss.temperature)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm)
        optimizer.param_groups[0]["lr"] = training.learning_rate(step, max_steps=STEPS, config=config.optimizer)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def losses_on_workers(config: ScftConfig, num_workers: int, folder: Path) -> dict[tuple[int, int], list[float]]:
    """One Ray Train group that goes through all cells of (ZeRO stage, tokens per chunk)."""
    import ray.train
    from ray.train.torch import TorchTrainer

    def worker(_: dict) -> None:
        torch.set_num_threads(1)
        rank = ray.train.get_context().get_world_rank()
        encoder = EncoderFolder.read(Path(config.base_model))
        batches = training.PairBatches(Dataset.open(config.dataset), config, load_tokenizer(encoder.path), 64)
        losses = []
        for stage, tokens in CELLS:
            settings = config.engine.model_copy(update={"zero_stage": stage, "tokens_per_chunk": tokens})
            cell = config.model_copy(update={"engine": settings})
            model = training.PooledEncoder(training.lora_model(encoder, cell, precision="fp32"), "mean")
            engine = training.initialize_engine(model, cell, "fp32")
            losses.append([])
            for step in range(STEPS):
                batch = batches.items(step)
                part = worker_slice(cell.batch_size, rank=rank, num_workers=num_workers)
                rate = training.learning_rate(step, max_steps=STEPS, config=cell.optimizer)
                loss = partial(contrastive.soft_targets, temperature=cell.loss.temperature)
                losses[-1].append(training.train_step(engine, batches.token_ids(batch, part), loss, cell, rate).loss)
            engine.destroy()
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "losses.json").write_text(json.dumps(losses))
            checkpoint = ray.train.Checkpoint.from_directory(temporary) if rank == 0 else None
            ray.train.report({}, checkpoint=checkpoint)

    trainer = TorchTrainer(
        worker,
        train_loop_config={},
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers),
        run_config=ray.train.RunConfig(name="cells", storage_path=str(folder)),
    )
    with trainer.fit().checkpoint.as_directory() as result:
        return dict(zip(CELLS, json.loads((Path(result) / "losses.json").read_text()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_losses_do_not_depend_on_workers_zero_stage_or_chunks(config, num_workers, tmp_path, ray_local):
    expected = reference_losses(config)
    assert len({round(loss, 3) for loss in expected}) > 1
    for cell, losses in losses_on_workers(config, num_workers, tmp_path).items():
        np.testing.assert_allclose(losses, expected, rtol=1e-4, err_msg=f"ZeRO stage, tokens per chunk: {cell}")


@pytest.mark.slow
def test_the_job_writes_an_encoder_that_sentence_transformers_opens(config, tmp_path, ray_local, capsys):
    from sentence_transformers import SentenceTransformer

    output = tmp_path / "encoder"
    job = config.model_copy(update={"output": str(output), "num_workers": 2})
    run_scft(job)
    info = json.loads((output / "encoder.json").read_text())
    folder = EncoderFolder.read(output)
    assert info["fingerprint"] == folder.fingerprint()
    assert info["metrics"]["steps"] == STEPS
    assert info["prompt_template"]["attributes"][0]["name"] == "title"
    losses = [entry["loss"] for entry in json.loads((output / "history.json").read_text())]
    np.testing.assert_allclose(losses, reference_losses(config), rtol=1e-4)

    texts = ["title is red lamp; brand is acme", "price is 10"]
    ours = TorchEngine(folder, precision="fp32", tokens_per_batch=64, device="cpu").encode(
        tokenize(load_tokenizer(folder.path), texts, 64)
    )
    theirs = SentenceTransformer(str(output), device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    base = SentenceTransformer(config.base_model, device="cpu").encode(texts)
    assert np.abs(theirs - base).max() > 1e-4

    run_scft(job)
    assert "complete already" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match=r"config\.seed: 0 there, 1 here"):
        run_scft(job.model_copy(update={"seed": 1}))
    with pytest.raises(InputError, match=r"config\.max_seq_len: None there, 8 here"):
        run_scft(job.model_copy(update={"max_seq_len": 8}))


def test_a_batch_larger_than_the_catalogue_is_refused_before_work(config, tmp_path):
    with pytest.raises(InputError, match="batch_size: expected at most the 38 items that have a prompt, got 39"):
        run_scft(config.model_copy(update={"batch_size": 39, "output": str(tmp_path / "x")}))
    assert not (tmp_path / "x").exists()


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero():
    settings = OptimizerConfig(learning_rate=1.0, warmup_share=0.2)
    rates = [training.learning_rate(step, max_steps=10, config=settings) for step in range(10)]
    assert rates == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
