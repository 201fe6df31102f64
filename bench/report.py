"""Prints benchmark results as tables and, on request, as one line of JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bench.export import Comparison
from bench.measure import Usage
from bench.serve import Cell, ServeResult
from bench.web_overhead import PageOverhead
from common.terminal import say, terminal_console
from common.text import nan_to_none, pluralize

if TYPE_CHECKING:
    from bench.browser_page import Row
    from bench.imatrix import FileQuality, ImatrixResult
    from bench.quantize import RoundingTime
    from bench.sizes import MeasuredFile, SizeComparison
    from bench.soak import SoakResult
    from bench.start import Start
    from bench.train import TrainingFigures
    from pipeline.certificate.scoring.metrics import Share


def show_comparison(comparison: Comparison, as_json: bool) -> None:
    """Print the figures of both exports and the ratios, ours over the baseline's."""
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
    terminal_console().print(table)
    if as_json:
        _print_json({"ours": asdict(ours), "usual": asdict(usual)}, ratios)


def show_memory(curve: dict[int, Usage], as_json: bool) -> None:
    """Print our export's peak memory per number of layers, and the largest peak over the smallest."""
    peaks = [usage.peak_bytes for usage in curve.values()]
    growth = max(peaks) / min(peaks)
    table = Table(title="Peak memory by layers", title_justify="left")
    for heading in ("layers", "peak memory (GB)", "seconds", "written (GB)"):
        table.add_column(heading, justify="right")
    for layers, usage in curve.items():
        table.add_row(str(layers), _gb(usage.peak_bytes), f"{usage.seconds:.1f}", _gb(usage.written_bytes))
    terminal_console().print(table)
    print(f"largest over smallest: {growth:.2f}")
    if as_json:
        figures = {str(layers): asdict(usage) for layers, usage in curve.items()}
        _print_json(figures, {"peak_memory": growth})


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f}"


def show_serving(result: ServeResult, as_json: bool) -> None:
    """Print a table per workload, then the ratios, ours over each peer's."""
    console = terminal_console(**({} if sys.stdout.isatty() else {"width": 120}))  # a log fits a whole row
    single = result.single
    console.print(
        f"CPU backend {result.variant}, {result.threads} threads. One stream alone: prompt "
        f"{single['prefill']:.0f} tokens/s, answer {single['decode']:.1f} ({single['decode_at_depth']:.1f} "
        "after a prompt)"
    )
    for workload in dict.fromkeys(cell.workload for cell in result.cells):
        console.print(_serving_table(workload, [cell for cell in result.cells if cell.workload == workload]))
    console.print(_ratio_table(result.ratios))
    if as_json:
        cells: dict[str, dict[str, Any]] = {}
        for cell in result.cells:
            by_name = {name: asdict(figures) for name, figures in cell.figures.items()}
            cells.setdefault(cell.workload, {})[str(cell.users)] = by_name
        figures = {"threads": result.threads, "variant": result.variant, "single stream": single, **cells}
        _print_json(figures, result.ratios)


def show_row(row: Row) -> None:
    """Print one figure of the page in a browser: its median, and its least and greatest value."""
    least, most = min(row.values), max(row.values)
    form = ".3f" if row.unit in ("", "x") and row.median < 10 else ".1f"
    spread = f"({least:{form}} to {most:{form}})" if len(row.values) > 1 else ""
    say(f"{row.name:<44} {row.median:>9{form}} {row.unit:<8} {spread}".rstrip())


def show_page(overhead: PageOverhead, rows: Sequence[Row], as_json: bool) -> None:
    """Print the figures of the engine and of the page, and their ratios; `rows` are in the JSON alone."""
    table = Table(title="The page over the engine", title_justify="left")
    for heading in ("users", "engine, tokens/s", "page, tokens/s", "ratio", "from the first word on"):
        table.add_column(heading, justify="right")
    for heading in ("first word, engine", "page"):
        table.add_column(heading, justify="right")
    for users, page in overhead.page.items():
        both = (overhead.engine[users], page)
        table.add_row(
            str(users),
            *(f"{figures.throughput:.1f}" for figures in both),
            *(_number(found, ".3f") for found in overhead.ratios[users].values()),
            *(f"{figures.ttft_mean:.3f} s" for figures in both),
        )
    terminal_console().print(table)
    if as_json:
        systems = {"engine": overhead.engine, "page": overhead.page}
        figures: dict[str, Any] = {
            system: {str(users): asdict(f) for users, f in by_users.items()}
            for system, by_users in systems.items()
        }
        figures["browser"] = [{**asdict(row), "median": row.median} for row in rows]
        ratios = {str(users): found for users, found in overhead.ratios.items()}
        _print_json(figures, ratios)


def show_start(start: Start, as_json: bool) -> None:
    """Print the startup times."""
    terminal_console(soft_wrap=True).print(
        f"from the start of the process: the page answers after {start.page:.2f} s, "
        f"the model is loaded after {start.ready:.2f} s, a question can be typed after {start.typing:.2f} s"
    )
    if as_json:
        _print_json(asdict(start))


def show_training(figures: Sequence[TrainingFigures], as_json: bool) -> None:
    """Print each way's speed and peak memory, and ours over it."""
    ours = figures[0]
    table = Table(title="Training", title_justify="left")
    for heading in ("", "tokens a CPU second", "ours over it", "peak memory (GB)", "ours over it"):
        table.add_column(heading, justify="right" if heading else "left")
    ratios = {}
    for one in figures:
        spread = f" ({min(one.speeds):.0f}-{max(one.speeds):.0f})" if len(one.speeds) > 1 else ""
        ratios[one.name] = {"speed": ours.speed / one.speed, "peak_memory": ours.peak / one.peak}
        table.add_row(
            one.name,
            f"{one.speed:.1f}{spread}",
            f"{ratios[one.name]['speed']:.2f}",
            f"{one.peak / 1e9:.2f}",
            f"{ratios[one.name]['peak_memory']:.2f}",
        )
    terminal_console().print(table)
    if as_json:
        print(json.dumps({"figures": [asdict(one) for one in figures], "ratios": ratios}))


def show_soak(result: SoakResult, as_json: bool) -> None:
    """Print what users did, the engine's statistics, both processes' usage and the first 20 wrong answers."""
    console, stats = terminal_console(soft_wrap=True), result.stats
    actions = ", ".join(f"{count} {action}" for action, count in sorted(result.actions.items()))
    console.print(f"{result.seconds:.0f} s, {stats.requests} requests: {actions}")
    console.print(
        f"tokens: {stats.generated_tokens} written, {stats.prefilled_tokens} read, "
        f"{stats.cached_tokens} from caches; {stats.cancelled} cancelled, {stats.evictions} evictions, "
        f"{stats.saves} saves, {stats.restores} restores"
    )
    if result.turns:
        console.print(f"one chat of {pluralize(result.turns, 'turn')}")
    for name, usage in result.usages.items():
        first, last = usage.thirds
        console.print(
            f"{name}'s process: {first / 1e6:.1f} MB in the first third, {last / 1e6:.1f} in the last, ratio "
            f"{usage.growth:.3f}; {max(usage.descriptors)} descriptors at most, {usage.more_descriptors:+d}: "
            f"{'flat' if usage.is_flat else 'NOT FLAT'}"
        )
    for fault in result.wrong[:20]:
        console.print(f"WRONG: {fault}", markup=False)
    console.print(
        f"{pluralize(result.checked, 'answer')} checked, {len(result.wrong)} wrong; {result.ties} went on "
        "with a token that is as likely as the reference's, and are checked up to there (a reference is sure "
        f"for {result.sure_tokens:.1f} tokens on average)"
    )
    if as_json:
        _print_json(_soak_figures(result), {name: usage.growth for name, usage in result.usages.items()})


def _soak_figures(result: SoakResult) -> dict[str, Any]:
    return {
        "seconds": result.seconds,
        "fates": result.actions,
        "turns": result.turns,
        "checked": result.checked,
        "ties": result.ties,
        "sure_tokens": result.sure_tokens,
        "wrong": result.wrong,
        "flat": result.flat,
        "usages": {
            name: {
                "memory": usage.memory[:: max(1, len(usage.memory) // 100)],
                "descriptors": usage.descriptors[:: max(1, len(usage.descriptors) // 100)],
                "more_descriptors": usage.more_descriptors,
            }
            for name, usage in result.usages.items()
        },
        "stats": asdict(result.stats),
    }


def _serving_table(workload: str, cells: list[Cell]) -> Table:
    table = Table(title=f"Serving: {workload}", title_justify="left")
    headings = ["users", "", "tokens/s", "TTFT", "TTFT p95", "TTFT turn 2+", "gap p95"]
    for heading in [*headings, "tokens/s each", "MB", "outside decode"]:
        table.add_column(heading, justify="right" if heading else "left")
    for cell in cells:
        for name, f in cell.figures.items():
            table.add_row(
                str(cell.users),
                name,
                f"{f.throughput:.1f}",
                f"{f.ttft_mean:.2f} s",
                f"{f.ttft_p95:.2f} s",
                _number(f.later_ttft_mean, ".2f", " s"),
                f"{f.gap_p95 * 1000:.0f} ms",
                f"{f.decode_rate:.1f}",
                f"{f.peak_bytes / 1e6:.0f}",
                _number(f.outside_decode, ".1%"),
            )
        table.add_section()
    return table


def _ratio_table(ratios: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Table:
    table = Table(title="Ratios: ours over theirs", title_justify="left")
    for heading in ("workload", "users", "against", "ratios"):
        table.add_column(heading)
    for workload, by_users in ratios.items():
        for users, peers in by_users.items():
            for peer, found in peers.items():
                line = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
                table.add_row(workload, users, peer, line)
    return table


def _number(value: float, form: str, unit: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{form}}{unit}"


def _print_json(figures: dict[str, Any], ratios: Mapping[Any, Any] | None = None) -> None:
    """Print one line of JSON; NaN becomes null."""
    content = {"figures": figures} if ratios is None else {"figures": figures, "ratios": ratios}
    print(json.dumps(nan_to_none(content), allow_nan=False))


def show_imatrix(result: ImatrixResult, as_json: bool) -> None:
    """Print each type without and with the matrix, and the difference; intervals are 95 %."""
    table = Table(title="Importance matrix", title_justify="left")
    for heading in ("type", "matrix", "MB", "KL", "survival", "gain kept"):
        table.add_column(heading, justify="left" if heading in ("type", "matrix") else "right")
    for one in result.types:
        table.add_row(one.quant, "without", *_quality_cells(one.without))
        table.add_row("", "with", *_quality_cells(one.weighed))
        table.add_row("", "won", "", "", _share(one.won, "+"), "", end_section=True)
    console = terminal_console() if sys.stdout.isatty() else terminal_console(width=120)
    console.print(table)
    console.print(
        f"Calibrated on {result.calibrated} chats, measured on {result.held_out} others: the tuned model's "
        f"answers to them ({result.tokens} tokens; KL, survival), and their own (gain kept)."
    )
    if as_json:
        _print_json(asdict(result))


def show_rounding(found: Sequence[RoundingTime], as_json: bool) -> None:
    """Print the CPU seconds of rounding to each type, ours and ggml's, and the ratio."""
    table = Table(title="Rounding 100 million weights, CPU seconds", title_justify="left")
    for heading in ("type", "matrix", "ours", "spread", "ggml", "ratio", "same bytes"):
        table.add_column(heading, justify="left" if heading in ("type", "matrix") else "right")
    for one in found:
        matrix, same = "with" if one.weighted else "without", "yes" if one.same else "NO"
        seconds = f"{one.ours:.2f}", f"{one.spread:.0%}", f"{one.ggml:.2f}"
        table.add_row(one.type, matrix, *seconds, f"{one.ratio:.2f}", same)
    console = terminal_console() if sys.stdout.isatty() else terminal_console(width=120)
    console.print(table)
    if as_json:
        names = [f"{one.type}{' with a matrix' if one.weighted else ''}" for one in found]
        figures = {name: asdict(one) for name, one in zip(names, found, strict=True)}
        _print_json(figures, {name: one.ratio for name, one in zip(names, found, strict=True)})


def show_sizes(found: Sequence[SizeComparison], max_ratio: float, as_json: bool) -> None:
    """Print the KL divergence of our file and of llama.cpp's best type for each size, and the ratio."""
    table = Table(title="The best file of a size", title_justify="left")
    for heading in ("at most", "ours", "MB", "KL", "llama.cpp's", "MB", "KL", "ratio"):
        table.add_column(heading, justify="left" if heading in ("ours", "llama.cpp's") else "right")
    for one in found:
        ready = _file_cells(one.ready) if one.ready else ("none fits", "–", "–")
        ratio = "–" if one.ratio is None else f"{one.ratio:.2f}"
        table.add_row(one.max_size, *_file_cells(one.ours), *ready, ratio)
    ratios = [one.ratio for one in found if one.ratio is not None]
    good, worse = sum(ratio <= max_ratio for ratio in ratios), sum(ratio > 1 for ratio in ratios)
    console = terminal_console() if sys.stdout.isatty() else terminal_console(width=120)
    console.print(table)
    console.print(f"At {good} of {len(ratios)} sizes at most {max_ratio} of the KL, at {worse} more than it.")
    if as_json:
        figures = {one.max_size: asdict(one) for one in found}
        _print_json(figures, {one.max_size: one.ratio for one in found})


def _file_cells(one: MeasuredFile) -> tuple[str, ...]:
    return one.type, f"{one.size / 1e6:.1f}", f"{one.mean_kl:.4f}"


def _quality_cells(one: FileQuality) -> tuple[str, ...]:
    return f"{one.size / 1e6:.1f}", f"{one.mean_kl:.3f}", _share(one.survival), _share(one.gain)


def _share(share: Share, sign: str = "") -> str:
    """Format a share with its interval: in brackets when unreliable, a dash when it is NaN."""
    if math.isnan(share.value):
        return "–"
    formatted = f"{share.value:{sign}.3f} ({share.low:{sign}.3f} to {share.high:{sign}.3f})"
    return formatted if share.reliable else f"[{formatted}]"
