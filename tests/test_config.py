"""A bad setting fails before any work and names its dotted path; every shipped YAML is a good one."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from pydantic import Field

from llmemb.config import Config, JobConfig, ModelUri, Uri
from llmemb.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "jobs" / "configs"
BASES = [CONFIGS / "paper" / "settings.yaml"]
SHIPPED = sorted(set(CONFIGS.glob("*/*.yaml")) - set(BASES))


class Optimiser(Config):
    learning_rate: float = Field(default=0.1, gt=0)


class ToyConfig(JobConfig):
    """A job of this test."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_workers"})

    output: Uri
    base_model: ModelUri = "package://some/model"
    models: tuple[Uri, ...] = ()
    max_steps: int = Field(default=10, ge=1)
    num_workers: int = 1
    optimiser: Optimiser = Optimiser()


@pytest.fixture
def toy_yaml(tmp_path: Path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(f"output: {tmp_path}/out\noptimiser:\n  learning_rate: 0.5\n")
    return str(path)


def test_override_wins_over_file_and_file_over_default(toy_yaml: str) -> None:
    config = ToyConfig.load(toy_yaml, ["max_steps=7"])
    assert (config.max_steps, config.optimiser.learning_rate, config.num_workers) == (7, 0.5, 1)


@pytest.mark.parametrize("override", ["models.x=3", "models.x={}"])
def test_a_key_inside_a_list_is_one_line(tmp_path: Path, override: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text("output: out\nmodels: [a, b]\n")
    with pytest.raises(InputError, match=r"^config: override models\.x: the file has a list there; expected the whole"):
        ToyConfig.load(str(path), [override])


def test_an_empty_mapping_leaves_nothing_of_the_files(toy_yaml: str) -> None:
    assert ToyConfig.load(toy_yaml, ["optimiser={}"]).optimiser.learning_rate == 0.1
    assert ToyConfig.load(toy_yaml, ["optimiser={}", "optimiser.learning_rate=0.2"]).optimiser.learning_rate == 0.2
    with pytest.raises(InputError, match="optimizer: unknown key"):
        ToyConfig.load(toy_yaml, ["optimizer={}"])


def test_a_file_wins_over_its_base_and_an_override_over_both(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "first.yaml").write_text("num_workers: 4\nmodels: [/a, /b]\noutput: ${base_model}/out\n")
    (tmp_path / "shared" / "toy.yaml").write_text("base: first.yaml\nmax_steps: 5\noptimiser: {learning_rate: 0.3}\n")
    path = tmp_path / "toy.yaml"
    path.write_text("base: shared/toy.yaml\nbase_model: /m\nmodels: [/c]\nmax_steps: 6\noptimiser: {}\n")
    assert ToyConfig.load(str(path), ["max_steps=7"]) == ToyConfig(
        output="/m/out",
        base_model="/m",
        models=("/c",),
        max_steps=7,
        num_workers=4,
        optimiser=Optimiser(learning_rate=0.3),
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("base: absent.yaml", r"toy\.yaml: base: no such file: .*/absent\.yaml$"),
        ("base: [list.yaml]", r"toy\.yaml: base: expected another YAML file, got \['list\.yaml'\]$"),
        ("base: list.yaml", r"list\.yaml: expected keys and values, got a list$"),
        ("base: broken.yaml", r"broken\.yaml.* line 2"),
        (
            "base: toy.yaml",
            r"toy\.yaml: base: .*/toy\.yaml starts from this file: expected another$",
        ),
        ("base: back.yaml", r"back\.yaml: base: .*/toy\.yaml starts from this file"),
        ("base: sftp://me:hunter2@host/x", "holds a password"),
    ],
)
def test_an_unusable_base_is_one_line(tmp_path: Path, written: str, message: str) -> None:
    (tmp_path / "list.yaml").write_text("- output")
    (tmp_path / "broken.yaml").write_text("max_steps: 3\noutput: [")
    (tmp_path / "back.yaml").write_text("base: toy.yaml")
    (tmp_path / "toy.yaml").write_text(f"{written}\noutput: /a\n")
    with pytest.raises(InputError, match=message) as caught:
        ToyConfig.load(str(tmp_path / "toy.yaml"))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.learningrate=1", "optimiser.learningrate: unknown key"),
        ("optimiser.learning_rate=fast", "optimiser.learning_rate: Input should be a valid number"),
        ("optimiser.learning_rate=-1", "optimiser.learning_rate: Input should be greater than 0, got -1"),
        ("max_steps=1.5", "max_steps: Input should be a valid integer"),
        ("steps=1", "steps: unknown key"),
        ("optimiser=3", "optimiser: "),
        ("max_steps.x=3", "max_steps: "),
        ("max_steps", "expected section.key=value"),
    ],
)
def test_wrong_value_names_its_dotted_path(toy_yaml: str, override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ToyConfig.load(toy_yaml, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_steps: 3", "output: missing"),
        ("output: [", "toy.yaml"),
        ("- output", "expected keys and values, got a list"),
        ("output", "expected keys and values, got a str"),
        ("output: ${oc.env:LLMEMB_NO_SUCH_VARIABLE}", "LLMEMB_NO_SUCH_VARIABLE"),
    ],
)
def test_unusable_file_is_an_input_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        ToyConfig.load(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_yaml_is_told_by_its_line_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text('output: x\nbase_model: "https://here/planted-secret')
    with pytest.raises(InputError, match=r"toy\.yaml: .* line 2") as caught:
        ToyConfig.load(str(tmp_path / "toy.yaml"))
    assert "planted-secret" not in str(caught.value)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: .*absent\.yaml"):
        ToyConfig.load(str(tmp_path / "absent.yaml"))


def test_local_uris_become_absolute_and_remote_ones_stay(
    toy_yaml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ToyConfig.load(toy_yaml, ["output=runs/x", "models=[a,s3://bucket/b/]"])
    assert config.output == f"{tmp_path}/runs/x"
    assert config.models == (f"{tmp_path}/a", "s3://bucket/b")


@pytest.mark.parametrize(("override", "path"), [("output=s3:/b/x", "output"), ("models=[a,s3:/b/x]", "models.1")])
def test_a_wrong_uri_is_told_once_and_by_its_path(toy_yaml: str, override: str, path: str) -> None:
    with pytest.raises(InputError) as caught:
        ToyConfig.load(toy_yaml, [override])
    expected = "expected two slashes after the scheme, as in s3://bucket/folder"
    assert str(caught.value) == f"config: {path}: s3:/b/x: {expected}"


def test_a_model_folder_becomes_absolute_and_a_name_of_the_hub_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers run in other directories, where a relative folder would be taken for a name on the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for written, read in [
        ("models/mine", f"{tmp_path}/models/mine"),
        ("some/model", "some/model"),
        ("package://some/model", "package://some/model"),
        ("s3://bucket/model", "s3://bucket/model"),
    ]:
        assert ToyConfig(output="/a", base_model=written).base_model == read


def test_identity_leaves_out_where_and_how_a_job_runs() -> None:
    here = ToyConfig(output="/a", num_workers=1)
    there = ToyConfig(output="/b", num_workers=4)
    assert here.identity() == there.identity()
    assert here.identity() != ToyConfig(output="/a", max_steps=11).identity()


def test_written_config_reads_back_equal(tmp_path: Path) -> None:
    config = ToyConfig(output="/a", models=("s3://b/c",), optimiser=Optimiser(learning_rate=0.25))
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert ToyConfig.load(str(path)) == config


def job_of(path: Path) -> str:
    """A job may have several configs: study.yaml, study-backbones.yaml."""
    return path.stem.split("-")[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_config_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    job = _job_script(job_of(path))
    config_class = next(
        value
        for value in vars(job).values()
        if isinstance(value, type) and issubclass(value, JobConfig) and value is not JobConfig
    )
    config = config_class.load(str(path))
    assert config.model_dump()["output"].startswith(str(REPOSITORY / "runs" / path.parent.name))


def test_every_base_is_that_of_a_shipped_config() -> None:
    named = {path.parent / line.split()[1] for path in SHIPPED for line in path.open() if line.startswith("base:")}
    assert {path.resolve() for path in named} - set(SHIPPED) == set(BASES)


def test_every_preset_has_every_job() -> None:
    jobs = {path.stem for path in (REPOSITORY / "jobs").glob("*.py")}
    assert jobs
    left_out = {"demo": set(), "beauty": {"nightly"}}  # nothing is new in Beauty from one night to the next
    for preset, without in left_out.items():
        assert {job_of(path) for path in SHIPPED if path.parent.name == preset} == jobs - without


def _job_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"job_{name}", REPOSITORY / "jobs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("where", ["loss", "top"])
def test_a_password_anywhere_in_a_config_is_refused_before_it_is_shown(where: str) -> None:
    secret = "simplecache::sftp://me:hun/ter2@host/x"
    values = {"output": "/o", "loss": {"temperature": secret}} if where == "loss" else {"output": "/o", "seed": secret}
    with pytest.raises(InputError, match="holds a password") as raised:
        ToyConfig.parse(values)
    assert "ter2" not in str(raised.value)
