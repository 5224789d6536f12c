"""``llmemb``: a command for looking at and looking after artifacts, and for making a sample."""

import sys
from typing import Annotated

import typer

from llmemb import storage
from llmemb.errors import InputError
from llmemb.job import BAD_INPUT

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def llmemb() -> None:
    """Look at and look after LLMEmb's artifacts; make a sample to try it on."""


@app.command()
def sample(
    output: Annotated[str, typer.Argument(help="Folder or URI for items.parquet and interactions.parquet.")],
    num_items: Annotated[int, typer.Option(min=5, help="Items in the catalogue.")] = 2000,
    num_users: Annotated[int, typer.Option(min=1, help="Users, about nine interactions each.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same tables.")] = 0,
) -> None:
    """Generate a small marketplace: a catalogue with real words and users whose tastes drift."""
    from llmemb.data.sample import write_sample

    try:
        rows = write_sample(storage.absolute(output), num_items=num_items, num_users=num_users, seed=seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error
    print(f"sample: {storage.absolute(output)}: {rows['items']:,} items, {rows['interactions']:,} interactions")
