"""What a report says of its dataset and of how it was made."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import torch

import llmemb
from llmemb.config import JobConfig
from llmemb.data.dataset import Dataset


def dataset_name(dataset: Dataset) -> str:
    """The end of its URI."""
    return "/".join(PurePosixPath(dataset.uri).parts[-2:])


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Which dataset it is, and how large."""
    return {
        "uri": dataset.uri,
        "fingerprint": dataset.fingerprint,
        "num_items": dataset.num_items,
        "num_users": len(dataset.sequences),
        "num_interactions": int(dataset.sequences.lengths.sum()),
    }


def provenance(config: JobConfig, *, versions: Mapping[str, str] | None = None, **inputs: str | None) -> dict[str, Any]:
    """The command, the config and the versions behind a report.

    Args:
        versions: By package, beside this one's and torch's.
        inputs: Fingerprints, by what is read.
    """
    return {
        "command": shlex.join(["python", *sys.argv]),
        "config": config.model_dump(mode="json"),
        **inputs,
        "versions": {"llmemb": llmemb.__version__, "torch": torch.__version__, **(versions or {})},
    }
