"""How commands show things: rich tables for people, ``--json`` for programs."""

import json
import shutil
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

# Ids are to be copied whole: on a narrow terminal lines wrap, cells do not.
console = Console(highlight=False, width=max(shutil.get_terminal_size().columns, 160))
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value instead.")]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def separated(text: str) -> list[str]:
    """What is between the commas, without spaces around it; nothing empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns named in ``right`` hold numbers."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return result


def size(num_bytes: int) -> str:
    return decimal(num_bytes)


def moment(iso: str) -> str:
    """A manifest's time, to the minute, UTC."""
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M")
