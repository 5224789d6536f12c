"""The encoders and embeddings that trials need: each different one made once, whoever needs it."""

from collections.abc import Iterable

from llmemb import storage
from llmemb.embed.pipeline import run_embed
from llmemb.embed.snapshot import latest_id
from llmemb.encoder.folder import ENCODER_FILE
from llmemb.errors import InputError
from llmemb.rat.config import READS
from llmemb.scft.run import run_scft
from llmemb.study.grid import Grid, Trial
from llmemb.study.trials import reason_of


def make_embeddings(grid: Grid, trials: Iterable[Trial]) -> dict[str, str]:
    """Fine-tunes and embeds what is not there yet for these trials.

    Returns:
        Why it could not be done, by the URI of the embeddings.
    """
    needed = {grid.embed_config(trial).output: trial for trial in trials if _reads_text(trial)}
    reasons = {}
    for uri, trial in needed.items():
        try:
            _make(grid, trial)
        except _failures() as error:
            reasons[uri] = reason_of(error)
            print(f"study: no embeddings: {reasons[uri]}")
    return reasons


def _failures() -> tuple[type[Exception], ...]:
    """What may go wrong with one encoder and leave the others."""
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    return InputError, RayError, TrainingFailedError


def _make(grid: Grid, trial: Trial) -> None:
    scft, embed = grid.scft_config(trial), grid.embed_config(trial)
    if latest_id(embed.output) is not None:
        return
    if scft is not None and not storage.exists(storage.join(scft.output, ENCODER_FILE)):
        run_scft(scft)
    run_embed(embed)


def _reads_text(trial: Trial) -> bool:
    return "embeddings" in READS[trial.method]
