"""What every job script does: read the config, find the cluster, run one function, exit."""

import argparse
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from llmemb import logs
from llmemb.config import JobConfig
from llmemb.errors import InputError, TemporaryError
from llmemb.settings import as_text

ConfigT = TypeVar("ConfigT", bound=JobConfig)
BAD_INPUT = 2
TRY_AGAIN = 75
"""EX_TEMPFAIL: the job may be run again as it is."""
INTERRUPTED = 128 + signal.SIGINT
"""As shells have it."""
TERMINATED = 128 + signal.SIGTERM
_TOLD: dict[str, type[InputError | TemporaryError]] = {
    f"{kind.__module__}.{kind.__qualname__}": kind for kind in (InputError, TemporaryError)
}
"""What is told in one line, by the name that a remote traceback has for it."""


def main(config_class: type[ConfigT], run: Callable[[ConfigT], None]) -> NoReturn:
    """Runs ``python jobs/x.py --config FILE.yaml [section.key=value …]`` and exits.

    Exits with 0 when the output is complete, with 2 and one line on standard error when the input is bad, with 75 and
    one line for what may be gone by itself, such as a store that does not answer, with 75 and a traceback when the
    cluster lost what the job needed, with 130 and a line after Ctrl-C, with 143 and a line after a SIGTERM that Ray
    took (during a training Ray makes it look like Ctrl-C), and with 1 and a traceback when the software is at fault.
    """
    parser = argparse.ArgumentParser(description=(config_class.__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE.yaml")
    parser.add_argument("--settings", action=_ShowSettings, config_class=config_class)
    parser.add_argument("--verbose", action="store_true", help="show the log lines of Ray and of the workers")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    try:
        logs.set_up(verbose=arguments.verbose)
        config = config_class.load(arguments.config, arguments.overrides)
        run(config)
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; run it again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        # Ray's handler exits with the signal's number, which nobody takes for a signal.
        print("terminated: what is finished is kept; run it again to go on", file=sys.stderr)
        sys.exit(TERMINATED)
    except Exception as error:
        told = find_told_error(error)
        if told is None:
            if not lost_by_cluster(error):
                raise
            traceback.print_exc()
            print("error: the cluster lost a part of the job: run it again to go on", file=sys.stderr)
            sys.exit(TRY_AGAIN)
        sys.exit(tell(told))
    sys.exit(0)


def tell(error: Exception) -> int:
    """Prints an error's one line on standard error, and returns the exit code."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return TRY_AGAIN if isinstance(error, TemporaryError) else BAD_INPUT


class _ShowSettings(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, *, config_class: type[JobConfig]) -> None:
        told = "list all settings with their defaults and what they do"
        super().__init__(option_strings, dest, nargs=0, help=told)
        self._config_class = config_class

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a pager that is closed early is no fault
        print(as_text(self._config_class))
        parser.exit()


def find_told_error(error: BaseException | None) -> InputError | TemporaryError | None:
    """What a user is told of an exception, also of one that crossed Ray in another's cause or message of failures.

    None for a fault of the software, and for what the cluster lost.
    """
    behind = list(_behind(error))
    # Ray's own exception is an InputError too, but its message is a remote traceback; its cause is the error.
    found = [each for each in behind if isinstance(each, InputError | TemporaryError) and not hasattr(each, "cause")]
    found += [told for each in behind if (told := _told_by_ray(each)) is not None]
    return found[0] if found else None


def _told_by_ray(error: BaseException) -> InputError | TemporaryError | None:
    """The error of which only a remote traceback is left: Ray Data's exceptions lose their causes on the way."""
    if not type(error).__module__.startswith("ray."):
        return None
    found = re.search(rf"^({'|'.join(map(re.escape, _TOLD))}): (.+)$", str(error), re.MULTILINE)
    return None if found is None else _TOLD[found[1]](found[2])


def lost_by_cluster(error: BaseException) -> bool:
    """Whether an exception stands for a node, or a process on it, that is gone."""
    if "ray" not in sys.modules:
        return False
    from ray import exceptions

    gone = (
        exceptions.ActorUnavailableError,
        exceptions.LocalRayletDiedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.RaySystemError,
        exceptions.WorkerCrashedError,
    )
    return any(
        isinstance(each, gone)
        # An actor also dies of what its own constructor raises.
        or (isinstance(each, exceptions.ActorDiedError) and "raised in its creation task" not in str(each))
        for each in _behind(error)
    )


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that led to it, here and on other nodes."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        queue += list(getattr(current, "worker_failures", {}).values())
