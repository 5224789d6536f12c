"""The nightly job: embed → train when due → compare with the live recommender → publish if not worse → clean up."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from llmemb import storage
from llmemb.data.dataset import DATASET_FILE, Dataset
from llmemb.embed.history import History, plan_sweep
from llmemb.embed.history import sweep as sweep_snapshots
from llmemb.embed.pipeline import run_embed
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.evaluation.evaluate import METRICS_FILE, run_evaluate
from llmemb.lease import LEASE_FILE, Lease, held, this_process
from llmemb.nightly import live, summary
from llmemb.nightly.config import EVALUATIONS_FOLDER, FILLED, RECOMMENDERS_FOLDER, NightlyConfig
from llmemb.rat.recommender import RECOMMENDER_FILE, read_info
from llmemb.rat.run import run_rat

PUBLISHED, KEPT, NOT_DUE, FAILED = "published", "kept", "not due", "failed"


def run_nightly(config: NightlyConfig) -> None:
    """Runs a night, one at a time per root.

    Each step's output is named by what it is made from, so that a night that was cut off, run again, finds what it had
    finished and goes on. A training counts once its recommender has been compared.

    Raises:
        InputError: another night is running; a step's bad input; or a new recommender that is worse than the live one,
            which stays live. The summary says so too.
    """
    url = summary.webhook_url(config.webhook_variable)
    config = config.on_dataset(newest_dataset(config.dataset))
    Dataset.open(config.dataset)
    with held(storage.join(config.output, LEASE_FILE), owner=this_process(), seconds=config.lease_seconds) as lease:
        storage.write_bytes(storage.join(config.output, "config.yaml"), config.to_yaml().encode())
        night = Night(config, lease)
        try:
            night.run()
        except BaseException as error:
            night.facts |= {"outcome": FAILED, "reason": _reason(error)}
            raise
        finally:
            _report(config, night, url)
    if night.facts["outcome"] == KEPT:
        raise InputError(f"nightly: {night.facts['reason']}")


def newest_dataset(uri: str) -> str:
    """The dataset itself; of ``FOLDER/*`` the last by name of those that are finished.

    Raises:
        InputError: none is.
    """
    folder, star = uri.removesuffix("/*"), uri.endswith("/*")
    if not star:
        return uri
    for found in reversed(storage.list_folders(folder)):
        if storage.exists(storage.join(found, DATASET_FILE)):
            print(f"nightly: dataset {found}")
            return found
    raise InputError(f"dataset: {folder} has no finished dataset: expected the output of a prepare job in it")


class Night:
    """One night's steps, in order, and in ``facts`` what they did."""

    def __init__(self, config: NightlyConfig, lease: Lease) -> None:
        self._config, self._lease = config, lease
        self._before = summary.read_all(config.output)
        self.facts: dict[str, Any] = {"format": 1, "started_at": datetime.now(UTC).isoformat(), "seconds": {}}

    def run(self) -> None:
        config = self._config
        self.facts["live"] = self.facts["live_before"] = live_before = live.live_id(config.output)
        dataset = Dataset.open(config.dataset)
        self.facts["dataset"] = dataset.fingerprint
        with self._step("embed"):
            run_embed(config.embed)
            snapshot = Snapshot.open(config.embed.output)
        facts = {"id": snapshot.snapshot_id, "counts": snapshot.manifest["counts"]}
        self.facts["snapshot"] = facts | {"parity": snapshot.manifest["parity"]}
        candidate = _candidate(config, dataset, snapshot)
        why = due(config, self._before, self.facts)
        self.facts["training"] = why or "not due"
        if why is None:
            self.facts |= {"outcome": NOT_DUE, "reason": "no training was due"}
        elif candidate == live_before:
            self._leave(candidate)
        else:
            self.facts["candidate"] = candidate
            self._check_live(live_before)
            with self._step("rat"):
                recommender = self._recommender(candidate)
                run_rat(config.rat.model_copy(update={"output": recommender, "embeddings": snapshot.uri}))
            with self._step("evaluate"):
                self.facts["comparison"] = self._compare(candidate, live_before, snapshot)
            with self._step("publish"):
                self._decide(candidate, live_before)
                summary.write(config.output, self.facts)  # it counts, even if the night is killed in cleaning up
        with self._step("clean up"):
            self.facts["deleted"] = list(clean_up(config, [*self._before, self.facts]))

    def _leave(self, candidate: str) -> None:
        """What is live was made from all that there is tonight.

        If no summary tells of its training, the night that moved LIVE was killed before it could write one. This one
        then tells of it, or the same content would be due again the next night.
        """
        reason = "nothing has changed since the live one was trained"
        if not any(_has_compared(night) and night.get("candidate") == candidate for night in self._before):
            reason = f"{candidate} is live already, published by a night that left no summary"
            self.facts |= {"candidate": candidate, "decision": PUBLISHED}
        self.facts |= {"outcome": NOT_DUE, "reason": reason}

    def _check_live(self, name: str | None) -> None:
        """Raises InputError, before hours of training, where tonight's recommender could be compared with nothing."""
        try:
            if name is not None:
                read_info(self._recommender(name))
        except InputError as error:
            uri = storage.join(self._config.output, live.LIVE_FILE)
            raise InputError(f"{uri}: {error}; without {uri} tonight's is published as the first one is") from error

    def _compare(self, candidate: str, live_before: str | None, snapshot: Snapshot) -> list[dict[str, Any]]:
        config = self._config
        models = tuple(self._recommender(name) for name in (candidate, live_before) if name)
        name = storage.fingerprint([candidate, live_before, config.evaluate.identity()])
        output = storage.join(config.output, EVALUATIONS_FOLDER, name)
        changed = {"models": models, "embeddings": snapshot.uri, "output": output}
        run_evaluate(config.evaluate.model_copy(update=changed))
        self.facts["evaluation"] = output
        return compare(config, storage.read_json(storage.join(output, METRICS_FILE)), models)

    def _decide(self, candidate: str, live_before: str | None) -> None:
        worse = [row for row in self.facts["comparison"] if not row["is_enough"]]
        if worse:
            shown = ", ".join(
                f"{row['metric']} {row['candidate']:.4f} in {row['slice']}, expected at least {row['required']:.4f}"
                for row in worse
            )
            reason = f"{candidate} is worse than the live {live_before}: {shown}"
            self.facts |= {"outcome": KEPT, "decision": KEPT, "reason": reason}
            return
        live.publish(self._config.output, candidate, live_before)
        reason = f"{candidate} is not worse than {live_before}" if live_before else f"{candidate} is the first"
        self.facts |= {"outcome": PUBLISHED, "decision": PUBLISHED, "reason": reason, "live": candidate}

    def _recommender(self, name: str) -> str:
        return storage.join(self._config.output, RECOMMENDERS_FOLDER, name)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._lease.check()
        print(f"nightly: {name}", flush=True)
        started = time.monotonic()
        yield
        self._lease.check()
        self.facts["seconds"][name] = round(time.monotonic() - started, 1)


def due(config: NightlyConfig, before: list[summary.Summary], tonight: summary.Summary) -> str | None:
    """Why a recommender is trained tonight; None where it is not.

    Args:
        before: The nights' summaries, oldest first.
        tonight: With ``live``, ``started_at`` and ``snapshot``.
    """
    if tonight["live"] is None:
        return "no recommender is live yet"
    compared = [number for number, night in enumerate(before) if _has_compared(night)]
    if not compared:
        return "no night has trained a recommender yet"
    last = before[compared[-1]]
    nights = (_date(tonight) - _date(last)).days
    if nights >= config.retrain.every_nights:
        return f"the last training was {nights} nights ago"
    trained_on = last["snapshot"]["id"]
    told = [night["snapshot"] for night in (*before[compared[-1] :], tonight) if "snapshot" in night]
    counts = {snapshot["id"]: snapshot["counts"] for snapshot in told}
    counts |= _counts_since(config, trained_on, tonight["snapshot"]["id"])
    del counts[trained_on]
    moved = sum(one[kind] for one in counts.values() for kind in ("new", "changed", "deleted"))
    share = moved / max(1, tonight["snapshot"]["counts"]["total"])
    return f"{share:.1%} of the catalogue has changed since the last" if share >= config.retrain.changed_share else None


def _counts_since(config: NightlyConfig, trained_on: str, tonight: str) -> dict[str, dict[str, int]]:
    """The counts of tonight's snapshot and of those between it and the one trained on, as far as they are there.

    They tell of what no summary does: nights that were killed after they had embedded.
    """
    manifests = {one.snapshot_id: one.manifest for one in History.read(config.embed.output).published}
    counts: dict[str, dict[str, int]] = {}
    at: str | None = tonight
    while at != trained_on and (manifest := manifests.get(at or "")):
        counts[manifest["snapshot_id"]] = manifest["counts"]
        at = manifest["parent"]
    return {} if at is None else counts  # None: LATEST was moved to one that is no child of the one trained on


def _has_compared(night: summary.Summary) -> bool:
    """Whether a night trained a recommender and compared it; it may have failed after that, in cleaning up."""
    return "decision" in night


def compare(config: NightlyConfig, metrics: dict[str, Any], models: tuple[str, ...]) -> list[dict[str, Any]]:
    """The candidate's figure and the live one's in each slice that decides, and whether the former is enough.

    Args:
        metrics: The evaluation's ``metrics.json``.
        models: The candidate, and then the live one, if there is one.
    """
    publish = config.publish
    of_model = {model["uri"]: model["metrics"][publish.protocol] for model in metrics["models"] if model["uri"]}
    rows = []
    for part in publish.slices:
        figures = [of_model[uri][part][publish.metric] for uri in models]
        if None in figures:  # no user has a target in this slice
            continue
        candidate, current = figures[0], figures[1] if len(figures) > 1 else None
        required = 0.0 if current is None else (1 - publish.margin) * current
        row = {"slice": part, "metric": publish.metric, "candidate": candidate, "live": current, "required": required}
        rows.append(row | {"is_enough": candidate >= required})
    if not rows:
        raise InputError(f"publish.slices: no user has a target in {', '.join(publish.slices)}: nothing to decide by")
    return rows


def clean_up(config: NightlyConfig, nights: list[summary.Summary]) -> Iterator[str]:
    """Deletes old recommenders, evaluations and snapshots, and yields the URIs of those that are gone.

    What is live stays, what was live before it too, and so does every snapshot that a recommender which stays was
    trained on, or is being.

    Args:
        nights: The summaries, oldest first, tonight's last.
    """
    keep, unfinished_age = config.keep, timedelta(hours=config.keep.unfinished_hours)
    current = live.live_id(config.output)
    pinned = {name for name in (current, previously_live(nights, current)) if name}
    kept: list[live.Made] = []
    folders = {RECOMMENDERS_FOLDER: RECOMMENDER_FILE, EVALUATIONS_FOLDER: METRICS_FILE}
    for folder, finished_by in folders.items():
        found = live.made(storage.join(config.output, folder), finished_by=finished_by)
        old = live.outdated(found, keep=keep.recommenders, pinned=pinned, unfinished_age=unfinished_age)
        yield from live.sweep(old, finished_by=finished_by)
        if folder == RECOMMENDERS_FOLDER:
            kept = [one for one in found if one not in old]
    history = History.read(config.embed.output)
    for one in history.unreadable:
        print(f"nightly: left alone: {one.reason}")
    plan = plan_sweep(history, keep=keep.snapshots, unfinished_age=unfinished_age, pinned=live.snapshots_of(kept))
    yield from sweep_snapshots(plan)


def previously_live(nights: list[summary.Summary], current: str | None) -> str | None:
    """The last recommender that was live and is not now; None where there was no other.

    It is the one to go back to, and servers that read LIVE a moment ago are about to open it.
    """
    named = [night.get(key) for night in nights for key in ("live_before", "live")]
    return next((name for name in reversed(named) if name not in (None, current)), None)


def _report(config: NightlyConfig, night: Night, url: str | None) -> None:
    facts = night.facts | {"ended_at": datetime.now(UTC).isoformat()}
    uri = summary.write(config.output, facts)
    print(summary.as_text(facts))
    print(f"summary: {uri}")
    failure = summary.post(url, facts) if url else None
    if failure:
        print(f"webhook: {failure}; the night is not affected")


def _candidate(config: NightlyConfig, dataset: Dataset, snapshot: Snapshot) -> str:
    """Tonight's recommender, named by its settings and by the content that it is made from, wherever that lies."""
    settings = {key: value for key, value in config.rat.identity().items() if key not in FILLED["rat"]}
    return storage.fingerprint([settings, dataset.fingerprint, snapshot.snapshot_id])


def _date(night: summary.Summary) -> Any:
    return datetime.fromisoformat(night["started_at"]).date()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
