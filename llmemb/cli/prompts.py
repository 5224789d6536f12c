"""``llmemb prompts``: how items read to the language model."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from llmemb import storage
from llmemb.cli.display import AsJson, console, print_json, table

app = typer.Typer(no_args_is_help=True, help="See how items read to the language model.")


@app.callback()
def prompts() -> None:
    """See how items read to the language model."""


@app.command()
def preview(
    config: Annotated[str, typer.Argument(help="A YAML file with a prompt section, such as that of scft.")],
    dataset: Annotated[str | None, typer.Option(help="The dataset; the config's own by default.")] = None,
    num_items: Annotated[int, typer.Option("--num-items", "-n", min=1, help="Items to show.")] = 5,
    item: Annotated[list[str] | None, typer.Option(help="Show this item; may be given again.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="An encoder folder that counts the tokens; the config's base_model by default.")
    ] = None,
    sample_items: Annotated[int, typer.Option(min=1, help="Items that the summary is of.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Show some items' prompts with their token counts, how long prompts get, and what leaks popularity."""
    from llmemb.prompt_preview import preview_prompts, read_settings

    settings = read_settings(config, dataset=dataset and storage.absolute(dataset), tokenizer=tokenizer)
    found = preview_prompts(settings, num_items=num_items, item_ids=item or (), sample_items=sample_items)
    if as_json:
        print_json(found)
        return
    shown = table("item", "tokens", "prompt", right=("tokens",))
    shown.columns[2].no_wrap = False
    for row in found["items"]:
        text = "(no value for any attribute: refused)" if row["prompt"] is None else row["prompt"]
        shown.add_row(escape(row["item_id"]), f"{row['tokens']:,}", escape(text))
    console.print(shown)
    console.print(_summary(found))
    for line in found["warnings"]:
        console.print(escape(line))


def _summary(found: dict[str, Any]) -> str:
    tokens, clauses = found["tokens"], found["clauses"]
    share = ", ".join(f"{escape(name)} {value:.0%}" for name, value in clauses.items())
    return (
        f"of {found['sample_items']:,} items: tokens {tokens['median']:,} in the middle, 95 % up to {tokens['p95']:,}, "
        f"at most {tokens['max']:,} ({escape(found['tokenizer'])}); {found['without_prompt']:,} without a prompt\n"
        f"with a value: {share}"
    )
