"""Writes report.html, README.md (the Hub's model card), chart.svg and Modelfile beside an export's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from common.files import write_atomically
from engine.errors import EngineError
from engine.probe.cpu_backend import probe_model
from pipeline.certificate.finding import Certificate
from pipeline.manifest import Record
from pipeline.report import context as words
from pipeline.report.charts import charts, sheet
from pipeline.report.context import ReportContext, report_context
from pipeline.report.model_card import CARD, front_matter, own_card
from pipeline.report.ollama import Turns, find_turns, modelfile

_TEMPLATES = {"report.html": "report.html.j2", CARD: "card.md.j2"}
_EXTRAS = {"chart.svg", "Modelfile"}
"""What a report may do without."""


_ORDER = {"fail": 0, "warn": 1, "pass": 2, "skipped": 3}


@dataclass(frozen=True)
class Written:
    """The files' names, and notes for people."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def is_written(folder: Path) -> bool:
    """Whether a report stands there."""
    return (folder / "report.html").is_file()


def write_report(folder: Path, name: str, record: Record, certificate: Certificate | None) -> Written:
    """Write them all, each whole or not at all. A README.md of the user's own stays as it is."""
    facts = report_context(name, record, certificate)
    pictures = charts(facts.files)
    texts: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    try:
        texts["Modelfile"] = _modelfile(folder / facts.best.name, facts.best.whole)
    except EngineError as error:  # without a chat template nothing chats, and no backend may run here
        notes += (f"no Modelfile is written: {error}",)
    if pictures:
        texts["chart.svg"] = sheet(pictures).replace("<svg", '<svg style="background:#fff;color:#16181d"', 1)
    for file, template in _TEMPLATES.items():
        texts[file] = _render(template, facts, pictures, for_ollama="Modelfile" in texts)
    if own_card(folder) is not None:
        del texts[CARD]
        notes += ("README.md is your own and stays as it is; report.html has all that it would say",)
    for file, text in texts.items():
        write_atomically(folder / file, text)
    for file in _EXTRAS - texts.keys():
        (folder / file).unlink(missing_ok=True)  # of an earlier report
    return Written(tuple(texts), notes)


def remove_report(folder: Path) -> None:
    """Remove a report of files that are no longer those that stand; a README.md of the user's own stays."""
    if not is_written(folder):
        return
    ours = {"report.html", *_EXTRAS, *([CARD] if own_card(folder) is None else [])}
    for file in ours:
        (folder / file).unlink(missing_ok=True)


def _render(template: str, facts: ReportContext, pictures: Sequence[str], *, for_ollama: bool) -> str:
    filters = {
        name: getattr(words, name) for name in ("size", "number", "percent", "share", "line", "cell", "tried")
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    findings = sorted(facts.findings, key=lambda finding: _ORDER[finding.status])
    return environment.get_template(template).render(
        facts=facts,
        charts=pictures,
        findings=findings,
        objections=[finding for finding in findings if finding.status in ("fail", "warn")],
        worst=list(_worst(facts)),
        origin=words.origin(facts),
        verdict=words.verdict(facts),
        made_of=list(words.provenance(facts)),
        front_matter=_front_matter(facts),
        for_ollama=for_ollama,
    )


def _worst(facts: ReportContext) -> Iterator[tuple[str, Any]]:
    for file in facts.files:
        for place in file.worst[:1]:
            yield file.name, place


def _front_matter(facts: ReportContext) -> str:
    """The card's YAML."""
    known: dict[str, Any] = {
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["gguf", "lora", "llama.cpp"],
    }
    if facts.base.get("model"):
        known |= {"base_model": facts.base["model"], "base_model_relation": "quantized"}
    return f"{front_matter(known)}\n"


def _modelfile(gguf: Path, name: str) -> str:
    """For Ollama, which calls the file by that name."""
    facts = probe_model(gguf).facts
    template = facts.chat_template()
    bos = facts.bos if facts.adds_bos else ""  # then Ollama adds it too
    turns = find_turns(lambda talk: template.render(talk).removeprefix(bos))
    ends = dict.fromkeys(end for end in (facts.eos, *_end_of_turn(turns, facts.control)) if end)
    return modelfile(name, turns, list(ends), facts.recommended)


def _end_of_turn(turns: Turns | None, control: tuple[str, ...]) -> list[str]:
    """The control token that the template puts after an answer."""
    return [token for token in control if turns and turns.after_assistant.startswith(token)]
