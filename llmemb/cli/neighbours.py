"""``llmemb neighbours``."""

import dataclasses
import time
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from llmemb import storage
from llmemb.cli.attributes import attributes_of, shortened
from llmemb.cli.display import AsJson, console, print_json, separated, table

IndexKind = Annotated[
    Literal["flat", "hnsw", "ivf"] | None,
    typer.Option(help="Search a faiss index, built for this search; how much it finds of the exact result is shown."),
]


def neighbours(
    item_id: Annotated[str, typer.Argument(help="The item whose neighbours to show.")],
    embeddings: Annotated[str, typer.Option(help="A snapshot's folder, or a root: then the one that LATEST names.")],
    dataset: Annotated[str | None, typer.Option(help="Shows attributes of its items beside their ids.")] = None,
    attributes: Annotated[str, typer.Option(help="Which of them, separated by commas.")] = "title",
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    index: IndexKind = None,
    as_json: AsJson = False,
) -> None:
    """Show the items whose embeddings are most similar to an item's, by cosine; exact unless --index is given."""
    from llmemb.embed.snapshot import Snapshot
    from llmemb.neighbours import nearest

    snapshot = Snapshot.open(storage.absolute(embeddings))
    found = nearest(snapshot, item_id, k) if index is None else _through(index, snapshot, item_id, k, quiet=as_json)
    columns = separated(attributes) if dataset else []
    item_ids = [item_id, *(neighbour.item_id for neighbour in found)]
    known = attributes_of(storage.absolute(dataset), item_ids, columns) if dataset else {}
    if as_json:
        rows = [dataclasses.asdict(neighbour) | known.get(neighbour.item_id, {}) for neighbour in found]
        print_json({"uri": snapshot.uri, "item_id": item_id, "neighbours": rows})
        return
    shown = table("cosine", "item", *columns, right=("cosine",))
    for cosine, other in [("", item_id), *((f"{neighbour.cosine:.4f}", neighbour.item_id) for neighbour in found)]:
        cells = [shortened(known.get(other, {}).get(column)) for column in columns]
        shown.add_row(cosine, *map(escape, [other, *cells]), style=None if cosine else "bold")
    console.print(shown)


def _through(kind: Any, snapshot: Any, item_id: str, k: int, *, quiet: bool) -> list[Any]:
    from llmemb.neighbours import build_index, item_vector, recall, search_index

    query = item_vector(snapshot, item_id)
    started = time.monotonic()
    index, item_ids = build_index(snapshot, kind)
    seconds = time.monotonic() - started
    [found] = search_index(index, item_ids, query[None], k + 1)
    if not quiet:
        share = recall(snapshot, index, item_ids, k=k)
        console.print(
            f"{kind} index of {len(item_ids):,} items, built in {seconds:.1f} s, finds {share:.2%} of the exact "
            f"{k} nearest (over {min(1000, len(item_ids)):,} items)"
        )
    return [neighbour for neighbour in found if neighbour.item_id != item_id][:k]
