"""Nothing about how a step is computed changes what it computes, and any number of workers goes on from any other."""

import itertools
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import EncoderFolder
from llmemb.errors import InputError
from llmemb.scft import engine as scft_engine
from llmemb.scft.batches import global_batch, worker_slice
from llmemb.scft.config import ScftConfig
from llmemb.scft.engine import WorkerBatch, encode, make_engine, train_step, was_skipped
from llmemb.scft.export import export_encoder
from llmemb.scft.items import ItemTexts, survey, write_items
from llmemb.scft.loss import TemperedLoss
from llmemb.scft.model import PooledEncoder, make_model
from llmemb.scft.state import load_state, read_samples, save_state, trained_weights
from llmemb.scft.training import learning_rate
from tests.generated import write_tiny_decoder
from tests.scft import reference
from tests.scft.process_group import run_workers

STEPS, FIRST_MOMENT = 3, 0.1  # AdamW's first moment after one step is (1 - 0.9) of the gradient
STAGES, TUNINGS, TOKENS_PER_CHUNK = (0, 1, 2, 3), ("lora", "full"), (10_000, 100, 1)
WORLDS = (1, 2, 3, 1)
DECODERS = ("llama", "qwen3")
DEEPSPEED_CONFIG = scft_engine._deepspeed_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def items_file(scft_config, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("items") / "items.arrow"
    write_items(Dataset.open(scft_config.dataset), scft_config.prompt, path)
    return path


def unclipped(config: ScftConfig) -> ScftConfig:
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"max_gradient_norm": 1e6})})


def cell_config(config: ScftConfig, stage: int, tuning: str, tokens: int) -> ScftConfig:
    engine = config.engine.model_copy(update={"zero_stage": stage, "tokens_per_chunk": tokens})
    # Clipping divides by the norm, which would hide a gradient that is off by a factor.
    return config.model_copy(update={"engine": engine, "tuning": tuning, "max_steps": STEPS * len(WORLDS)})


def build(config: ScftConfig, precision="fp32"):
    encoder = make_model(EncoderFolder.read(Path(config.base_model)), config, precision=precision)
    return make_engine(encoder, config.engine, config.optimizer, precision), TemperedLoss(config.loss)


def step(engine, loss, config: ScftConfig, items: ItemTexts, number: int, rank: int, num_workers: int) -> float:
    batches = []
    for batch_number in reference.batch_numbers(number, config):
        batch = global_batch(batch_number, seed=config.seed, num_items=len(items), batch_size=config.batch_size)
        mine = batch.items[worker_slice(config.batch_size, rank=rank, num_workers=num_workers)]
        token_ids = items.views(mine, seed=config.seed, epoch=batch.epoch, drop_ratio=config.views.drop_ratio)
        batches.append(WorkerBatch(token_ids, torch.from_numpy(items.equal(batch.items))))
    value, *_ = train_step(
        engine,
        batches,
        loss,
        learning_rate=learning_rate(number, max_steps=config.max_steps, config=config.optimizer),
        tokens_per_chunk=config.engine.tokens_per_chunk,
        dropout_seed=[config.seed, number, rank],
    )
    return value


def save(folder: Path, engine, loss, samples, rank: int) -> None:
    if rank == 0:
        folder.mkdir(parents=True)
    save_state(folder, engine, loss, {"step": 1}, samples=samples, writes=rank == 0)


def run_matrix(rank: int, num_workers: int, values: dict, items_path: str, output: str) -> None:
    base = ScftConfig.model_validate(values)
    items = reference.open_items(base, Path(items_path))
    losses = {}
    for stage, tuning, tokens in itertools.product(STAGES, TUNINGS, TOKENS_PER_CHUNK):
        config = cell_config(base, stage, tuning, tokens)
        engine, loss = build(config)
        found = [step(engine, loss, config, items, 0, rank, num_workers)]
        save(Path(output, f"{stage}-{tuning}-{tokens}"), engine, loss, torch.zeros(1, 1), rank)
        found += [step(engine, loss, config, items, number, rank, num_workers) for number in range(1, STEPS)]
        losses[f"{stage}-{tuning}-{tokens}"] = found
        engine.destroy()
    if rank == 0:
        Path(output, "losses.json").write_text(json.dumps(losses))


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_losses_and_gradients_are_plain_torchs_in_every_cell(scft_config, items_file, num_workers, tmp_path):
    config = unclipped(scft_config)
    run_workers(run_matrix, num_workers, config.model_dump(mode="json"), str(items_file), str(tmp_path))
    items = reference.open_items(config, items_file)
    found = json.loads((tmp_path / "losses.json").read_text())
    assert len(found) == len(STAGES) * len(TUNINGS) * len(TOKENS_PER_CHUNK)
    for tuning in TUNINGS:
        expected = reference.train(cell_config(config, 0, tuning, 1), items, np.arange(len(items)), num_steps=STEPS)
        assert len({round(loss, 3) for loss in expected.losses}) == STEPS
        for stage, tokens in itertools.product(STAGES, TOKENS_PER_CHUNK):
            cell = f"{stage}-{tuning}-{tokens}"
            np.testing.assert_allclose(found[cell], expected.losses, rtol=1e-4, err_msg=cell)
            state = safetensors.torch.load_file(tmp_path / cell / "state-00000.safetensors")
            for name, gradient in expected.gradients[0].items():
                actual = state[f"exp_avg:{name}"] / FIRST_MOMENT
                torch.testing.assert_close(
                    actual, gradient, rtol=1e-3, atol=1e-6, msg=lambda text, c=cell: f"{c}: {text}"
                )


MEMORY_SAVERS = {
    "optimizer on the CPU": {"zero_stage": 2, "offload": "optimizer"},
    "all on the CPU": {"zero_stage": 3, "offload": "all"},
    "activations again": {"zero_stage": 2, "gradient_checkpointing": True},
    "activations again, weights cut up": {"zero_stage": 3, "gradient_checkpointing": True},
}


def run_memory_savers(rank: int, num_workers: int, values: dict, items_path: str, output: str) -> None:
    base = ScftConfig.model_validate(values)
    items = reference.open_items(base, Path(items_path))
    losses = {}
    for (name, settings), tuning in itertools.product(MEMORY_SAVERS.items(), TUNINGS):
        settings = base.engine.model_copy(update=settings | {"tokens_per_chunk": 100})
        config = base.model_copy(update={"engine": settings, "tuning": tuning})
        engine, loss = build(config)
        model = engine.module.model
        transformer = model.get_base_model() if tuning == "lora" else model
        calls = count_calls(engine.module, transformer.encoder.layer[0])
        assert (engine.zero_offload_optimizer() is None) == (settings.offload == "none")
        assert (engine.zero_offload_param() is None) == (settings.offload != "all")
        losses[f"{name}, {tuning}"] = [step(engine, loss, config, items, n, rank, num_workers) for n in range(STEPS)]
        again = calls["passes with a graph"] if settings.gradient_checkpointing else 0
        assert calls["layer"] == calls["passes"] + again > 0
        engine.destroy()
    if rank == 0:
        Path(output, "losses.json").write_text(json.dumps(losses))


def count_calls(encoder: torch.nn.Module, layer: torch.nn.Module) -> Counter[str]:
    """Counts, from now on, passes through the encoder and the calls of one of its layers."""
    calls: Counter[str] = Counter()
    layer.register_forward_pre_hook(lambda *_: calls.update(["layer"]))
    encoder.register_forward_pre_hook(
        lambda *_: calls.update(["passes", *["passes with a graph"] * torch.is_grad_enabled()])
    )
    return calls


def test_what_saves_memory_and_batches_added_up_train_as_plain_torch(scft_config, items_file, tmp_path):
    optimizer = scft_config.optimizer.model_copy(update={"batches_per_step": 2})
    config = scft_config.model_copy(update={"optimizer": optimizer})
    run_workers(run_memory_savers, 2, config.model_dump(mode="json"), str(items_file), str(tmp_path))
    items = reference.open_items(config, items_file)
    found = json.loads((tmp_path / "losses.json").read_text())
    assert len(found) == len(MEMORY_SAVERS) * len(TUNINGS)
    for tuning in TUNINGS:
        alone = config.model_copy(update={"tuning": tuning})
        expected = reference.train(alone, items, np.arange(len(items)), num_steps=STEPS)
        for name in MEMORY_SAVERS:
            cell = f"{name}, {tuning}"
            np.testing.assert_allclose(found[cell], expected.losses, rtol=1e-4, err_msg=cell)


def go_on_in_bf16(rank: int, num_workers: int, values: dict, items_path: str, output: str) -> None:
    base = ScftConfig.model_validate(values)
    items = reference.open_items(base, Path(items_path))
    found = {}
    for stage, tuning in itertools.product((1, 2, 3), TUNINGS):
        config = cell_config(base, stage, tuning, 100)
        engine, loss = build(config, "bf16")
        assert engine.communication_data_type == torch.float32
        folder = Path(output, f"{stage}-{tuning}")
        step(engine, loss, config, items, 0, rank, num_workers)
        save(folder, engine, loss, torch.zeros(1, 1), rank)
        dist.barrier()
        resumed, resumed_loss = build(config, "bf16")
        load_state(folder, resumed, resumed_loss)
        found[f"{stage}-{tuning}"] = [
            [step(each, its_loss, config, items, number, rank, num_workers) for number in (1, 2)]
            for each, its_loss in ((engine, loss), (resumed, resumed_loss))
        ]
    if rank == 0:
        Path(output, "found.json").write_text(json.dumps(found))


def allow_fp16() -> None:
    """DeepSpeed refuses it on CPUs that have no instructions for it; torch computes it all the same."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def test_in_bf16_a_resumed_training_is_the_uninterrupted_one_to_the_bit(scft_config, items_file, tmp_path):
    """Its float32 copies are saved, not what they round to."""
    run_workers(go_on_in_bf16, 2, scft_config.model_dump(mode="json"), str(items_file), str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 3 * len(TUNINGS)
    for cell, (uninterrupted, resumed) in found.items():
        assert uninterrupted == resumed, cell
        assert uninterrupted[0] != uninterrupted[1]


FP16_CELLS = {1: "lora", 2: "full", 3: "lora"}


def test_fp16_where_it_is_not_computed_is_one_clear_line(scft_config, monkeypatch):
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    with pytest.raises(InputError, match=r"engine\.precision: .* does not compute fp16; expected bf16 or fp32"):
        build(scft_config, "fp16")


def overflow_and_go_on(rank: int, num_workers: int, values: dict, items_path: str, output: str) -> None:
    """A step, one that overflows, a checkpoint and three more, which are done again from the checkpoint."""
    allow_fp16()
    base = ScftConfig.model_validate(values)
    items = reference.open_items(base, Path(items_path))
    found = {}
    for stage, tuning in FP16_CELLS.items():
        config = cell_config(base, stage, tuning, 100)
        engine, loss = build(config, "fp16")
        engine.optimizer.loss_scaler.cur_scale, engine.optimizer.loss_scaler.cur_hysteresis = 2.0**10, 1
        folder = Path(output, str(stage))
        step(engine, loss, config, items, 0, rank, num_workers)
        skipped = [was_skipped(engine)]
        save(Path(output, f"before-{stage}"), engine, loss, torch.zeros(1, 1), rank)
        engine.optimizer.loss_scaler.cur_scale = 2.0**60
        step(engine, loss, config, items, 1, rank, num_workers)
        skipped.append(was_skipped(engine))
        scale = engine.optimizer.loss_scale
        engine.optimizer.loss_scaler.cur_scale = 2.0**9
        save(folder, engine, loss, torch.zeros(1, 1), rank)
        dist.barrier()
        resumed, resumed_loss = build(config, "fp16")
        load_state(folder, resumed, resumed_loss)
        losses = [
            [step(each, its_loss, config, items, number, rank, num_workers) for number in (2, 3, 4)]
            for each, its_loss in ((engine, loss), (resumed, resumed_loss))
        ]
        scales = [engine.optimizer.loss_scale, resumed.optimizer.loss_scale]
        found[stage] = {"skipped": skipped, "scale": scale, "scales": scales, "losses": losses}
        engine.optimizer.loss_scaler.cur_scale = 2.0**60
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(scft_engine, "MIN_LOSS_SCALE", 2.0**60)
            with pytest.raises(FloatingPointError, match="overflow fp16 even at a loss scale"):
                step(engine, loss, config, items, 5, rank, num_workers)
    if rank == 0:
        Path(output, "found.json").write_text(json.dumps(found))


def test_a_step_that_overflows_fp16_changes_nothing_and_is_not_counted(scft_config, items_file, tmp_path):
    config = unclipped(scft_config)
    run_workers(overflow_and_go_on, 2, config.model_dump(mode="json"), str(items_file), str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    items = reference.open_items(config, items_file)
    for stage, cell in found.items():
        alone = cell_config(config, 0, FP16_CELLS[int(stage)], 1)
        expected = reference.train(alone, items, np.arange(len(items)), num_steps=1)
        assert cell["skipped"] == [False, True], stage
        first = safetensors.torch.load_file(tmp_path / f"before-{stage}" / "state-00000.safetensors")
        for name, gradient in expected.gradients[0].items():
            error = (first[f"exp_avg:{name}"] / FIRST_MOMENT - gradient).norm()
            assert error <= 0.02 * gradient.norm() + 1e-6, (stage, name)
        before, after = (dict(trained_weights(tmp_path / folder)) for folder in (f"before-{stage}", stage))
        assert before
        assert all(torch.equal(weight, after[name]) for name, weight in before.items()), stage
        assert cell["scale"] == 2.0**59, stage
        assert cell["scales"] == [2.0**9] * 2, stage
        assert cell["losses"][0] == cell["losses"][1], stage
        assert len(set(cell["losses"][0])) == 3, stage


def export_decoders(rank: int, num_workers: int, values: dict, items_path: str, output: str) -> None:
    """Trains each kind for a few steps and exports it; its losses are beside it."""
    base = ScftConfig.model_validate(values)
    for kind, stage in itertools.product(DECODERS, (2, 3)):
        folder = Path(output, kind)
        config = cell_config(base, stage, "lora", 100).model_copy(
            update={"base_model": str(folder), "output": str(folder / f"trained-{stage}")}
        )
        items = reference.open_items(config, Path(items_path))
        engine, loss = build(config)
        losses = [step(engine, loss, config, items, number, rank, num_workers) for number in range(STEPS)]
        samples = encode(engine, items.prompts(np.arange(4)), tokens_per_chunk=100)
        state = folder / f"state-{stage}"
        state.mkdir()
        progress = {"step": STEPS, "history": [{"step": STEPS, "next_item_ndcg@10": 0.0}]}
        save_state(state, engine, loss, progress, samples=samples, writes=True)
        engine.destroy()
        prompts = survey(Dataset.open(config.dataset), config.prompt, 4)[1]
        export_encoder(config, state, prompts, precision="fp32")
        (folder / f"losses-{stage}.json").write_text(json.dumps(losses))


def test_decoders_train_as_in_plain_torch_and_come_out_as_encoders(scft_config, items_file, tmp_path):
    from sentence_transformers import SentenceTransformer

    for kind in DECODERS:
        write_tiny_decoder(tmp_path / kind, kind, with_head=False)
    run_workers(export_decoders, 1, scft_config.model_dump(mode="json"), str(items_file), str(tmp_path))
    for kind in DECODERS:
        config = cell_config(scft_config, 0, "lora", 1).model_copy(update={"base_model": str(tmp_path / kind)})
        items = reference.open_items(config, items_file)
        expected = reference.train(config, items, np.arange(len(items)), num_steps=STEPS)
        for stage in (2, 3):
            losses = json.loads((tmp_path / kind / f"losses-{stage}.json").read_text())
            np.testing.assert_allclose(losses, expected.losses, rtol=1e-4, err_msg=f"{kind} {stage}")
            opened = SentenceTransformer(str(tmp_path / kind / f"trained-{stage}"), device="cpu")
            samples = read_samples(tmp_path / kind / f"state-{stage}")
            prompts = survey(Dataset.open(config.dataset), config.prompt, 4)[1]
            np.testing.assert_allclose(opened.encode(prompts), samples, atol=1e-5)


def pack_and_step(rank: int, num_workers: int, values: dict, items_path: str, output: str) -> None:
    config = ScftConfig.model_validate(values)
    items = reference.open_items(config, Path(items_path))
    engine, loss = build(config)
    scft_engine._try_packing(engine)
    packs = engine.module.packs
    losses = [step(engine, loss, config, items, number, rank, num_workers) for number in range(STEPS)]
    Path(output, "found.json").write_text(json.dumps({"packs": packs, "losses": losses}))


@pytest.mark.parametrize(("device", "stage", "num_passes"), [("cpu", 2, 3), ("cpu", 3, 1), ("cuda", 2, 1)])
def test_a_chunk_is_one_pass_on_gpus_and_several_of_like_lengths_on_cpus(device, stage, num_passes):
    encoder = PooledEncoder(torch.nn.Identity(), "mean")
    engine = SimpleNamespace(module=encoder, device=torch.device(device), zero_optimization_stage=lambda: stage)
    lengths = np.full(3, scft_engine.TOKENS_PER_PADDED_PASS)
    passes = scft_engine._passes(engine, lengths)
    assert len(passes) == num_passes
    assert sorted(np.concatenate(passes)) == [0, 1, 2]


def pack_where_one_cannot(rank: int, num_workers: int, values: dict) -> None:
    config = ScftConfig.model_validate(values)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scft_engine, "_deepspeed_config", gathers_as_for_a_large_model)
        engine, _ = build(config)
        scft_engine._try_packing(engine)
        assert engine.module.packs  # where all can
        engine, _ = build(config)
        attention = engine.module.model.config._attn_implementation
        if rank == 1:
            patched.setattr(scft_engine.packed, "_one_by_one", has_no_kernel)
        scft_engine._try_packing(engine)
    assert not engine.module.packs
    assert engine.module.model.config._attn_implementation == attention
    assert encode(engine, [[1, 2, 3]], tokens_per_chunk=20).isfinite().all()


def gathers_as_for_a_large_model(*arguments) -> dict:
    """Each layer's weights when it comes to them; a tiny model's are all gathered before its first."""
    config = DEEPSPEED_CONFIG(*arguments)
    config["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 0}
    return config


def has_no_kernel(*arguments, **options) -> torch.Tensor:
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize("stage", [2, 3])
def test_where_one_worker_cannot_pack_none_does(scft_config, stage):
    run_workers(pack_where_one_cannot, 2, cell_config(scft_config, stage, "full", 100).model_dump(mode="json"))


def test_packed_texts_train_as_padded_ones_do(scft_config, items_file, tmp_path):
    """What a GPU does in bf16, here on a CPU."""
    config = cell_config(scft_config, 2, "lora", 100)
    run_workers(pack_and_step, 1, config.model_dump(mode="json"), str(items_file), str(tmp_path))
    items = reference.open_items(config, items_file)
    expected = reference.train(config, items, np.arange(len(items)), num_steps=STEPS)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["packs"]
    np.testing.assert_allclose(found["losses"], expected.losses, rtol=1e-4)


def go_on(rank: int, num_workers: int, values: dict, items_path: str, output: str, part: int) -> None:
    base = ScftConfig.model_validate(values)
    items = reference.open_items(base, Path(items_path))
    texts = items.prompts(np.arange(5))
    for stage, tuning in itertools.product(STAGES, TUNINGS):
        config = cell_config(base, stage, tuning, 100)
        engine, loss = build(config)
        folder = Path(output, f"{stage}-{tuning}")
        losses = load_state(folder / str(part - 1), engine, loss)["losses"] if part else []
        numbers = range(part * STEPS, (part + 1) * STEPS)
        losses += [step(engine, loss, config, items, number, rank, num_workers) for number in numbers]
        target = folder / str(part)
        if rank == 0:
            target.mkdir(parents=True)
        samples = encode(engine, texts, tokens_per_chunk=20)
        done = {"step": numbers.stop, "losses": losses}
        save_state(target, engine, loss, done, samples=samples, writes=rank == 0)
        engine.destroy()


def test_one_two_three_and_again_one_worker_train_as_one_does(scft_config, items_file, tmp_path):
    for part, num_workers in enumerate(WORLDS):
        run_workers(go_on, num_workers, scft_config.model_dump(mode="json"), str(items_file), str(tmp_path), part)
    items = reference.open_items(scft_config, items_file)
    for tuning in TUNINGS:
        config = cell_config(scft_config, 0, tuning, 1)
        expected = reference.train(config, items, np.arange(len(items)), num_steps=config.max_steps)
        assert abs(expected.temperature - config.loss.temperature) > 1e-3
        for stage in STAGES:
            folder = tmp_path / f"{stage}-{tuning}" / str(len(WORLDS) - 1)
            losses = json.loads((folder / "state.json").read_text())["losses"]
            np.testing.assert_allclose(losses, expected.losses, rtol=1e-3, err_msg=str(folder))
            weights = dict(trained_weights(folder))
            assert weights.keys() == expected.weights.keys()
            for name, weight in weights.items():
                torch.testing.assert_close(weight, expected.weights[name], rtol=1e-2, atol=1e-4)
            state = safetensors.torch.load_file(folder / "state-00000.safetensors")
            assert float(state["log_temperature"].exp()) == pytest.approx(expected.temperature, rel=1e-4)
