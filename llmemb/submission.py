"""Submitting a job script to a Ray cluster, and seeing it through: its lines, its exit code, another try.

Every job can be run again after any failure, so whatever may be gone by itself is simply tried again: a driver that a
node took with it, a head that restarted, a store that does not answer. What else the job says (bad input, a bug) is
final.
"""

import asyncio
import logging
import os
import re
import shlex
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmemb import storage
from llmemb.errors import InputError
from llmemb.job import TRY_AGAIN

EXCLUDES = (".venv*", ".git", "runs", "build", "__pycache__", "*.parquet", "*.safetensors", "*.npy", "*.csv.gz")
"""Of the working directory: what a job needs is code and configs."""
POLL_SECONDS, SILENCE_SECONDS = 2.0, 60.0
NOT_FOUND, SERVER_FAULT = 404, 500
"""HTTP: from the latter on it is not the question that is wrong."""
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_JOB_NAME = re.compile(r"[a-z][a-z0-9_]*")


def submit(
    job: str,
    config: str,
    overrides: Sequence[str] = (),
    *,
    address: str,
    folder: Path,
    in_place: bool = False,
    max_retries: int = 3,
    patience_seconds: float = 600,
    show: Callable[[str], None] = print,
) -> int:
    """Runs ``jobs/<job>.py`` of a folder on a cluster and follows it to its end.

    Args:
        config: Relative to the folder, which is what travels.
        in_place: Nothing travels: the folder is at the same place on every node, as in an image.
        address: Of the cluster's dashboard, ``http://host:8265``. The token is what Ray's clients read:
            ``RAY_AUTH_MODE=token`` with ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH``.
        max_retries: How often the job is submitted again after the cluster lost it, or a store did not answer.
        patience_seconds: How long a cluster that answered once may stay silent.
        show: Takes the job's output, piece by piece.

    Returns:
        The job's exit code; 75 (try again later) where that has happened too often.

    Raises:
        InputError: no such job or config in the folder, no cluster at the address, another token than the cluster's, or
            a submission that the cluster refuses.
    """
    prefix = f"{folder.resolve()}/" if in_place else ""
    entrypoint = shlex.join(_command(job, config, overrides, folder, prefix))
    client = _connect(address)
    runtime_env = {} if in_place else {"working_dir": str(folder), "excludes": list(EXCLUDES)}
    session = _Session(client, patience_seconds, show)
    unseen = ""  # the submission whose end was not seen, if any
    for attempt in range(max_retries + 1):
        job_id = session.hand_in(f"{job}-{uuid.uuid4().hex[:12]}", entrypoint, runtime_env, unless_has=unseen)
        try:
            code, unseen = _follow(session, job_id), ""
        except _SilentError as error:
            show(f"submit: {error}\n")
            code, unseen = None, job_id
        if not (code is None or code == TRY_AGAIN or _is_killed(code)):
            return code
        if attempt < max_retries:
            what = "asked for it again" if unseen else f"{_why(code)}; again"
            show(f"submit: {what}, {attempt + 1} of {max_retries}\n")
    return TRY_AGAIN


def _why(code: int | None) -> str:
    return "the job says to try again" if code == TRY_AGAIN else "the cluster lost the job"


def _command(job: str, config: str, overrides: Sequence[str], folder: Path, prefix: str) -> list[str]:
    for override in overrides:  # the command is shown, here and on the dashboard
        storage.check_no_password(override)
        key, _, value = override.partition("=")
        if key.endswith("_variable") and "://" in value:
            raise InputError(f"{key}: expected the name of an environment variable, not what it holds")
    script = f"jobs/{job}.py"
    # The name becomes a path in a shell command on the cluster.
    if not _JOB_NAME.fullmatch(job) or not (folder / script).is_file():
        known = ", ".join(sorted(file.stem for file in (folder / "jobs").glob("*.py")))
        raise InputError(f"job: no {job!r} in {folder}/jobs; expected one of {known or 'none: this is no checkout'}")
    file = (folder / config).resolve()
    if not file.is_file() or not file.is_relative_to(folder.resolve()):
        raise InputError(f"config: {config}: expected a file inside {folder}, which is what travels to the cluster")
    return ["python", f"{prefix}{script}", "--config", f"{prefix}{file.relative_to(folder.resolve())}", *overrides]


def _connect(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise InputError(f"address: {address}: expected that of the cluster's dashboard, http://host:8265")
    # Ray prefers these to what the caller says.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    for handler in logging.getLogger("ray").handlers:  # one line per file that stays here is too much
        handler.setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            f"address: {address} refuses the token: expected RAY_AUTH_MODE=token and the cluster's token in "
            "RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"address: no Ray cluster answers at {address}: expected http://host:8265") from error


def _follow(session: "_Session", job_id: str) -> int | None:
    """One submission's exit code; None where the driver has none, for it was lost.

    Raises:
        _SilentError: nobody says how it ended, or whether it has.
    """
    try:
        session.follow(job_id)
        info = session.ask(lambda client: client.get_job_info(job_id))
    except _GoneError as error:
        session.show(f"submit: {error}\n")
        return None
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        session.show("submit: the job was stopped\n")
        return 1
    if info.driver_exit_code is None:
        session.show(f"submit: {' '.join((info.message or 'no message').split())[:500]}\n")
    return info.driver_exit_code


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _is_killed(code: int) -> bool:
    """Whether a signal ended the driver: a node's memory monitor, or the node's own end."""
    return code < 0 or code > 128


class _GoneError(Exception):
    """The cluster does not know the job."""


class _SilentError(Exception):
    """The cluster does not answer any more, or not what it was asked: the job may run all the same."""


def _status(error: RuntimeError) -> int | None:
    """The HTTP status behind what Ray's client raises; None where there is none."""
    found = re.match(r"Request failed with status code (\d+)", str(error))
    return int(found[1]) if found else None


class _Session:
    """A client that stays patient while a cluster that has answered before does not answer."""

    def __init__(self, client: Any, patience_seconds: float, show: Callable[[str], None]) -> None:
        self._client, self._patience = client, patience_seconds
        self.show = show
        self._shown = Counter[str]()
        """Characters of each submission's output, for one that is followed again."""

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """The answer to a question; asked again while nobody answers, or a head that starts or a proxy says 5xx.

        Raises:
            _GoneError: it is about a job that the cluster does not know.
            _SilentError: there is none for as long as that is waited for.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return question(self._client)
            except (OSError, RuntimeError) as error:  # the former is what requests raises too
                status = (_status(error) or 0) if isinstance(error, RuntimeError) else SERVER_FAULT
                if status == NOT_FOUND:  # a head that was restarted knows nothing of its old jobs
                    raise _GoneError(_one_line(error)) from error
                if status < SERVER_FAULT:
                    raise _SilentError(_one_line(error)) from error
                if time.monotonic() > deadline:
                    said = f": {_one_line(error)}" if isinstance(error, RuntimeError) else ""
                    raise _SilentError(f"nobody has answered for {self._patience:.0f} s{said}") from error
                time.sleep(POLL_SECONDS)

    def hand_in(self, job_id: str, entrypoint: str, runtime_env: dict[str, Any], *, unless_has: str = "") -> str:
        """Submits a job once, however often that has to be said; returns the submission to follow.

        Where nobody answers for as long as that is waited for, what follows finds out.

        Args:
            unless_has: An earlier submission. Only a cluster that says it does not know it is given another beside it.

        Raises:
            InputError: the cluster refuses it, or a file of the folder cannot be read.
        """
        import requests

        if unless_has and (has := self._has(unless_has)) is not False:
            if has:
                self.show(f"submit: {unless_has} is still there\n")
            return unless_has
        self.show(f"submit: {job_id}: {entrypoint}\n")
        deadline = time.monotonic() + self._patience
        what = {"submission_id": job_id, "entrypoint": entrypoint, "runtime_env": runtime_env}
        while True:
            try:
                self._client.submit_job(**what)
                return job_id
            except (requests.RequestException, ConnectionError, TimeoutError):
                if time.monotonic() > deadline:
                    return job_id
            except OSError as error:
                raise InputError(f"folder: it cannot be packed for the cluster: {_one_line(error)}") from error
            except RuntimeError as error:
                # Ray answers 500 to what it refuses as well as to what fails: it is asked whether it has the job.
                if self._has(job_id):  # the answer to an earlier try was lost
                    return job_id
                if (_status(error) or 0) < SERVER_FAULT or time.monotonic() > deadline:
                    raise InputError(f"address: the cluster refuses the job: {_one_line(error)}") from error
            time.sleep(POLL_SECONDS)

    def _has(self, job_id: str) -> bool | None:
        """Whether the cluster knows the job, ended or not; None where it does not say."""
        try:
            self.ask(lambda client: client.get_job_status(job_id))
        except _GoneError:
            return False
        except _SilentError:
            return None
        return True

    def follow(self, job_id: str) -> None:
        """Shows the job's output until it has ended."""
        had_ended = False
        while True:
            is_whole = asyncio.run(self._tail(job_id))
            ended = self.ask(lambda client: client.get_job_status(job_id)).value in _ENDED
            # After a cut, the rest of an ended job's output is asked for once more: it may be gone with its node.
            if ended and (is_whole or had_ended):
                return
            had_ended = ended
            time.sleep(POLL_SECONDS)

    async def _tail(self, job_id: str) -> bool:
        """Shows what is new in the output until the stream ends, and tells whether it was not cut; each begins anew."""
        import aiohttp

        seen = 0
        texts = self._client.tail_job_logs(job_id)
        try:
            while True:
                # A job may be silent; so is a connection that was dropped without a word, and that is asked for anew.
                text = await asyncio.wait_for(anext(texts), SILENCE_SECONDS)
                seen += len(text)
                if seen > self._shown[job_id]:
                    self.show(text[-(seen - self._shown[job_id]) :])
                    self._shown[job_id] = seen
        except StopAsyncIteration:
            return True
        except (aiohttp.ClientError, OSError, RuntimeError):  # what it means is asked of the job's status
            return False
        finally:
            await texts.aclose()
