"""What `dataset inspect` and `dataset render` print: the summary of a data set, a row, its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.text import pluralize
from pipeline.data.encoding import IGNORED, Example
from pipeline.data.inspection import Lengths, Summary, trained_pieces
from pipeline.data.rows import Row

_TRAINED = "bold green"
MARKS = ("[[", "]]")
"""Around what is trained on where the output has no colours."""


def print_summary(console: Console, summary: Summary) -> None:
    """Print what is in a data set."""
    table = Table(title=Text(f"{summary.name} ({summary.kind})"), title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for what, found in _lines(summary):
        table.add_row(Text(what), Text(found))
    console.print(table)
    for note in (*summary.notes, *(summary.tokens.refused if summary.tokens else ())):
        console.print(Text(f"note: {note}"))


def print_row(console: Console, tokenizer: Any, row: Row, example: Example) -> None:
    """Print a row's text, with what is trained on in colour, or in [[ ]] where there are no colours."""
    plain = console.color_system is None
    shown = Text()
    for text, trained in trained_pieces(tokenizer, example):
        marked = f"{MARKS[0]}{text}{MARKS[1]}" if plain and trained else text
        shown.append(marked, _TRAINED if trained else "dim")
    how = f"in {MARKS[0]} {MARKS[1]}" if plain else "in green"
    console.print(Text(f"{row.where}: {pluralize(example.answer_tokens, 'token')} trained on, {how}"))
    console.print(shown, soft_wrap=True)


def print_tokens(console: Console, tokenizer: Any, example: Example) -> None:
    """Print a row's tokens, a line each: the id, the text, and whether it is trained on."""
    table = Table()
    table.add_column("id", justify="right")
    table.add_column("token")
    table.add_column("trained on")
    for token, label in zip(example.input_ids, example.labels, strict=True):
        trained = label != IGNORED
        table.add_row(
            str(token),
            Text(repr(str(tokenizer.decode([token]))), _TRAINED if trained else ""),
            "yes" if trained else "",
        )
    console.print(table)


def _lines(summary: Summary) -> list[tuple[str, str]]:
    at = summary.examples
    lines = [
        ("form", _counts(summary.forms)),
        ("rows", str(summary.rows)),
        ("roles", _counts(summary.roles)),
        ("answers a chat", ", ".join(f"{turns}: {count}" for turns, count in summary.turns.items())),
        ("characters", _lengths(summary.characters)),
    ]
    if tokens := summary.tokens:
        lines += [
            ("tokens", _lengths(tokens.lengths) if tokens.lengths else "no row can be tokenized"),
            ("trained on", f"{tokens.trained:.1%} of the tokens"),
            (
                f"over {tokens.max_length} tokens",
                f"{pluralize(tokens.cut, 'row')} cut, {tokens.dropped} left out without an answer",
            ),
            ("refused", pluralize(tokens.refused_rows, "row") if tokens.refused_rows else ""),
        ]
    lines += [
        ("short answers", _with_places(summary.short_answers, at["short_answers"])),
        ("copies", _with_places(summary.copies, at["copies"])),
        ("special tokens", f"{_counts(summary.marks)} ({at['marks'][0]})" if summary.marks else ""),
        ("categories", _counts(summary.categories)),
    ]
    return [(what, found) for what, found in lines if found]


def _lengths(lengths: Lengths) -> str:
    return (
        f"median {lengths.median:g}, 95 % up to {lengths.percentile_95}, longest {lengths.longest} "
        f"({lengths.longest_at}), {lengths.total} in all"
    )


def _counts(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:20])
    return shown + (f" and {len(counts) - 20} more" if len(counts) > 20 else "")


def _with_places(count: int, places: list[str]) -> str:
    return f"{count} ({'; '.join(places)}{'; ...' if count > len(places) else ''})" if count else "none"
