"""What the pipeline's scripts say on a terminal: progress, a table, one clear line for an error."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from pipeline.certificate.table import show_certificate
from pipeline.errors import PipelineError
from pipeline.progress import Bars
from pipeline.run import ExportResult
from places import masked

GO_ON = "run the same command again to go on from the last finished step"
BEGIN_AGAIN = "run the same command again to begin anew"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def report_errors(after_interrupt: str = BEGIN_AGAIN) -> Iterator[None]:
    """Turn the pipeline's errors into one line on standard error and the right exit code.

    `after_interrupt` says what Ctrl-C left behind, or what to do then.
    """
    try:
        yield
    except PipelineError as error:
        for line in (f"error: {error}", *error.more):
            print(" ".join(masked(line, os.environ).split()), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print("error: the disk is full: make room, and run the same command again", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"interrupted: {after_interrupt}", file=sys.stderr)
        raise SystemExit(1) from None


def terminal_progress() -> Bars:
    """Progress bars on standard error, so that standard output stays clean."""
    return Bars(Console(stderr=True))


def show_export(result: ExportResult, as_json: bool) -> None:
    """Print the table of files and, when asked, the summary as one line of JSON."""
    console = Console()
    table = Table(title=str(result.folder), title_justify="left")
    for heading in ("file", "type"):
        table.add_column(heading)
    for heading in ("size", "bits per weight", "seconds"):
        table.add_column(heading, justify="right")
    for output in result.outputs:
        made = f"{output.seconds:.1f}" if output.file in result.made else "kept"
        table.add_row(output.file, output.type, _size(output.bytes), f"{output.bits_per_weight:.2f}", made)
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    if result.certificate is not None:
        show_certificate(result.certificate, console)
    if as_json:
        files = [{**asdict(output), "made": output.file in result.made} for output in result.outputs]
        print(
            json.dumps(
                {
                    "folder": str(result.folder),
                    "manifest": str(result.manifest),
                    "notes": result.notes,
                    "certificate": result.certificate.status if result.certificate else None,
                    "files": files,
                }
            )
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
