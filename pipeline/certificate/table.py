"""A certificate on a terminal: one line for each finding, and of failures the cause, gravest first."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.certificate.finding import Certificate, Finding

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
_ORDER = ("fail", "warn", "pass", "skipped")


def show_certificate(certificate: Certificate, console: Console | None = None) -> None:
    """Print all findings, the gravest first, then what each failure and warning may come from."""
    console = console or Console()
    table = Table(title="certificate", title_justify="left")
    for heading in ("check", "", "found"):
        table.add_column(heading)
    ordered = sorted(certificate.findings, key=lambda finding: _ORDER.index(finding.status))
    for finding in ordered:
        name = f"{finding.name} {finding.file}".strip()
        # Texts of a model may hold brackets, which rich would read as its markup.
        table.add_row(Text(name), Text(finding.status, _STYLES[finding.status]), Text(finding.summary))
    console.print(table)
    for finding in ordered:
        if finding.status in ("fail", "warn"):
            _explain(finding, console)


def _explain(finding: Finding, console: Console) -> None:
    for title, words in (("wanted", finding.threshold), ("cause", finding.cause)):
        if words:
            console.print(Text(f"{finding.name}, {title}: {words}", _STYLES[finding.status]))
