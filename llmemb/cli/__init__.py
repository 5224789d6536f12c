"""``llmemb``: a command for looking at and looking after artifacts, running jobs on a cluster, making a sample."""

from typing import Any

import typer
from typer.core import TyperGroup

from llmemb.cli import export, prompts, snapshots
from llmemb.cli.neighbours import neighbours
from llmemb.cli.recommend import recommend
from llmemb.cli.sample import sample
from llmemb.cli.submit import submit
from llmemb.errors import InputError, TemporaryError
from llmemb.job import tell


class _OneLineErrors(TyperGroup):
    """What a user can mend, or try again, is one line on standard error, as in the jobs."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except (InputError, TemporaryError, ImportError) as error:
            raise typer.Exit(tell(error)) from error


app = typer.Typer(cls=_OneLineErrors, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(sample)
app.command()(neighbours)
app.command()(recommend)
app.command()(submit)
app.add_typer(export.app, name="export")
app.add_typer(prompts.app, name="prompts")
app.add_typer(snapshots.app, name="snapshots")


@app.callback()
def llmemb() -> None:
    """Look at and look after LLMEmb's artifacts; run jobs on a cluster; make a sample to try it on."""
