import traceback
from pathlib import Path

import pytest
import yaml

from llmemb.errors import InputError
from llmemb.nightly.config import NightlyConfig

PRESET = Path(__file__).resolve().parents[2] / "jobs/configs/demo/nightly.yaml"
SMALL = {"dataset": "s3://b/dataset", "output": "s3://b/nightly", "embed": {"encoder": "s3://b/encoder"}}


def test_each_step_has_its_inputs_and_outputs():
    config = NightlyConfig.parse(SMALL)
    assert config.embed.dataset == config.rat.dataset == config.evaluate.dataset == "s3://b/dataset"
    assert config.embed.output == config.rat.embeddings == config.evaluate.embeddings == "s3://b/nightly/embeddings"
    assert NightlyConfig.parse(SMALL | {"embed": {"encoder": "e", "output": "s3://b/e"}}).rat.embeddings == "s3://b/e"


def test_the_resolved_config_can_be_read_again(tmp_path):
    config = NightlyConfig.load(str(PRESET), [f"output={tmp_path}/nightly", "rat.seed=3"])
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert NightlyConfig.load(str(tmp_path / "again.yaml")) == config
    assert yaml.safe_load(config.to_yaml())["rat"]["seed"] == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed": {}}, "embed.encoder: missing"),
        ({"embed": {"encoder": "e", "encodr": 1}}, "embed.encodr: unknown key"),
        ({"rat": {"training": {"max_epochs": 0}}}, "rat.training.max_epochs: "),
        ({"rat": {"output": "s3://b/x"}}, "rat.output is set by the night itself"),
        ({"rat": {"item_vectors": "s3://b/x"}}, "rat.item_vectors is set by the night itself"),
        ({"rat": {"content_maps": "s3://b/x"}}, "rat.content_maps is set by the night itself"),
        ({"evaluate": {"models": ["s3://b/x"]}}, "evaluate.models is set by the night itself"),
        ({"rat": 3}, "rat: "),
        ({"publish": {"metric": "ndcg@7"}}, "publish.metric: expected one of"),
        ({"publish": {"slices": ["all"]}}, "publish.slices.0: "),
        ({"publish": {"slices": []}}, "publish.slices: "),
        ({"dataset": None}, "dataset: "),
    ],
)
def test_what_is_wrong_is_named_by_its_path(values, message):
    with pytest.raises(InputError, match=r"^config: ") as raised:
        NightlyConfig.parse(SMALL | values)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"dataset": "s3:/b/x"}, "dataset"),
        ({"output": "s3:/b/x"}, "output"),
        ({"embed": {"encoder": "e", "output": "s3:/b/x"}}, "embed.output"),
    ],
)
def test_a_wrong_uri_that_several_steps_read_is_told_once(values, path):
    with pytest.raises(InputError) as raised:
        NightlyConfig.parse(SMALL | values)
    expected = "expected two slashes after the scheme, as in s3://bucket/folder"
    assert str(raised.value) == f"config: {path}: s3:/b/x: {expected}"


SECRET = "planted-secret-88b0"


@pytest.mark.parametrize(
    "written",
    [
        f"webhook_variable: https://hooks.example.com/{SECRET}",
        "webhook_variable: ${oc.env:MY_HOOK}",  # its value, and not its name
        f"webhook_variable: [https://hooks.example.com/{SECRET}]",
        f"webhook_variable: {SECRET}",
        f"webhook_variable: https://hooks.example.com/{SECRET}\nkeep: {{snapshots: 0}}",
    ],
)
def test_a_webhook_url_in_place_of_its_variable_is_refused_and_not_shown(tmp_path, monkeypatch, written):
    monkeypatch.setenv("MY_HOOK", f"https://hooks.example.com/{SECRET}")
    (tmp_path / "nightly.yaml").write_text(yaml.safe_dump(SMALL) + written)
    with pytest.raises(InputError, match="webhook_variable: expected the name of an environment variable") as raised:
        NightlyConfig.load(str(tmp_path / "nightly.yaml"))
    assert SECRET not in "".join(traceback.format_exception(raised.value))
