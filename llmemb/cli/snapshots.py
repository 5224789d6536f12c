"""``llmemb snapshots``: what a root of embeddings holds."""

import dataclasses
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.markup import escape

from llmemb import progress, storage
from llmemb.cli.display import AsJson, console, moment, print_json, size, table

app = typer.Typer(no_args_is_help=True, help="Look at, check, compare and clean up embeddings.")
Root = Annotated[str, typer.Argument(help="The embed job's output: a folder or a URI such as s3://bucket/embeddings.")]
Embeddings = Annotated[str, typer.Argument(help="A snapshot's folder, or a root: then the one that LATEST names.")]
COUNTS = ("total", "new", "changed", "deleted", "refused")


@app.command("ls")
def list_snapshots(root: Root, as_json: AsJson = False) -> None:
    """List the snapshots of a root, newest first, the runs that have not finished, and what cannot be read."""
    from llmemb.embed.history import History, snapshot_bytes

    history = History.read(storage.absolute(root))
    if as_json:
        published = [_facts(snapshot.manifest) | {"uri": snapshot.uri} for snapshot in history.published]
        unfinished = [dataclasses.asdict(run) for run in history.unfinished]
        unreadable = [dataclasses.asdict(one) for one in history.unreadable]
        others = {"unfinished": unfinished, "unreadable": unreadable}
        print_json({"latest": history.latest_id, "snapshots": published, **others})
        return
    shown = table("snapshot", "", "made (UTC)", *COUNTS, "vectors", "size", "encoder", right=(*COUNTS, "size"))
    for snapshot in history.published:
        manifest = snapshot.manifest
        shown.add_row(
            snapshot.snapshot_id,
            "LATEST" if snapshot.snapshot_id == history.latest_id else "",
            moment(manifest["created_at"]),
            *(f"{manifest['counts'][key]:,}" for key in COUNTS),
            f"{manifest['dimension']} {manifest['dtype']}",
            size(snapshot_bytes(snapshot)),
            manifest["encoder"],
        )
    for run in history.unfinished:
        cells = [
            storage.name(run.uri),
            "unfinished",
            f"{run.modified:%Y-%m-%d %H:%M}",
            *[""] * (len(COUNTS) + 1),
            size(run.bytes),
            "",
        ]
        shown.add_row(*cells, style="dim")
    for one in history.unreadable:
        shown.add_row(storage.name(one.uri), "unreadable", style="dim")
    console.print(shown)
    for one in history.unreadable:
        console.print(f"[red]unreadable[/red]  {escape(one.reason)}", soft_wrap=True)


@app.command()
def show(embeddings: Embeddings, as_json: AsJson = False) -> None:
    """Show one snapshot: what its vectors are, where they come from, what the run did."""
    from llmemb.embed.history import snapshot_bytes
    from llmemb.embed.snapshot import Snapshot

    snapshot = Snapshot.open(storage.absolute(embeddings))
    if as_json:
        print_json(snapshot.manifest)
        return
    manifest = snapshot.manifest
    shown = table("", "")
    shown.show_header = False
    shown.add_row("snapshot", snapshot.uri)
    for key, value in _facts(manifest).items():
        if key == "counts":
            value = ", ".join(f"{count:,} {name}" for name, count in value.items())
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {_figure(part)}" for name, part in value.items() if part not in (None, ""))
        shown.add_row(key, escape(str(value)))
    shown.add_row("files", f"{len(manifest['files'])}, {size(snapshot_bytes(snapshot))}")
    console.print(shown)


@app.command()
def verify(embeddings: Embeddings, as_json: AsJson = False) -> None:
    """Read a whole snapshot: checksums, rows, unique ids, finite vectors. Exits with 1 where something is wrong."""
    from llmemb.embed.snapshot import Snapshot
    from llmemb.embed.verification import verify as check

    snapshot = Snapshot.open(storage.absolute(embeddings))
    problems: dict[str, list[str]] = {}
    sizes = {entry["file"]: entry["bytes"] for entry in snapshot.manifest.get("files", [])}
    total = sum(sizes.values())
    if as_json:
        problems = {file: found for file, found in check(snapshot) if found}
        print_json({"uri": snapshot.uri, "problems": problems})
    else:
        with progress.bar("verify", total=total, unit="bytes") as bar:
            for file, found in check(snapshot):
                problems |= {file: found} if found else {}
                bar.update(bar.done + sizes.get(file, 0))
        for file, found in problems.items():
            for problem in found:
                console.print(f"[red]wrong[/red]  {escape(file)}: {escape(problem)}", soft_wrap=True)
        if not problems:
            console.print(f"{snapshot.uri}: {len(sizes)} files, {size(total)}: as the manifest says", soft_wrap=True)
    if problems:
        raise typer.Exit(1)


@app.command()
def diff(
    embeddings: Embeddings,
    old: Annotated[
        str | None, typer.Argument(help="What to compare with: an id or a folder; its parent if left out.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="How many item ids of each kind to show.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Count the items that are new, changed (another prompt), kept and deleted since another snapshot."""
    from llmemb.embed.difference import difference
    from llmemb.embed.snapshot import Snapshot
    from llmemb.errors import InputError

    new = Snapshot.open(storage.absolute(embeddings))
    old = old or new.manifest["parent"]
    if old is None:
        raise InputError(f"embeddings: {new.uri} has no parent; name a snapshot to compare it with")
    beside = storage.join(new.uri.rsplit("/", 1)[0], old)
    before = Snapshot.open(beside if "/" not in old else storage.absolute(old))
    result = difference(before, new, num_examples=examples)
    if as_json:
        print_json({"old": before.uri, "new": new.uri, **dataclasses.asdict(result)})
        return
    shown = table("", "items", "for example", right=("items",))
    for kind, count in result.counts.items():
        shown.add_row(kind, f"{count:,}", escape(", ".join(result.examples.get(kind, []))))
    console.print(f"{before.snapshot_id} → {new.snapshot_id}")
    console.print(shown)
    for key, (there, here) in result.settings.items():
        console.print(f"{key}: {there} → {here}: every vector is another one", soft_wrap=True)


@app.command()
def gc(
    root: Root,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest snapshots stay.")] = 3,
    unfinished_hours: Annotated[
        float, typer.Option(min=0, help="A run without manifest goes once it has written nothing for so long.")
    ] = 24,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it, only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old snapshots and dead runs; without --delete, only list them.

    The newest stay, whatever LATEST names and its parent, every unfinished run that may still be going, and what this
    version cannot read. Only folders named like snapshots are looked at.
    """
    from llmemb.embed.history import History, plan_sweep, snapshot_bytes, sweep

    history = History.read(storage.absolute(root))
    plan = plan_sweep(history, keep=keep, unfinished_age=timedelta(hours=unfinished_hours))
    gone = list(sweep(plan)) if delete else []
    if as_json:
        planned = [snapshot.uri for snapshot in plan.snapshots] + [run.uri for run in plan.unfinished]
        print_json({"kept": plan.kept, "bytes": plan.bytes, "planned": planned, "deleted": gone})
        return
    shown = table("snapshot", "", "size", right=("size",))
    for snapshot_id, reason in plan.kept.items():
        shown.add_row(snapshot_id, f"stays: {reason}", "")
    verb = "deleted" if delete else "would go"
    for snapshot in plan.snapshots:
        done = verb if not delete or snapshot.uri in gone else "stays: LATEST names it by now"
        shown.add_row(snapshot.snapshot_id, done, size(snapshot_bytes(snapshot)))
    for run in plan.unfinished:
        done = verb if not delete or run.uri in gone else "stays: it is being written"
        shown.add_row(storage.name(run.uri), f"{done} (unfinished)", size(run.bytes))
    console.print(shown)
    if (plan.snapshots or plan.unfinished) and not delete:
        console.print(f"nothing deleted: add --delete to free up to {size(plan.bytes)}")


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without the lists of its files."""
    return {key: value for key, value in manifest.items() if key not in ("files", "refused_file", "format")}


def _figure(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(part["name"] if isinstance(part, dict) else str(part) for part in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
