import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from llmemb import submission
from llmemb.cli import app
from llmemb.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = "jobs/configs/demo/embed.yaml"


class Cluster:
    """A cluster on which each submission ends as told: with a driver's exit code, or None where the driver is lost."""

    def __init__(self, *ends: int | None, cut_after: int | None = None) -> None:
        self.ends, self.submitted = list(ends), list[dict[str, Any]]()
        self.cut_after, self.silent = cut_after, 0
        self.ids = list[str]()

    def submit_job(self, *, submission_id: str, **what: Any) -> str:
        self.ids.append(submission_id)
        self.submitted.append(what)
        return submission_id

    def get_job_status(self, job_id: str) -> SimpleNamespace:
        if self.silent:
            self.silent -= 1
            raise ConnectionError
        return SimpleNamespace(value="RUNNING" if self.cut_after else self.get_job_info(job_id).status)

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        if job_id not in self.ids:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        code = self.ends[self.ids.index(job_id)]
        return SimpleNamespace(status="FAILED" if code != 0 else "SUCCEEDED", driver_exit_code=code, message="gone")

    async def tail_job_logs(self, job_id: str) -> Any:
        del job_id
        for line in ("one\n", "two\n", "three\n")[: self.cut_after]:
            yield line
        if self.cut_after:
            self.cut_after, self.silent = None, 2
            raise RuntimeError("WebSocket connection closed unexpectedly")


def run(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, *overrides: str, **options: Any) -> tuple[int, list[str]]:
    shown: list[str] = []
    monkeypatch.setattr(submission, "_connect", lambda _: cluster)
    monkeypatch.setattr(submission, "POLL_SECONDS", 0)
    options = {"address": "http://here", "folder": REPOSITORY, "show": shown.append} | options
    return submission.submit("embed", CONFIG, overrides, **options), shown


def test_in_place_nothing_travels_and_paths_are_the_nodes(monkeypatch):
    cluster = Cluster(0)
    run(monkeypatch, cluster, "num_workers=2", in_place=True)
    command = f"python {REPOSITORY}/jobs/embed.py --config {REPOSITORY}/{CONFIG} num_workers=2"
    assert cluster.submitted == [{"entrypoint": command, "runtime_env": {}}]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_the_job_says_is_final(monkeypatch, code):
    cluster = Cluster(code)
    assert run(monkeypatch, cluster)[0] == code
    assert len(cluster.submitted) == 1


@pytest.mark.parametrize("lost", [None, 75, 137, -9])
def test_a_job_that_the_cluster_loses_is_submitted_again(monkeypatch, lost):
    cluster = Cluster(lost, lost, 0)
    code, shown = run(monkeypatch, cluster)
    assert code == 0
    assert [what["entrypoint"] for what in cluster.submitted] == [cluster.submitted[0]["entrypoint"]] * 3
    why = "the job says to try again" if lost == 75 else "the cluster lost the job"
    assert [line for line in shown if "again" in line] == [f"submit: {why}; again, {n} of 3\n" for n in (1, 2)]


def test_a_job_that_is_lost_too_often_may_be_tried_later(monkeypatch):
    cluster = Cluster(None, None)
    assert run(monkeypatch, cluster, max_retries=1)[0] == 75
    assert len(cluster.submitted) == 2


def test_a_lost_connection_is_no_lost_job_and_no_line_is_shown_twice(monkeypatch):
    cluster = Cluster(0, cut_after=2)
    code, shown = run(monkeypatch, cluster)
    assert code == 0
    assert [line for line in shown if not line.startswith("submit:")] == ["one\n", "two\n", "three\n"]


def test_a_cluster_that_stays_silent_has_lost_the_job(monkeypatch):
    cluster = Cluster(0, cut_after=1)
    cluster.get_job_status = lambda _: exec("raise ConnectionError")
    code, shown = run(monkeypatch, cluster, max_retries=0, patience_seconds=0)
    assert code == 75
    assert "submit: nobody has answered for 0 s\n" in shown


def test_values_reach_the_job_as_they_are(monkeypatch):
    cluster = Cluster(0)
    run(monkeypatch, cluster, "output=s3://bucket/$(rm -r x)", "num_workers=2")
    [what] = cluster.submitted
    assert what["entrypoint"] == f"python jobs/embed.py --config {CONFIG} 'output=s3://bucket/$(rm -r x)' num_workers=2"
    assert ".venv*" in what["runtime_env"]["excludes"]


@pytest.mark.parametrize("job", ["no_such", "../jobs/embed", "/etc/passwd", "embed;ls", ""])
def test_a_job_is_a_script_of_the_folder(job):
    with pytest.raises(InputError, match="expected one of embed, evaluate"):
        submission.submit(job, CONFIG, address="http://here", folder=REPOSITORY)


@pytest.mark.parametrize("config", ["/etc/passwd", "../x.yaml", "jobs/configs"])
def test_a_config_is_a_file_of_the_folder(config):
    with pytest.raises(InputError, match="expected a file inside"):
        submission.submit("embed", config, address="http://here", folder=REPOSITORY)


def test_no_cluster_at_the_address_is_one_line():
    command = ["submit", "embed", "--config", CONFIG, "--folder", str(REPOSITORY), "--address", "http://127.0.0.1:9"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert result.stderr == "error: address: no Ray cluster answers at http://127.0.0.1:9: expected http://host:8265\n"


def test_an_address_without_its_scheme_is_one_line():
    with pytest.raises(
        InputError, match=r"^address: 127\.0\.0\.1:8265: expected that of the cluster's dashboard, http://"
    ):
        submission.submit("embed", CONFIG, address="127.0.0.1:8265", folder=REPOSITORY)


def lost_answer(cluster: Cluster) -> None:
    """The first submission is accepted, and its answer lost; a second one of that id is refused, as Ray does."""
    accept, lost = cluster.submit_job, [ConnectionError()]

    def submit_job(*, submission_id: str, **what: Any) -> str:
        if submission_id in cluster.ids:
            raise RuntimeError(f"Request failed with status code 500: Job {submission_id} already exists.")
        accept(submission_id=submission_id, **what)
        if lost:
            raise lost.pop()
        return submission_id

    cluster.submit_job = submit_job  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output=s3://key:planted@bucket/x", "s3://…: holds a password"),
        ("webhook_variable=https://host/planted", "webhook_variable: expected the name of an environment variable"),
    ],
)
def test_a_secret_in_an_override_is_refused_and_shown_nowhere(monkeypatch, override, message):
    cluster, shown = Cluster(0), list[str]()
    with pytest.raises(InputError, match=message) as raised:
        run(monkeypatch, cluster, override, show=shown.append)
    assert "planted" not in str(raised.value)
    assert not cluster.submitted
    assert not shown


def test_a_file_that_cannot_be_packed_is_told_at_once(monkeypatch):
    cluster = Cluster(0)

    def submit_job(**_: Any) -> str:
        raise PermissionError(13, "Permission denied", "secret.key")

    cluster.submit_job = submit_job  # type: ignore[method-assign]
    with pytest.raises(
        InputError, match=r"^folder: it cannot be packed .*: \[Errno 13\] Permission denied: 'secret.key'$"
    ):
        run(monkeypatch, cluster)


def test_a_submission_whose_answer_is_lost_is_one_job(monkeypatch):
    cluster = Cluster(0)
    lost_answer(cluster)
    code, shown = run(monkeypatch, cluster)
    assert code == 0
    assert len(cluster.submitted) == 1
    assert any("three" in line for line in shown)


@pytest.mark.parametrize(("status", "is_lost"), [(404, True), (500, False), (503, False)])
def test_a_head_that_is_starting_has_not_lost_the_job(monkeypatch, status, is_lost):
    cluster = Cluster(0, 0)
    answer, faults = cluster.get_job_status, [RuntimeError(f"Request failed with status code {status}: no.")] * 3

    def get_job_status(job_id: str) -> SimpleNamespace:
        if faults:
            raise faults.pop()
        return answer(job_id)

    cluster.get_job_status = get_job_status  # type: ignore[method-assign]
    if is_lost:
        faults[:] = faults[:1]
    assert run(monkeypatch, cluster)[0] == 0
    assert len(cluster.submitted) == (2 if is_lost else 1)


@pytest.mark.parametrize("status", [400, 500])
def test_a_submission_that_is_refused_is_one_line_and_not_repeated_for_ever(monkeypatch, status):
    cluster = Cluster(0)

    def refuse(**_: Any) -> str:
        raise RuntimeError(f"Request failed with status code {status}: package is too large\nfor this head.")

    cluster.submit_job = refuse  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"the cluster refuses the job: .*package is too large for this head"):
        run(monkeypatch, cluster, patience_seconds=0)


def test_a_connection_that_has_died_without_a_word_is_made_anew(monkeypatch):
    cluster = Cluster(0)
    tail, dead = cluster.tail_job_logs, [True]

    async def tail_job_logs(job_id: str) -> Any:
        if dead:
            dead.clear()
            yield "one\n"
            await asyncio.sleep(60)
        async for line in tail(job_id):
            yield line

    cluster.tail_job_logs = tail_job_logs  # type: ignore[method-assign]
    monkeypatch.setattr(submission, "SILENCE_SECONDS", 0.05)
    code, shown = run(monkeypatch, cluster)
    assert code == 0
    assert [line for line in shown if not line.startswith("submit:")] == ["one\n", "two\n", "three\n"]


def test_a_job_that_outlives_a_long_silence_is_followed_and_not_submitted_again(monkeypatch):
    cluster = Cluster(0)
    answer, silence = cluster.get_job_status, [ConnectionError()]

    def get_job_status(job_id: str) -> SimpleNamespace:
        if silence:
            raise silence.pop()
        return SimpleNamespace(value="RUNNING") if len(shown) < 7 else answer(job_id)

    shown: list[str] = []
    cluster.get_job_status = get_job_status  # type: ignore[method-assign]
    assert run(monkeypatch, cluster, patience_seconds=-1, show=shown.append)[0] == 0
    assert len(cluster.submitted) == 1
    assert any("asked for it again" in line for line in shown)
    assert any("is still there" in line for line in shown)
    assert [line for line in shown if not line.startswith("submit:")] == ["one\n", "two\n", "three\n"]


class SilentCluster(Cluster):
    """One that stops to answer once it has a submission, until its clock's time has come."""

    def __init__(self, *ends: int | None, until: float) -> None:
        super().__init__(*ends)
        self.until, self.now = until, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += 1

    def answer(self) -> None:
        if self.ids and self.now < self.until:
            raise ConnectionError

    def submit_job(self, *, submission_id: str, **what: Any) -> str:
        self.answer()
        return super().submit_job(submission_id=submission_id, **what)

    def get_job_status(self, job_id: str) -> SimpleNamespace:
        self.answer()
        return super().get_job_status(job_id)

    async def tail_job_logs(self, job_id: str) -> Any:
        self.answer()
        async for line in super().tail_job_logs(job_id):
            yield line


@pytest.mark.parametrize("silence", [5, 23, 45])
@pytest.mark.parametrize(
    ("ends", "code", "submissions"), [([0], 0, 1), ([2], 2, 1), ([137, 0], 0, 2), ([None, 0], 0, 2)]
)
def test_after_a_silence_of_any_length_a_job_is_submitted_again_only_if_it_was_lost(
    monkeypatch, silence, ends, code, submissions
):
    cluster = SilentCluster(*ends, until=silence)
    monkeypatch.setattr(submission, "time", cluster)
    assert run(monkeypatch, cluster, patience_seconds=10)[0] == code
    assert len(cluster.ids) == submissions


def test_after_a_silence_a_job_that_the_cluster_does_not_know_is_submitted_again(monkeypatch):
    cluster = SilentCluster(0, 0, until=23)
    monkeypatch.setattr(submission, "time", cluster)
    answer = cluster.get_job_status

    def get_job_status(job_id: str) -> SimpleNamespace:
        cluster.answer()
        if job_id == cluster.ids[0]:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return answer(job_id)

    cluster.get_job_status = get_job_status  # type: ignore[method-assign]
    assert run(monkeypatch, cluster, patience_seconds=10)[0] == 0
    assert len(cluster.ids) == 2


def test_a_cluster_that_never_answers_again_is_given_nothing_more(monkeypatch):
    cluster = SilentCluster(0, until=1e9)
    monkeypatch.setattr(submission, "time", cluster)
    code, shown = run(monkeypatch, cluster, patience_seconds=10)
    assert code == 75
    assert sum(f"{CONFIG}\n" in line for line in shown) == 1
