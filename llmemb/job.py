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
from llmemb.errors import InputError
from llmemb.settings import as_text

ConfigT = TypeVar("ConfigT", bound=JobConfig)
BAD_INPUT = 2
_INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}"
CLUSTER_LOST = 75
"""EX_TEMPFAIL: the job may be run again as it is."""
INTERRUPTED = 128 + signal.SIGINT
"""As shells have it."""


def main(config_class: type[ConfigT], run: Callable[[ConfigT], None]) -> NoReturn:
    """Runs ``python jobs/x.py --config FILE.yaml [section.key=value …]`` and exits.

    Exits with 0 when the output is complete, with 2 and one line on standard error when the input is bad, with 75 and
    a traceback when the cluster lost what the job needed, with 130 and a line after Ctrl-C, and with 1 and a traceback
    when the software is at fault.
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
    except Exception as error:
        bad_input = find_input_error(error)
        if bad_input is None:
            if not lost_by_cluster(error):
                raise
            traceback.print_exc()
            print("error: the cluster lost a part of the job: run it again to go on", file=sys.stderr)
            sys.exit(CLUSTER_LOST)
        print(f"error: {' '.join(str(bad_input).split())}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(0)


class _ShowSettings(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, *, config_class: type[JobConfig]) -> None:
        told = "list all settings with their defaults and what they do"
        super().__init__(option_strings, dest, nargs=0, help=told)
        self._config_class = config_class

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a pager that is closed early is no fault
        print(as_text(self._config_class))
        parser.exit()


def find_input_error(error: BaseException | None) -> InputError | None:
    """The bad input behind an exception, also one that crossed Ray in another's cause or message of failures."""
    behind = list(_behind(error))
    # Ray's own exception is an InputError too, but its message is a remote traceback; its cause is the error.
    found = (each for each in behind if isinstance(each, InputError) and not hasattr(each, "cause"))
    return next(found, None) or next(filter(None, map(_told_by_ray, behind)), None)


def _told_by_ray(error: BaseException) -> InputError | None:
    """The bad input of which only a remote traceback is left: Ray Data's exceptions lose their causes on the way."""
    if not type(error).__module__.startswith("ray."):
        return None
    found = re.search(rf"^{re.escape(_INPUT_ERROR)}: (.+)$", str(error), re.MULTILINE)
    return None if found is None else InputError(found[1])


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
