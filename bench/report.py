"""Prints a comparison as a table, and as one line of JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from bench.export import Comparison


def show_comparison(comparison: Comparison, as_json: bool) -> None:
    """Print both ways' figures and the ratios, ours over the usual way's."""
    ours, usual, ratios = comparison.ours, comparison.usual, comparison.ratios
    table = Table(title="Export", title_justify="left")
    for heading in ("", "ours", "usual way", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("seconds", f"{ours.seconds:.1f}", f"{usual.seconds:.1f}", f"{ratios['time']:.2f}")
    table.add_row(
        "peak memory (GB)", _gb(ours.peak_bytes), _gb(usual.peak_bytes), f"{ratios['peak_memory']:.2f}"
    )
    table.add_row(
        "written (GB)", _gb(ours.written_bytes), _gb(usual.written_bytes), f"{ratios['bytes_written']:.2f}"
    )
    Console().print(table)
    if as_json:
        print(json.dumps({"figures": {"ours": asdict(ours), "usual": asdict(usual)}, "ratios": ratios}))


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f}"
