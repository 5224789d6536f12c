"""What every job script does: read the config, find the cluster, run one function, exit."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from llmemb.config import JobConfig
from llmemb.errors import InputError

ConfigT = TypeVar("ConfigT", bound=JobConfig)
BAD_INPUT = 2


def main(config_class: type[ConfigT], run: Callable[[ConfigT], None]) -> NoReturn:
    """Runs ``python jobs/x.py --config FILE.yaml [section.key=value …]`` and exits.

    Exits with 0 when the output is complete, with 2 and one line on standard error when the input is bad, and with a
    traceback and 1 when the software is at fault.
    """
    parser = argparse.ArgumentParser(description=(config_class.__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE.yaml")
    parser.add_argument("--verbose", action="store_true", help="show the log lines of Ray and of the workers")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, format="%(name)s: %(message)s")
    try:
        config = config_class.load(arguments.config, arguments.overrides)
        run(config)
    except Exception as error:
        bad_input = find_input_error(error)
        if bad_input is None:
            raise
        print(f"error: {' '.join(str(bad_input).split())}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(0)


def find_input_error(error: BaseException | None) -> InputError | None:
    """The bad input behind an exception, also one that crossed Ray in another's cause or message of failures."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's own exception is an InputError too, but its message is a remote traceback; its cause is the error.
        if isinstance(current, InputError) and not hasattr(current, "cause"):
            return current
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        queue += list(getattr(current, "worker_failures", {}).values())
    return None
