"""Try thousands of damaged and hostile models, adapters and configurations on this project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from bench.fuzz import FuzzConfig, FuzzResult, fuzz
from pipeline.cli.console import report_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    seconds: Annotated[float | None, typer.Option(help="How long.")] = None,
    mutants: Annotated[int | None, typer.Option(metavar="N", help="How many.")] = None,
    seed: Annotated[int, typer.Option(help="Another number has other mutants.")] = 0,
    only: Annotated[int | None, typer.Option(metavar="N", help="Try this mutant of the seed only.")] = None,
) -> None:
    """Try mutants of tiny models, of LoRA adapters, and of bases' and adapters' configurations.

    This process plays the server, and opens and asks each mutant as the server would.

    Exits with code 1 unless it survives in less than 1 GiB, and each question ends within 30 seconds.
    """
    with report_errors():
        result = fuzz(FuzzConfig(seed, seconds, mutants, only), log=_log)
    _show(result)
    if result.broken:
        raise typer.Exit(1)


def _show(result: FuzzResult) -> None:
    headings = ("kind", "mutants", "refused", "accepted", "asked", "answered", "deaths", "hangs")
    table = Table(*headings, title=f"seed {result.seed}", title_justify="left")
    for row in result.rows():
        table.add_row(*map(str, row))
    console = Console(width=100)
    console.print(table)
    count = len(result.outcomes)
    print(f"{count} mutants in {result.seconds:.0f} s")
    print(f"deaths of the probe's process: {result.total('probe_deaths')}")
    print(f"deaths of the model's process: {result.total('deaths')}")
    print(f"deaths of the server's process: {result.total('server_deaths')}")
    print(f"hangs: {result.total('hangs')}")
    print(f"peak memory of the server's process: {result.peak_memory / 2**20:.0f} MiB")
    for line in result.broken:
        print(f"BROKEN: {line}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
