"""The fine-tuning job: a Ray Train run, then the export of the best of its checkpoints."""

from pathlib import Path
from typing import Any

from llmemb import progress, storage
from llmemb.artifact import claim, is_finished
from llmemb.compute.connection import connect
from llmemb.compute.devices import has_gpus
from llmemb.compute.nodes import cpu_threads
from llmemb.compute.request import Request
from llmemb.compute.tasks import check_memory, run_task
from llmemb.compute.training import train_on_ray, training_workers
from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import ENCODER_FILE, EncoderFolder, Precision, float32_memory, local_folder
from llmemb.errors import InputError
from llmemb.lease import LEASE_FILE, Lease, held, this_process
from llmemb.scft.config import ScftConfig
from llmemb.scft.export import export_encoder
from llmemb.scft.items import survey
from llmemb.scft.training import SAMPLE_PROMPTS, train_worker
from llmemb.scft.validation import check_metric, held_out_items

CHECKPOINTS_FOLDER = "checkpoints"
LEASE_SECONDS = 60
"""A run that was killed is waited for as long; a store may fail for three quarters of it."""


def run_scft(config: ScftConfig) -> None:
    """Fine-tunes the base model on a dataset's items and writes the encoder folder.

    Raises:
        InputError: no such dataset or model, attributes that the catalogue lacks, a batch larger than the catalogue, a
            loss or gradient that is not finite, another run of the same output that is alive.
    """
    dataset = Dataset.open(config.dataset)
    config.prompt.check_columns(dataset.item_columns, config.dataset)
    with local_folder(config.base_model) as path:
        base = EncoderFolder.read(path)
        base_fingerprint, memory = base.fingerprint(), float32_memory(base.num_parameters)
    prompts = _prompts(dataset, config)
    inputs = {"catalogue": dataset.catalogue_fingerprint, "base_model": base_fingerprint}
    if config.validation.metric != "none":  # histories choose the state that is exported
        inputs["dataset"] = dataset.fingerprint
    belongs: dict[str, Any] = {"job": "scft", "inputs": inputs, "finished_by": ENCODER_FILE}
    if not is_finished(config, config.output, **belongs):
        with held(storage.join(config.output, LEASE_FILE), owner=this_process(), seconds=LEASE_SECONDS) as lease:
            if claim(config, config.output, **belongs):  # unless the one that was waited for has finished it
                _fine_tune(config, prompts, memory, lease)
                _remove_leftovers(config.output)
                _tell(config)
                return
    _remove_leftovers(config.output)  # there if the run was killed at its very end
    print(f"encoder: {config.output} is complete already")


def _fine_tune(config: ScftConfig, prompts: list[str], memory: int, lease: Lease) -> None:
    connect()
    precision = config.engine.precision or ("bf16" if has_gpus() else "fp32")
    if precision != "fp32" and config.engine.zero_stage == 0:
        raise InputError(
            f"engine.zero_stage: 0 keeps no float32 copy of what it trains; expected 1, 2 or 3 with {precision}"
        )
    request = Request(cpus=1, memory=memory)
    check_memory("export", request)
    checkpoint = _train(config, precision)
    lease.check()
    _export(config, checkpoint, prompts, precision, request)


def _remove_leftovers(output: str) -> None:
    for name in (CHECKPOINTS_FOLDER, LEASE_FILE):
        storage.remove(storage.join(output, name))


def _prompts(dataset: Dataset, config: ScftConfig) -> list[str]:
    """The full prompts of the first items, by which the export is checked."""
    num_usable, prompts = survey(dataset, config.prompt, SAMPLE_PROMPTS)
    if not num_usable:
        raise InputError(
            f"dataset: none of the {dataset.num_items} items has a value for {', '.join(config.prompt.columns)}"
        )
    held_out, metric = 0, config.validation.metric
    if metric != "none":
        held_out = len(held_out_items(num_usable, seed=config.seed, at_most=config.validation.num_held_out))
    if config.batch_size > num_usable - held_out:
        beside = f", {held_out} others being held out for validation" if held_out else ""
        raise InputError(
            f"batch_size: expected at most the {num_usable - held_out} items that have a prompt{beside}, "
            f"got {config.batch_size}"
        )
    if metric == "retrieval_accuracy":  # those of histories are found out when they are drawn
        check_metric(metric, can_be=held_out > 0, dataset=config.dataset)
    return prompts


def _train(config: ScftConfig, precision: Precision) -> Any:
    """Trains, from the last checkpoint where there is one; returns the checkpoint to export."""
    import ray.train

    threads = config.engine.threads_per_worker or cpu_threads(config.num_workers, config.node_labels)
    validated = config.validation.metric if config.validation.metric != "none" else None
    kept = ray.train.CheckpointConfig(num_to_keep=config.engine.checkpoints_kept, checkpoint_score_attribute=validated)
    with progress.remote_bar("scft", total=config.max_steps, unit="steps") as board:
        result = train_on_ray(
            train_worker,
            {"config": config.model_dump(mode="json"), "precision": precision, "threads": threads, "board": board},
            storage_uri=config.output,
            name=CHECKPOINTS_FOLDER,
            scaling=training_workers(
                config.num_workers, config.engine.min_workers, threads=threads, labels=config.node_labels
            ),
            max_failures=config.engine.max_failures,
            checkpoints=kept,
        )
    return result.checkpoint if validated is None else result.get_best_checkpoint(validated, "max")


def _export(config: ScftConfig, checkpoint: Any, prompts: list[str], precision: Precision, request: Request) -> None:
    """Exports on a node of the cluster: the driver's may be too small for the model."""

    def export() -> None:
        with checkpoint.as_directory() as folder:
            export_encoder(config, Path(folder), prompts, precision=precision)

    run_task("export", export, request=request)


def _tell(config: ScftConfig) -> None:
    metrics = storage.read_json(storage.join(config.output, ENCODER_FILE))["metrics"]
    name, best = config.validation.metric, metrics["steps"]
    if name == "none":
        chosen = f"the state after {best} steps"
    else:
        before, after = metrics["validation_untrained"][name], metrics["validation"][name]
        chosen = f"step {best} of {config.max_steps}, {name} {before:.4f} untrained → {after:.4f}"
        if not best:
            chosen = f"the untrained model, {name} {before:.4f}: no step was better"
    padding = "packed" if metrics.get("packed") else f"{metrics.get('padding_share', 0):.1%} padding"
    speed = f", {metrics['pairs_per_second']:.1f} pairs/s, {padding}" if best else ""
    print(f"encoder: {config.output}: {chosen}{speed}")
