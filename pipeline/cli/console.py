"""Terminal output of the pipeline's commands: progress bars, tables, errors as one line, paths as options."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.certificate import STATUSES, Certificate, Finding, Recommendation, Status, recommended
from common.errors import UserError
from common.files import DISK_FULL
from common.paths import cache_note, masked, use_cache_for_libraries
from common.shard_names import ADAPTER_SEPARATOR, whole_name
from common.terminal import printable_logs, say, say_error, terminal_console
from ggufio.summary import summarize
from pipeline.errors import InputError
from pipeline.progress import ProgressBars

if TYPE_CHECKING:
    from pipeline.exporter.run import ExportResult

REPORT = "report.html"
_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def quiet_libraries() -> None:
    """Turn off bars and hints of transformers, the Hub, bitsandbytes and others; errors are still shown."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it whether needed or not
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "torch" not in sys.modules:
        os.environ.setdefault("TQDM_DISABLE", "1")  # of loading weights


def show_certificate(certificate: Certificate) -> None:
    """Print all findings, the most severe first, then thresholds and causes of failures and warnings."""
    _show_findings(certificate.findings, terminal_console())


def show_exceptions(certificate: Certificate, details: Path, console: Console) -> None:
    """Print how many checks passed, and only the findings that did not; `details` is the file with all."""
    odd = [finding for finding in certificate.findings if finding.status != "pass"]
    counts = Counter(finding.status for finding in certificate.findings)
    passed = f"{counts['pass']} check{'' if counts['pass'] == 1 else 's'} passed"
    others = [f"{counts[status]} {word}" for status, word in _COUNTED.items() if counts[status]]
    where = f" (all of them: {details})" if details.is_file() else ""
    console.print(Text(f"{', '.join([passed, *others])}{where}", _STYLES[certificate.status]), soft_wrap=True)
    if odd:
        _show_findings(odd, console)


_COUNTED: dict[Status, str] = {"warn": "with a warning", "fail": "failed", "skipped": "not made"}


def _show_findings(findings: Sequence[Finding], console: Console) -> None:
    table = Table(title="certificate", title_justify="left")
    for heading in ("check", "", "found"):
        table.add_column(heading)
    ordered = sorted(findings, key=lambda finding: STATUSES.index(finding.status))
    for finding in ordered:
        name = f"{finding.name} {finding.file}".strip()
        # Text: a model's output may have brackets, which rich would parse as markup.
        table.add_row(Text(name), Text(finding.status, _STYLES[finding.status]), Text(finding.summary))
    console.print(table)
    for finding in ordered:
        if finding.status in ("fail", "warn"):
            _explain(finding, console)


def _explain(finding: Finding, console: Console) -> None:
    for title, text in (("wanted", finding.threshold), ("cause", finding.cause)):
        if text:
            console.print(Text(f"{finding.name}, {title}: {text}", _STYLES[finding.status]))


RESUME_HINT = "run the same command again to go on from the last finished step"
RESTART_HINT = "run the same command again to begin anew"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def report_errors(after_interrupt: str = RESTART_HINT) -> Iterator[None]:
    """Report the pipeline's errors as one line on standard error, with the right exit code.

    `after_interrupt` is the hint after Ctrl-C.
    """
    printable_logs()
    use_cache_for_libraries()
    if note := cache_note():
        say(note, sys.stderr)
    try:
        yield
    except UserError as error:
        for line in (f"error: {error}", *error.more):
            say(" ".join(masked(line, os.environ).split()), sys.stderr)
        raise SystemExit(error.exit_code) from None
    except RecursionError:
        say_error("an input is nested too deeply: leave out what nobody wrote by hand")
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno in DISK_FULL:
            say_error("the disk is full: make room, and run the same command again")
            raise SystemExit(1) from None
        if error.errno not in _UNWRITABLE and "temporary directory" not in str(error):
            raise
        say_error(f"{error}: name another folder (--out, or the variables GGUF_CHAT_CACHE and TMPDIR)")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"interrupted: {after_interrupt}", file=sys.stderr)
        raise SystemExit(1) from None


def terminal_progress() -> ProgressBars:
    """Return progress bars on standard error, separate from the output."""
    return ProgressBars(terminal_console(stderr=True))


def show_export(result: ExportResult, as_json: bool, *, next_command: bool = True) -> None:
    """Print the table of files, notes, what the certificate found, and the command to go on with.

    With `as_json` the last line is a summary as JSON.
    """
    console = terminal_console()
    table = Table(title=Text(str(result.folder)), title_justify="left")
    for heading in ("file", "type"):
        table.add_column(heading)
    for heading in ("size", "bits per weight", "seconds"):
        table.add_column(heading, justify="right")
    for output in result.outputs:
        made = f"{output.seconds:.1f}" if output.file in result.made else "kept"
        table.add_row(
            Text(output.file), output.type, _size(output.bytes), f"{output.bits_per_weight:.2f}", made
        )
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    if result.certificate is not None:
        show_exceptions(result.certificate, result.folder / REPORT, console)
    best = recommended(result.model_sizes, result.certificate)
    if best is not None and result.certificate is not None:
        _show_recommendation(best, result, result.certificate, console)
    if next_command and best is not None and best.reason != "fail":
        _say_next(result.folder, result.folder / best.name, console)
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


def _show_recommendation(
    best: Recommendation, result: ExportResult, certificate: Certificate, console: Console
) -> None:
    lora = result.loras.get(whole_name(best.name))
    console.print(f"take {best.name}{ADAPTER_SEPARATOR + lora if lora else ''}: {best.why}", markup=False)
    survival = certificate.finding("survival", best.name)
    if survival is not None and survival.status == "pass":
        console.print(survival.summary, markup=False)


def _say_next(folder: Path, file: Path, console: Console) -> None:
    if command := go_on_command(folder, file):
        console.print(Text(f"next: {command}"), soft_wrap=True)


def go_on_command(folder: Path, file: Path) -> str | None:
    """Return the command that chats with an export, or lets a model without a template continue a text.

    An adapter is loaded on its base. None for what does neither: embedding models, checkpoints.
    """
    installed = Path(sys.argv[0]).stem == "gguf-chat"
    page, terminal = (
        ("gguf-chat serve", "gguf-chat chat") if installed else ("python app.py", "python scripts/chat.py")
    )
    summary = summarize(file)
    if summary is None or summary.no_chat:
        return None
    if summary.metadata.get("general.type") == "adapter":
        return f"{page} BASE.gguf::{shlex.quote(str(file))}"
    if summary.no_model:
        return None
    if "tokenizer.chat_template" in summary.metadata:
        return f"{page} {shlex.quote(str(folder))}"
    return f"{terminal} {shlex.quote(str(folder))} --raw --prompt TEXT"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def given_path(option: str, text: str) -> Path:
    """Return an option's path. Raises InputError for an empty one, which Path takes as the current folder."""
    if not text.strip():
        raise InputError(f"{option} is empty: name a place to write to, or give . for this folder")
    return Path(text)


def certificate_path(text: str) -> Path:
    """Return where `certify` writes its certificate. Raises InputError for a folder, or in a missing one."""
    path = given_path("--out", text)
    if path.is_dir():
        raise InputError(
            f"--out {text!r} is a folder: name a file in it, such as {path / 'certificate.json'}"
        )
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {text!r}: the folder {path.parent} does not exist: make it first")
    return path
