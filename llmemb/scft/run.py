"""The fine-tuning job: a Ray Train run, then the export of what it trained."""

from pathlib import Path
from typing import Any

from llmemb import progress, storage
from llmemb.artifact import claim
from llmemb.cluster import connect, cpu_threads, has_gpus, training_workers
from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import ENCODER_FILE, EncoderFolder, local_folder
from llmemb.errors import InputError
from llmemb.scft.config import ScftConfig
from llmemb.scft.export import export_encoder
from llmemb.scft.training import HISTORY_FILE, train_worker

SAMPLE_PROMPTS = 4
CHECKPOINTS_FOLDER = "checkpoints"


def run_scft(config: ScftConfig) -> None:
    """Fine-tunes the base model on a dataset's items and writes the encoder folder.

    Raises:
        InputError: no such dataset or model, attributes that the catalogue lacks, a batch larger than the catalogue.
    """
    dataset = Dataset.open(config.dataset)
    config.prompt.check_columns(dataset.item_columns, config.dataset)
    with local_folder(config.base_model) as path:
        base_fingerprint = EncoderFolder.read(path).fingerprint()
    prompts = _prompts(dataset, config)
    inputs = {"catalogue": dataset.catalogue_fingerprint, "base_model": base_fingerprint}
    if not claim(config, config.output, job="scft", inputs=inputs, finished_by=ENCODER_FILE):
        print(f"encoder: {config.output} is complete already")
        return
    connect()
    _export(config, _train(config), prompts)
    storage.remove(storage.join(config.output, CHECKPOINTS_FOLDER))
    metrics = storage.read_json(storage.join(config.output, ENCODER_FILE))["metrics"]
    print(
        f"encoder: {config.output}: loss {metrics['loss_first_tenth']:.4f} → {metrics['loss_last_tenth']:.4f} over "
        f"{metrics['steps']} steps, {metrics['pairs_per_second']:.1f} pairs/s, {metrics['padding_share']:.1%} padding"
    )


def _export(config: ScftConfig, checkpoint: Any, prompts: list[str]) -> None:
    """Exports on a node of the cluster: the driver's may be too small for the model."""
    import ray

    def export() -> None:
        with checkpoint.as_directory() as adapter:
            history = storage.read_json(storage.join(adapter, HISTORY_FILE))
            storage.write_json(storage.join(config.output, HISTORY_FILE), history)
            export_encoder(config, Path(adapter), history, prompts)

    ray.get(ray.remote(num_cpus=1)(export).remote())


def _prompts(dataset: Dataset, config: ScftConfig) -> list[str]:
    """A few full prompts, by which the export is checked."""
    prompts = config.prompt.render_batch(dataset.items(config.prompt.columns))
    usable = [prompt for prompt in prompts if prompt is not None]
    if not usable:
        raise InputError(
            f"dataset: none of the {len(prompts)} items has a value for {', '.join(config.prompt.columns)}"
        )
    if config.batch_size > len(usable):
        raise InputError(
            f"batch_size: expected at most the {len(usable)} items that have a prompt, got {config.batch_size}"
        )
    return usable[:SAMPLE_PROMPTS]


def _train(config: ScftConfig) -> Any:
    import ray.train
    from ray.train.torch import TorchTrainer

    threads = config.engine.threads_per_worker or cpu_threads(config.num_workers)
    with progress.remote_bar("scft", total=config.max_steps, unit="steps") as board:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "precision": config.engine.precision or ("bf16" if has_gpus() else "fp32"),
                "threads": threads,
                "board": board,
            },
            scaling_config=training_workers(config.num_workers, threads=threads),
            run_config=ray.train.RunConfig(
                name=CHECKPOINTS_FOLDER,
                storage_path=config.output,
                failure_config=ray.train.FailureConfig(max_failures=config.engine.max_failures),
            ),
        )
        result = trainer.fit()
    return result.checkpoint
