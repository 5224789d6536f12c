"""Nights whose embedding and training are replaced by what they leave behind; the rest is real."""

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml

from llmemb import storage
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot, latest_id
from llmemb.errors import InputError
from llmemb.nightly import live, run, summary
from llmemb.nightly.config import NightlyConfig
from llmemb.rat.recommender import FORMAT
from tests.snapshots import write_snapshot


@dataclass
class Nights:
    """A root, and what each night finds: the items that changed, and how good the next recommender is."""

    root: str
    dataset: str
    quality: float = 0.5
    night: int = 0
    prompts: dict[str, str] = field(default_factory=lambda: {f"i{number}": "a thing" for number in range(40)})
    ran: list[str] = field(default_factory=list)
    fails_in: str | None = None

    def config(self, **changed: Any) -> NightlyConfig:
        values = {"dataset": self.dataset, "output": self.root, "embed": {"encoder": "e"}, "lease_seconds": 5}
        return NightlyConfig.parse(values | {"publish": {"slices": ["overall"]}} | changed)

    def run(self, **changed: Any) -> dict[str, Any]:
        """One night; its summary."""
        self.ran.clear()
        run.run_nightly(self.config(**changed))
        return self.last

    @property
    def last(self) -> dict[str, Any]:
        return summary.read_all(self.root)[-1]

    def change(self, items: int) -> None:
        self.night += 1
        self.prompts |= {f"i{number}": f"as of night {self.night}" for number in range(items)}

    def back_to(self, nights: int) -> None:
        """Makes all that happened so far older."""
        for uri in storage.list_files(f"{self.root}/nights", ".json"):
            facts = storage.read_json(uri)
            facts["started_at"] = (datetime.fromisoformat(facts["started_at"]) - timedelta(days=nights)).isoformat()
            storage.write_json(uri, facts)

    # What stands in for the stages:

    def embed(self, config: Any) -> None:
        self._begin("embed")
        root, previous = config.output, latest_id(config.output)
        if previous == f"{self.night:016x}":
            return
        changed = sum(prompt.endswith(f"night {self.night}") for prompt in self.prompts.values())
        counts = {"total": 40, "new": 0, "changed": changed, "kept": 40 - changed, "deleted": 0, "refused": 0}
        parity = {"sample_items": 1, "min_cosine": 1.0}
        write_snapshot(root, self.prompts, night=self.night, counts=counts, parity=parity, parent=previous)

    def train(self, config: Any) -> None:
        self._begin("rat")
        info = {"format": FORMAT, "quality": self.quality, "embeddings": Snapshot.open(config.embeddings).snapshot_id}
        if not storage.exists(f"{config.output}/recommender.json"):
            storage.write_json(f"{config.output}/recommender.json", info)

    def evaluate(self, config: Any) -> None:
        self._begin("evaluate")
        qualities = {uri: storage.read_json(f"{uri}/recommender.json")["quality"] for uri in config.models}
        metrics = {uri: {"full": {"overall": {"ndcg@10": value}}} for uri, value in qualities.items()}
        models: list[dict[str, Any]] = [{"uri": None, "metrics": {}}]
        models += [{"uri": uri, "metrics": values} for uri, values in metrics.items()]
        storage.write_json(f"{config.output}/metrics.json", {"models": models})

    def _begin(self, step: str) -> None:
        self.ran.append(step)
        if self.fails_in == step:
            raise RuntimeError(f"{step} fails")


@pytest.fixture
def nights(tiny_dataset, tmp_path, monkeypatch) -> Nights:
    nights = Nights(str(tmp_path / "nightly"), tiny_dataset)
    for name, stage in (("run_embed", nights.embed), ("run_rat", nights.train), ("run_evaluate", nights.evaluate)):
        monkeypatch.setattr(run, name, stage)
    return nights


def made(nights: Nights) -> set[str]:
    return {storage.name(uri) for uri in storage.list_folders(f"{nights.root}/recommenders")}


def test_the_first_night_publishes_and_the_next_leaves_it(nights):
    first = nights.run()
    assert (first["outcome"], first["live"]) == ("published", first["candidate"])
    assert live.live_id(nights.root) == first["candidate"]
    second = nights.run()
    assert (second["outcome"], second["live"], nights.ran) == ("not due", first["candidate"], ["embed"])
    text = storage.read_bytes(storage.list_files(f"{nights.root}/nights", ".txt")[0]).decode()
    assert "published" in text
    assert "overall      ndcg@10 0.5000" in text


def test_a_night_takes_the_last_finished_dataset_of_a_folder(nights, tmp_path, capsys):
    folder = tmp_path / "datasets"
    with pytest.raises(InputError, match=f"^dataset: {folder} has no finished dataset: expected"):
        nights.run(dataset=f"{folder}/*")
    for day in ("2026-11-22", "2026-11-23"):
        shutil.copytree(nights.dataset, folder / day)
    (folder / "2026-11-24").mkdir()  # still being prepared
    assert nights.run(dataset=f"{folder}/*")["outcome"] == "published"
    assert f"nightly: dataset {folder}/2026-11-23\n" in capsys.readouterr().out
    written = yaml.safe_load(storage.read_bytes(f"{nights.root}/config.yaml"))
    assert written["dataset"] == f"{folder}/2026-11-23"
    config = run.NightlyConfig.parse(written)
    assert config.embed.dataset == config.rat.dataset == config.evaluate.dataset == written["dataset"]
    shutil.copytree(nights.dataset, folder / "2026-11-25")
    nights.back_to(7)
    assert nights.run(dataset=f"{folder}/*")["reason"] == "nothing has changed since the live one was trained"


@pytest.mark.parametrize(("nights_ago", "items", "is_due"), [(6, 0, False), (7, 0, True), (0, 1, False), (0, 2, True)])
def test_training_is_due_after_some_nights_or_when_the_catalogue_moved(nights, nights_ago, items, is_due):
    nights.run()
    nights.back_to(nights_ago)
    nights.change(items)
    assert ("rat" in (nights.run() and nights.ran)) == is_due  # 1 and 2 of 40 items are 2.5 and 5 %


def test_small_changes_add_up_until_training_is_due(nights):
    nights.run()
    outcomes = []
    for _ in range(3):
        nights.change(1)
        outcomes.append(nights.run()["outcome"])
        nights.run()  # the same night again adds nothing
    assert outcomes == ["not due", "published", "not due"]


def test_what_a_night_embedded_that_was_killed_then_counts_too(nights):
    nights.run()
    nights.change(1)
    assert nights.run()["outcome"] == "not due"
    for suffix in (".json", ".txt"):
        storage.remove(storage.list_files(f"{nights.root}/nights", suffix)[-1])  # it left no summary
    nights.change(1)
    assert nights.run()["training"] == "5.0% of the catalogue has changed since the last"


def test_of_a_latest_that_was_moved_back_by_hand_older_snapshots_do_not_count(nights):
    for items, outcome in ((2, "published"), (1, "not due"), (2, "published")):
        nights.change(items)
        assert nights.run()["outcome"] == outcome
    nights.night = 2
    storage.write_bytes(f"{nights.root}/embeddings/LATEST", f"{2:016x}\n".encode())
    assert nights.run()["training"] == "not due"  # one item of night 2, and not the two of night 1


def test_a_night_without_any_change_trains_nothing_even_if_it_is_time(nights):
    first = nights.run()
    nights.back_to(7)
    again = nights.run()
    assert again["reason"] == "nothing has changed since the live one was trained"
    assert again["live"] == first["live"]
    nights.change(1)
    assert nights.run()["outcome"] == "published"  # it was no training, which is due still


@pytest.mark.parametrize(("quality", "is_published"), [(0.49, True), (0.4899, False), (0.6, True)])
def test_what_is_worse_beyond_the_margin_is_not_published(nights, quality, is_published):
    first = nights.run()
    nights.change(2)
    nights.quality = quality
    if is_published:
        assert nights.run()["live"] != first["live"]
    else:
        with pytest.raises(InputError, match=r"is worse than the live .* 0.4899 in overall, expected at least 0.4900"):
            nights.run()
        assert (nights.last["outcome"], nights.last["live"]) == ("kept", first["live"])
        assert live.live_id(nights.root) == first["live"]
        assert nights.run()["outcome"] == "not due"  # what was refused is not trained again the next night


@pytest.mark.parametrize("step", ["embed", "rat", "evaluate"])
def test_a_night_that_failed_says_why_and_run_again_goes_on(nights, step):
    nights.fails_in = step
    with pytest.raises(RuntimeError):
        nights.run()
    assert (nights.last["outcome"], nights.last["reason"]) == ("failed", f"{step} fails")
    nights.fails_in = None
    assert nights.run()["outcome"] == "published"


def test_a_night_cut_off_after_publishing_ends_with_the_same_live_recommender(nights, monkeypatch):
    def fails(*_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(run, "clean_up", fails)
        with pytest.raises(RuntimeError):
            nights.run()
    published = live.live_id(nights.root)
    assert nights.run()["live"] == published == live.live_id(nights.root)
    assert nights.last["training"] == "not due"  # the one before counts: it was compared and published


class Killed(BaseException):
    """As by SIGKILL: nothing runs after it, so no summary is written either."""


@pytest.fixture
def kill(nights, monkeypatch) -> Callable[..., None]:
    """Runs a night that is killed right after it has called a function."""

    def kill(module: Any, name: str) -> None:
        called = getattr(module, name)

        def then_dies(*arguments: Any) -> None:
            called(*arguments)
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(run, "_report", lambda *_: None)
            patched.setattr(module, name, then_dies)
            with pytest.raises(Killed):
                nights.run()

    return kill


@pytest.mark.parametrize("is_first", [True, False])
def test_a_night_killed_when_live_had_moved_counts_as_a_training_once_it_is_run_again(nights, kill, is_first):
    if not is_first:
        nights.run()
        nights.change(2)
    kill(live, "publish")
    published, told = live.live_id(nights.root), len(summary.read_all(nights.root))
    assert told == (0 if is_first else 1)
    assert (nights.run()["outcome"], nights.ran) == ("not due", ["embed"])
    assert nights.last["reason"] == f"{published} is live already, published by a night that left no summary"
    nights.change(1)
    assert (nights.run()["reason"], nights.ran) == ("no training was due", ["embed"])
    nights.change(1)
    assert nights.run()["training"] == "5.0% of the catalogue has changed since the last"


@pytest.mark.parametrize("quality", [0.6, 0.1])
def test_a_night_killed_in_cleaning_up_has_told_of_its_training(nights, kill, quality):
    first = nights.run()["live"]
    nights.back_to(7)
    nights.change(1)
    nights.quality = quality
    kill(run, "clean_up")
    decision = "published" if quality == 0.6 else "kept"
    assert (nights.last["outcome"], nights.last["decision"]) == (decision, decision)
    assert (live.live_id(nights.root) == first) == (decision == "kept")
    nights.change(1)  # the killed one is not run again: the next night follows
    assert (nights.run()["reason"], nights.ran) == ("no training was due", ["embed"])


def test_a_night_that_kept_the_live_one_and_could_not_clean_up_counts_as_a_training(nights, monkeypatch):
    def refuses(*_: Any) -> None:
        raise InputError("s3://bucket: access denied: the store does not delete")

    nights.run()
    monkeypatch.setattr(run, "clean_up", refuses)
    nights.quality = 0.1
    nights.change(2)
    with pytest.raises(InputError, match="does not delete"):
        nights.run()
    assert (nights.last["outcome"], nights.last["decision"], nights.ran[-1]) == ("failed", "kept", "evaluate")
    with pytest.raises(InputError, match="does not delete"):
        nights.run()
    assert (nights.last["training"], nights.ran) == ("not due", ["embed"])


def test_live_that_was_moved_by_hand_meanwhile_stays(nights, monkeypatch):
    nights.run()
    nights.change(2)
    by_hand = "ab" * 8
    compare = run.compare

    def meddle(*arguments: Any) -> Any:
        storage.write_bytes(f"{nights.root}/LIVE", f"{by_hand}\n".encode())
        return compare(*arguments)

    monkeypatch.setattr(run, "compare", meddle)
    with pytest.raises(InputError, match=f"moved to {by_hand} while this night compared"):
        nights.run()
    assert live.live_id(nights.root) == by_hand


@pytest.mark.parametrize("is_gone", [True, False])
def test_live_that_cannot_be_read_is_found_before_the_training_and_without_it_the_next_is_published(nights, is_gone):
    first, file = nights.run()["live"], f"{nights.root}/LIVE"
    if is_gone:
        shutil.rmtree(f"{nights.root}/recommenders/{first}")
    else:
        of_before = {"format": FORMAT - 1, "embeddings": None}
        storage.write_json(f"{nights.root}/recommenders/{first}/recommender.json", of_before)
    nights.back_to(7)
    nights.change(items=1)
    with pytest.raises(InputError, match=f"^{file}: recommender: .*{first} has .*; without {file} tonight's"):
        nights.run()
    assert nights.ran == ["embed"]
    storage.remove(file)
    assert nights.run()["outcome"] == "published"


def test_live_that_is_no_folders_name_is_refused(nights):
    storage.write_bytes(f"{nights.root}/LIVE", b"../../elsewhere\n")
    with pytest.raises(InputError, match="expected the name of a folder in recommenders/"):
        nights.run()


def test_cleaning_up_leaves_what_is_live_and_its_snapshot(nights):
    keep = {"keep": {"snapshots": 1, "recommenders": 1, "unfinished_hours": 0}}
    first = nights.run(**keep)
    nights.quality = 0.1
    for _ in range(3):  # trained, and worse
        nights.change(2)
        with pytest.raises(InputError, match="is worse"):
            nights.run(**keep)
    recommenders = [storage.name(uri) for uri in storage.list_folders(f"{nights.root}/recommenders")]
    assert sorted(recommenders) == sorted([first["live"], nights.last["candidate"]])
    snapshots = [storage.name(uri) for uri in storage.list_folders(f"{nights.root}/embeddings")]
    assert snapshots == [f"{night:016x}" for night in (0, 2, 3)]  # the live one's, the parent, LATEST
    assert len(storage.list_folders(f"{nights.root}/evaluations")) == 1


def test_an_old_snapshot_of_another_format_stops_no_night_and_stays(nights, capsys):
    nights.run()
    for _ in range(2):
        nights.change(1)
        nights.run()
    old = f"{nights.root}/embeddings/{1:016x}"
    storage.write_json(f"{old}/manifest.json", {"format": 1})
    nights.change(1)
    nights.run(keep={"snapshots": 1})
    assert nights.last["outcome"] == "not due"  # 1 of 40 since the last training
    assert storage.exists(f"{old}/manifest.json")
    assert f"nightly: left alone: embeddings: {old}/manifest.json is of format 1" in capsys.readouterr().out


@pytest.mark.parametrize("recommenders", [1, 3])
def test_cleaning_up_leaves_the_one_that_was_live_before(nights, recommenders):
    keep = {"keep": {"snapshots": 1, "recommenders": recommenders, "unfinished_hours": 0}}
    first = nights.run(**keep)["live"]
    for quality in (0.1, 0.1, 0.6):  # two are rejected, the third is published
        nights.change(2)
        nights.quality = quality
        with nullcontext() if quality == 0.6 else pytest.raises(InputError, match="is worse"):
            nights.run(**keep)
    assert nights.last["live"] != first == nights.last["live_before"]
    assert made(nights) >= {first, nights.last["live"]}
    assert len(made(nights)) == recommenders + 1
    assert nights.run(**keep)["outcome"] == "not due"
    assert made(nights) >= {first, nights.last["live"]}
    assert storage.exists(f"{nights.root}/embeddings/{0:016x}")  # what the first was trained on


def test_what_was_live_before_is_told_by_the_nights_also_where_somebody_moved_live(nights):
    keep = {"keep": {"recommenders": 1}}
    first = nights.run(**keep)["live"]
    by_hand = "ab" * 8
    shutil.copytree(f"{nights.root}/recommenders/{first}", f"{nights.root}/recommenders/{by_hand}")
    storage.write_bytes(f"{nights.root}/LIVE", f"{by_hand}\n".encode())
    nights.change(2)
    second = nights.run(**keep)["live"]
    assert made(nights) == {by_hand, second}
    nights.run(**keep)
    assert made(nights) == {by_hand, second}
    storage.write_bytes(f"{nights.root}/LIVE", f"{by_hand}\n".encode())  # back again
    nights.run(**keep)
    assert made(nights) == {by_hand, second}


def test_unfinished_work_stays_as_long_as_it_may_be_going_on(nights):
    working = f"{nights.root}/recommenders/{'cd' * 8}/checkpoint.safetensors"
    storage.write_bytes(working, b"x")
    foreign = f"{nights.root}/recommenders/by-hand/x"
    storage.write_bytes(foreign, b"x")
    nights.run()
    assert storage.exists(working)
    nights.run(keep={"unfinished_hours": 0})
    assert not storage.exists(working)
    assert storage.exists(foreign)


def test_a_dataset_that_is_missing_is_found_before_the_lease_is_taken(nights):
    nights.dataset = f"{nights.root}/nowhere"
    with pytest.raises(InputError, match=r"dataset: .*dataset\.json"):
        nights.run()
    assert not storage.exists(f"{nights.root}/LEASE")


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's URL, and what was posted there; it answers 500 where the path says so."""
    posted: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    server.server_close()


SECRET = "planted-secret-5d1e"


@pytest.mark.parametrize(
    ("path", "says"),
    [("/hook", ""), ("/broken", "webhook: answered 500"), (None, "webhook: not reached: ConnectionRefusedError")],
)
def test_the_summary_is_posted_and_the_url_shown_nowhere(nights, receiver, monkeypatch, capsys, path, says):
    url, posted = receiver
    monkeypatch.setenv("MY_HOOK", f"{url}{path}?token={SECRET}" if path else f"http://127.0.0.1:9/{SECRET}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-too")
    facts = nights.run(webhook_variable="MY_HOOK")
    output = capsys.readouterr()
    assert says in output.out
    assert [post["outcome"] for post in posted] == (["published"] if path else [])
    assert facts["outcome"] == "published"
    written = b"".join(storage.read_bytes(entry.uri) for entry in storage.list_tree(nights.root))
    assert SECRET not in output.out + output.err + written.decode(errors="replace")


@pytest.mark.parametrize(
    "value", ["", "ftp://x", f"file:///{SECRET}", SECRET, f"https://user:{SECRET}@here", f"https://here:{SECRET}"]
)
def test_a_webhook_that_is_no_url_is_found_first_and_not_shown(nights, monkeypatch, value):
    monkeypatch.setenv("MY_HOOK", value)
    with pytest.raises(InputError, match="expected MY_HOOK in the environment") as raised:
        nights.run(webhook_variable="MY_HOOK")
    assert SECRET not in str(raised.value)
    assert nights.ran == []


def test_slices_without_a_target_do_not_decide(nights):
    config = nights.config(publish={"slices": ["overall", "cold"]})
    metrics = {"overall": {"ndcg@10": 0.5}, "cold": {"ndcg@10": None}}
    models = {"models": [{"uri": "a", "metrics": {"full": metrics}}]}
    assert [row["slice"] for row in run.compare(config, models, ("a",))] == ["overall"]
    with pytest.raises(InputError, match="no user has a target in cold"):
        run.compare(nights.config(publish={"slices": ["cold"]}), models, ("a",))


def test_the_tiny_dataset_is_what_the_nights_read(nights):
    assert Dataset.open(nights.dataset).num_items == len(nights.prompts)
