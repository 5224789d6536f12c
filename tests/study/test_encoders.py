"""What trials read is made once, and what cannot be made stops only those who read it."""

from collections import Counter

import pytest

from llmemb import storage
from llmemb.encoder.folder import ENCODER_FILE
from llmemb.errors import InputError
from llmemb.study import encoders
from llmemb.study.config import StudyConfig
from llmemb.study.grid import Grid
from tests.snapshots import write_snapshot


@pytest.fixture
def grid(tmp_path) -> Grid:
    ablations = {"w/o SCFT": {"embed.encoder": "/models/tiny"}, "w/o alignment": {"rat.alignment.weight": 0}}
    values = {"dataset": "/data", "output": str(tmp_path), "backbones": ["sasrec"], "seeds": [0, 1]}
    scft = {"prompt": {"attributes": ["title"]}}
    return Grid(StudyConfig.parse({**values, "scft": scft, "ablations": ablations}), "fingerprint")


def test_each_encoder_and_snapshot_is_made_once(grid, monkeypatch):
    made: Counter[str] = Counter()

    def tune(config):
        made["scft"] += 1
        storage.write_json(storage.join(config.output, ENCODER_FILE), {})

    def embed(config):
        made["embed"] += 1
        write_snapshot(config.output, {"a": "one"})

    monkeypatch.setattr(encoders, "run_scft", tune)
    monkeypatch.setattr(encoders, "run_embed", embed)
    for _ in range(2):
        assert encoders.make_embeddings(grid, grid.all_trials()) == {}
        assert made == {"scft": 1, "embed": 2}  # with and without SCFT


def test_an_encoder_that_cannot_be_made_stops_only_those_who_read_it(grid, monkeypatch):
    def refuse(config):
        raise InputError("base_model: no such model\nanywhere")

    monkeypatch.setattr(encoders, "run_scft", refuse)
    monkeypatch.setattr(encoders, "run_embed", lambda config: write_snapshot(config.output, {"a": "one"}))
    reasons = encoders.make_embeddings(grid, grid.all_trials())
    tuned, given = (grid.embed_config(trials[0]).output for trials in list(grid.ablations().values())[:2])
    assert reasons == {tuned: "base_model: no such model anywhere"}
    assert given not in reasons
