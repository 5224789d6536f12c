"""``llmemb recommend``."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from llmemb import storage
from llmemb.cli.attributes import attributes_of, shortened
from llmemb.cli.display import AsJson, console, print_json, separated, table
from llmemb.errors import InputError


def recommend(
    recommender: Annotated[str, typer.Argument(help="The output of a rat job.")],
    history: Annotated[
        str | None, typer.Option(help="Item ids, at least one, separated by commas, the newest last.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Shows attributes of its items beside their ids. With --output, whose users.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="A Parquet file for recommendations to every user of the dataset.")
    ] = None,
    attributes: Annotated[str, typer.Option(help="Which of them, separated by commas.")] = "title",
    embeddings: Annotated[
        str | None,
        typer.Option(help="A snapshot, or a root's newest: items in it that the training had not."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    repeat: Annotated[bool, typer.Option("--repeat", help="Items of the history may be recommended too.")] = False,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Pass over unknown items of the history; --output does so anyway.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the items that a recommender ranks highest after a history, or write them for every user of a dataset."""
    from llmemb.rat.recommender import Recommender

    if (history is None) == (output is None) or (output is not None and dataset is None):
        raise InputError("recommend: expected --history for one user, or --dataset and --output for all of its users")
    model = Recommender.load(storage.absolute(recommender))
    if embeddings:
        model = model.with_new_items(storage.absolute(embeddings))
    if output is not None:
        assert dataset is not None
        uri, settings = storage.absolute(output), {"k": k, "filter_seen": not repeat}
        answered, empty = _write(model, storage.absolute(dataset), uri, **settings)
        if as_json:
            print_json({"recommender": model.label, "output": uri, "users": answered, "users_without": empty})
        else:
            console.print(f"recommend: {uri}: {answered:,} users; {empty:,} have nothing recommended", soft_wrap=True)
        return
    items = separated(history or "")
    [ranked] = model.recommend([items], k=k, filter_seen=not repeat, skip_unknown=skip_unknown)
    columns = separated(attributes) if dataset else []
    known = (
        attributes_of(storage.absolute(dataset), [*items, *(item for item, _ in ranked)], columns) if dataset else {}
    )
    if as_json:
        rows = [{"item_id": item, "score": score} | known.get(item, {}) for item, score in ranked]
        print_json({"recommender": model.label, "history": items, "recommended": rows})
        return
    shown = table("score", "item", *columns, right=("score",))
    for score, item in [*(("", item) for item in items), *((f"{score:.4g}", item) for item, score in ranked)]:
        cells = [shortened(known.get(item, {}).get(column)) for column in columns]
        shown.add_row(score, *map(escape, [item, *cells]), style=None if score else "dim")
    console.print(shown)


def _write(model: Any, dataset: str, output: str, **settings: Any) -> tuple[int, int]:
    """How many users something is recommended to, and to how many nothing."""
    from llmemb.data.dataset import Dataset
    from llmemb.rat.recommendations import write_recommendations

    users = Dataset.open(dataset)
    answered = write_recommendations(model, users, output, **settings)
    return answered, len(users.user_ids) - answered
