"""Write evaluation.html and results.json: the table, and the answers side by side with their differences."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from common.files import sha256, write_atomically
from common.paths import expanded
from common.text import nan_to_none, size_text
from pipeline.errors import InputError
from pipeline.evaluation.config import PAGE, RESULTS, EvaluateConfig, Evaluation, ModelResult, SideBySide
from pipeline.manifest import versions
from pipeline.sources.adapter_base import base_model

if TYPE_CHECKING:
    from pipeline.evaluation.models import Models

FORMAT = 1
_PIECES = re.compile(r"\s+|\w+|[^\w\s]")
_MAX_PIECES = 4000  # of two answers together; difflib takes quadratic time


@dataclass(frozen=True)
class Piece:
    """A part of an answer; `differs` from the answer that it is compared with."""

    text: str
    differs: bool


@dataclass(frozen=True)
class ShownAnswer:
    """One model's answer in pieces; `same` as that of the model it is compared with, None for that one."""

    name: str
    pieces: Sequence[Piece]
    same: bool | None


def describe(config: EvaluateConfig, models: Models) -> dict[str, Any]:
    """Return what was evaluated, by names and hashes without this machine's paths."""
    data = expanded(config.data)
    described: dict[str, Any] = {
        "data": data.name if data.is_file() else str(config.data),
        "field": config.data_options.field,
        "max_length": config.max_length,
        "max_tokens": config.max_tokens,
    }
    if data.is_file():
        described["data_sha256"] = sha256(data)
    for model in models.checkpoints:
        if model.kind == "base" or not models.adapters:
            source = model.source
            known = base_model(source, models.adapters) if model.kind == "base" else ""
            described[model.kind] = known or (source.spec if source.revision else source.folder.name)
    if models.adapters:
        described["adapters"] = [
            one.source.spec if one.source.revision else one.folder.name for one in models.adapters
        ]
    return described


def write_report(evaluation: Evaluation, inputs: dict[str, Any]) -> None:
    """Write the two files to the evaluation's folder, each atomically. Raises InputError."""
    folder = evaluation.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {str(folder)!r} cannot be made: {error.strerror}") from None
    write_atomically(folder / PAGE, render_page(evaluation, inputs))
    content = {"format": FORMAT, "inputs": inputs, "versions": versions(), **results(evaluation)}
    write_atomically(folder / RESULTS, f"{json.dumps(content, indent=1, allow_nan=False)}\n")


def results(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything as JSON, with None for NaN."""
    first = next((model for model in evaluation.models if model.losses), None)
    tree: dict[str, Any] = nan_to_none(
        {
            "rows": {
                "measured": evaluation.rows,
                "cut": evaluation.cut,
                "left_out": evaluation.left_out,
                "tokens": [row.tokens for row in first.losses] if first else [],
                "categories": [row.category for row in first.losses] if first else [],
            },
            "models": [_model(model) for model in evaluation.models],
            "answers": [asdict(answer) for answer in evaluation.answers],
            "notes": list(evaluation.notes),
        }
    )
    return tree


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the results without single rows and answers, for one line of JSON."""
    whole = results(evaluation)
    models = [{key: value for key, value in model.items() if key != "nats"} for model in whole["models"]]
    return {
        "report": str(evaluation.page),
        "rows": evaluation.rows,
        "models": models,
        "notes": whole["notes"],
    }


def _model(model: ModelResult) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "size": model.size,
        "failure": model.failure or None,
        **(asdict(model.summary) if model.summary else {}),
        "paired": asdict(model.paired) if model.paired else None,
        "categories": {
            name: {**asdict(one.summary), "paired": asdict(one.paired) if one.paired else None}
            for name, one in model.categories.items()
        },
        "nats": [row.nats for row in model.losses],
    }


def render_page(evaluation: Evaluation, inputs: dict[str, Any]) -> str:
    """Return the page as HTML; everything in it is escaped, and it loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(size=size_text, number=number, interval=interval, percent=percent)
    return environment.get_template("page.html.j2").render(
        evaluation=evaluation,
        inputs=inputs,
        names=list(next((model.categories for model in evaluation.models if model.categories), {})),
        has_base=any(model.paired for model in evaluation.models),
        answers=[(answer, list(shown_answers(answer))) for answer in evaluation.answers],
        compared=_reference(evaluation.answers),
    )


def shown_answers(answer: SideBySide) -> Iterator[ShownAnswer]:
    """Yield each model's answer with marks where it differs from the tuned model's, or else the first's."""
    reference = _reference([answer])
    for name, text in answer.answers.items():
        if name == reference:
            yield ShownAnswer(name, [Piece(text, differs=False)], None)
        else:
            other = answer.answers[reference]
            yield ShownAnswer(name, _marked(text, other), text == other)


def _reference(answers: Sequence[SideBySide]) -> str:
    names = list(answers[0].answers) if answers else []
    return "tuned" if "tuned" in names else next(iter(names), "")


def _marked(text: str, other: str) -> list[Piece]:
    """Return the words of a text, those that are not in the other at their place as differing."""
    words, others = _PIECES.findall(text), _PIECES.findall(other)
    if len(words) + len(others) > _MAX_PIECES:
        return [Piece(text, differs=text != other)]
    matcher = difflib.SequenceMatcher(None, others, words, autojunk=False)
    return [
        Piece("".join(words[start:end]), differs=kind != "equal")
        for kind, _, _, start, end in matcher.get_opcodes()
        if end > start
    ]


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits after the point; an en dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    """Return a share in whole percent."""
    return f"{value:.0%}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """Return an interval in words; empty where it is not known."""
    return "" if math.isnan(low) or math.isnan(high) else f"{low:.{digits}f} to {high:.{digits}f}"
