"""Seconds per training epoch of RecTools' SASRec; run by benchmarks/rat.py with the Python of .venv-peers.

    .venv-peers/bin/python benchmarks/peers/rectools_sasrec.py INTERACTIONS.csv --hidden-dim 128 --threads 2

INTERACTIONS has the columns user, item and position. Some batches are trained twice, first to warm up; standard output
ends with the seconds of an epoch, from the second time. With ``--epochs`` that many whole ones are trained, and it ends
with the seconds of the last and the NDCG@10 of VALIDATION, a table of user and item: all items ranked, none filtered.
"""

import argparse
import logging
import time
import warnings

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

K = 10


class EpochClock(lightning.Callback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("interactions")
    for name, default in {
        "hidden-dim": 128,
        "max-seq-len": 50,
        "batch-size": 128,
        "batches": 16,
        "threads": 2,
        "epochs": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--validation")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    table = pd.read_csv(arguments.interactions).rename(columns={"user": Columns.User, "item": Columns.Item})
    table[Columns.Datetime] = pd.to_datetime(table.pop("position"), unit="s")
    table[Columns.Weight] = 1.0
    model = SASRecModel(
        n_blocks=2,
        n_heads=1,
        n_factors=arguments.hidden_dim,
        session_max_len=arguments.max_seq_len,
        loss="softmax",
        batch_size=arguments.batch_size,
        lr=2e-3,
        get_trainer_func=lambda: lightning.Trainer(
            max_epochs=arguments.epochs or 2,
            limit_train_batches=1.0 if arguments.epochs else arguments.batches,
            accelerator="cpu",
            callbacks=[EpochClock()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    )
    dataset = Dataset.construct(table)
    model.fit(dataset)
    [clock] = [each for each in model.fit_trainer.callbacks if isinstance(each, EpochClock)]  # a copy of the one above
    if arguments.epochs:
        print(clock.seconds[-1], ndcg(model, dataset, pd.read_csv(arguments.validation)))
        return
    num_batches = -(-table[Columns.User].nunique() // arguments.batch_size)
    print(clock.seconds[1] * num_batches / arguments.batches)


def ndcg(model: SASRecModel, dataset: Dataset, validation: pd.DataFrame) -> float:
    """NDCG@10 of one item for each user."""
    wanted = validation.rename(columns={"user": Columns.User, "item": Columns.Item})
    known = wanted[wanted[Columns.User].isin(dataset.user_id_map.external_ids)]
    found = model.recommend(known[Columns.User].to_numpy(), dataset, k=K, filter_viewed=False)
    ranks = wanted.merge(found, on=[Columns.User, Columns.Item])[Columns.Rank]
    return float((1 / np.log2(ranks + 1)).sum() / len(wanted))


if __name__ == "__main__":
    main()
