"""``llmemb submit``."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def submit(
    job: Annotated[str, typer.Argument(help="Which script: scft, embed, rat, nightly …")],
    config: Annotated[str, typer.Option(help="Its YAML file, inside the folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value …]")] = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    folder: Annotated[Path, typer.Option(help="The checkout that travels: code and configs, no data.")] = Path(),
    in_place: Annotated[bool, typer.Option(help="Every node has the folder, as in an image.")] = False,
    retries: Annotated[int, typer.Option(min=0, help="How often again, where the cluster loses the job.")] = 3,
) -> None:
    """Run a job on a Ray cluster, follow its output, and exit as it does.

    A job that the cluster loses (a node, the head) is submitted again and goes on where it was; one that fails by
    itself is not. Where the cluster asks for a token: RAY_AUTH_MODE=token, RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """
    from llmemb import submission

    def show(text: str) -> None:
        print(text, end="", flush=True)

    code = submission.submit(
        job,
        config,
        overrides or [],
        address=address,
        folder=folder.resolve(),
        in_place=in_place,
        max_retries=retries,
        show=show,
    )
    sys.exit(code)
