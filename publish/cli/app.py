"""The command `publish` (scripts/publish.py): its sub-commands."""

from __future__ import annotations

import typer

from publish.cli.model import model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(model)


@app.callback()
def main() -> None:
    """Bring what an export made to the Hugging Face Hub."""
