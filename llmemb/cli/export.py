"""``llmemb export``: a snapshot in the formats of vector search."""

from typing import Annotated, Literal

import typer

from llmemb import storage
from llmemb.cli.display import console

app = typer.Typer(no_args_is_help=True, help="Write a snapshot as a faiss index, a Lance data set or a NumPy array.")
Embeddings = Annotated[str, typer.Argument(help="A snapshot's folder, or a root: then the one that LATEST names.")]
Output = Annotated[str, typer.Argument(help="A new folder or URI.")]


@app.command("faiss")
def to_faiss(
    embeddings: Embeddings,
    output: Output,
    index: Annotated[Literal["flat", "hnsw", "ivf"], typer.Option(help="Exact, a graph, or inverted lists.")] = "hnsw",
    k: Annotated[int, typer.Option("-k", min=1, help="Recall is measured on so many neighbours.")] = 10,
) -> None:
    """Write index.faiss, over normalised vectors (inner product = cosine), and item_ids.parquet, the id of each row."""
    from llmemb.embed.snapshot import Snapshot
    from llmemb.export import export_faiss

    snapshot, output = Snapshot.open(storage.absolute(embeddings)), storage.absolute(output)
    share = export_faiss(snapshot, output, kind=index, k=k)
    _say(snapshot.manifest["counts"]["total"], f"{output}: {index} index finds {share:.2%} of the exact {k} nearest")


@app.command("npy")
def to_npy(embeddings: Embeddings, output: Output) -> None:
    """Write embeddings.npy (items x dimension) and item_ids.parquet, the id of each row."""
    from llmemb.embed.snapshot import Snapshot
    from llmemb.export import export_npy

    snapshot, output = Snapshot.open(storage.absolute(embeddings)), storage.absolute(output)
    export_npy(snapshot, output)
    _say(snapshot.manifest["counts"]["total"], f"{output}/embeddings.npy")


@app.command("lance")
def to_lance(embeddings: Embeddings, output: Output) -> None:
    """Write embeddings.lance, a Lance data set with the snapshot's columns."""
    from llmemb.embed.snapshot import Snapshot
    from llmemb.export import export_lance

    snapshot, output = Snapshot.open(storage.absolute(embeddings)), storage.absolute(output)
    export_lance(snapshot, output)
    _say(snapshot.manifest["counts"]["total"], f"{output}/embeddings.lance")


def _say(num_items: int, what: str) -> None:
    console.print(f"export: {num_items:,} items: {what}", soft_wrap=True)
