"""``llmemb sample``."""

from typing import Annotated

import typer

from llmemb import storage
from llmemb.errors import InputError


def sample(
    output: Annotated[str, typer.Argument(help="Folder or URI for items.parquet and interactions.parquet.")],
    num_items: Annotated[int, typer.Option(min=5, help="Items in the catalogue.")] = 2000,
    num_users: Annotated[int, typer.Option(min=1, help="Users, about nine interactions each.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same tables.")] = 0,
) -> None:
    """Generate a small marketplace: a catalogue with real words and users whose tastes drift."""
    from llmemb.data.sample import TABLES, write_sample

    folder = storage.absolute(output)
    for name in TABLES:
        if storage.exists(storage.join(folder, name)):
            raise InputError(f"{folder}: there is {name} already; expected a folder without it")
    rows = write_sample(folder, num_items=num_items, num_users=num_users, seed=seed)
    print(f"sample: {folder}: {rows['items']:,} items, {rows['interactions']:,} interactions")
