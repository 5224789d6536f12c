"""Where a training's figures go besides its own record: TensorBoard, MLflow or Weights & Biases, where installed."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from llmemb import storage
from llmemb.errors import InputError

TrackerName = Literal["tensorboard", "mlflow", "wandb"]


class Tracker(Protocol):
    """Takes figures as they come."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_trackers(names: Sequence[TrackerName], *, output: str, job: str) -> list[Tracker]:
    """Opens those asked for, one run each; a resumed job goes on with the run that its output began.

    Args:
        output: The job's output, which names the run; TensorBoard's files go below it.

    Raises:
        InputError: one of them is not installed here.
    """
    return [_TRACKERS[name](output, job) for name in names]


class _TensorBoard:
    def __init__(self, output: str, job: str) -> None:
        module = _import("tensorboardX", "tensorboardX")
        self._writer = module.SummaryWriter(log_dir=storage.join(output, "tensorboard"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MlFlow:
    def __init__(self, output: str, job: str) -> None:
        self._mlflow = _import("mlflow", "mlflow")
        self._mlflow.set_experiment(f"llmemb-{job}")
        known = self._mlflow.search_runs(filter_string=f"tags.output = '{output}'", output_format="list")
        if known:
            self._mlflow.start_run(run_id=known[0].info.run_id)
        else:
            self._mlflow.start_run(run_name=storage.name(output), tags={"output": output})

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        # MLflow's names may not hold an @.
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in figures.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _WeightsAndBiases:
    def __init__(self, output: str, job: str) -> None:
        wandb = _import("wandb", "wandb")
        run_id = storage.fingerprint({"job": job, "output": output})
        self._run = wandb.init(project=f"llmemb-{job}", name=storage.name(output), id=run_id, resume="allow")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"trackers: {package} is not installed on this worker: pip install {package}") from error


_TRACKERS: dict[TrackerName, Callable[[str, str], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MlFlow,
    "wandb": _WeightsAndBiases,
}
