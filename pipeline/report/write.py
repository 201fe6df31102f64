"""Write report.html, README.md (the Hub's model card), chart.svg and Modelfile next to an export's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from common.certificate import STATUSES, Certificate
from common.certificate_charts import ChartedFile, Title, certificate_charts, size_charts, tried_files
from common.design import TOKENS
from common.files import write_atomically
from common.scatter import HEIGHT, STYLE, WIDTH
from engine.errors import EngineError
from engine.probe.cpu_backend import probe_model
from pipeline.manifest import Record
from pipeline.report import context as formatting
from pipeline.report.context import ReportContext, ReportedFile, report_context
from pipeline.report.model_card import CARD, Publication, export_metadata, front_matter, own_card
from pipeline.report.ollama import Turns, find_turns, modelfile

_TEMPLATES = {"chart.svg": "chart.svg.j2", "report.html": "report.html.j2", CARD: "card.md.j2"}
_OPTIONAL_FILES = {"chart.svg", "Modelfile"}
_CHART_TITLES: dict[Title, str] = {
    "survival": "Survival of the tuning, %",
    "kl": "KL divergence, nats a token",
    "size": "Size",
    "speed": "Written tokens/s, here",
    "chart": "{y}, by {x}, of each file; the table has the numbers.",
}


@dataclass(frozen=True)
class WrittenReport:
    """The names of the written files, and notes for the user."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def is_written(folder: Path) -> bool:
    """Return whether the folder has a report."""
    return (folder / "report.html").is_file()


def write_report(folder: Path, name: str, record: Record, certificate: Certificate | None) -> WrittenReport:
    """Write the files of a report, each atomically. A README.md that the user wrote is not replaced."""
    context = report_context(name, record, certificate)
    charts = _charts(context.files)
    texts: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    try:
        texts["Modelfile"] = _modelfile(folder, context)
    except EngineError as error:  # the model has no chat template, or no backend runs on this machine
        notes += (f"no Modelfile is written: {error}",)
    for file, template in _TEMPLATES.items():
        texts[file] = _render(template, context, charts, for_ollama="Modelfile" in texts)
    if not charts:
        del texts["chart.svg"]
    if own_card(folder) is not None:
        del texts[CARD]
        notes += ("README.md is your own and stays as it is; report.html has all that it would say",)
    for file, text in texts.items():
        write_atomically(folder / file, text)
    for file in _OPTIONAL_FILES - texts.keys():
        (folder / file).unlink(missing_ok=True)  # of an earlier report
    return WrittenReport(tuple(texts), notes)


def published_card(
    folder: Path, name: str, record: Record, certificate: Certificate | None, publication: Publication
) -> str:
    """Return the card of an export's files as they are in a repository; `folder` has the export."""
    context = report_context(name, record, certificate)
    charts = _charts(context.files) if (folder / "chart.svg").is_file() else []
    for_ollama = (folder / "Modelfile").is_file()
    return _render(_TEMPLATES[CARD], context, charts, for_ollama=for_ollama, publication=publication)


def remove_report(folder: Path) -> None:
    """Remove the report of files that have been replaced; a README.md that the user wrote stays."""
    if not is_written(folder):
        return
    ours = {"report.html", *_OPTIONAL_FILES, *([CARD] if own_card(folder) is None else [])}
    for file in ours:
        (folder / file).unlink(missing_ok=True)


def _charts(files: Sequence[ReportedFile]) -> list[Markup]:
    """Draw each file's survival and KL; none without any KL."""
    measured = [_charted(file) for file in files if file.kl is not None]
    rows = certificate_charts(measured, _CHART_TITLES, _formatted)
    return [chart for row in rows.values() for chart in row]


def _tried_charts(context: ReportContext) -> list[Markup]:
    """Draw survival and KL by size of all files that `--quant auto` measured."""
    files = tried_files(context.choice.get("tried"), context.choice.get("chosen"))
    return size_charts(files, _CHART_TITLES, _formatted)


def _formatted(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _charted(file: ReportedFile) -> ChartedFile:
    share, interval = (file.survival[0], file.survival[1:]) if file.survival else (None, None)
    return ChartedFile(file.type, file.size, file.decode, file.kl, share, interval)


def _render(
    template: str,
    context: ReportContext,
    charts: Sequence[Markup],
    *,
    for_ollama: bool,
    publication: Publication | None = None,
) -> str:
    names = ("size", "number", "percent", "share", "line", "cell", "tried")
    filters = {name: getattr(formatting, name) for name in names}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.j2", "svg.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    findings = sorted(context.findings, key=lambda finding: STATUSES.index(finding.status))
    return environment.get_template(template).render(
        context=context,
        charts=charts,
        tried_charts=_tried_charts(context),
        tokens=Markup(TOKENS.read_text(encoding="utf-8")),
        chart_style=Markup(STYLE.read_text(encoding="utf-8")),
        width=WIDTH,
        height=HEIGHT,
        findings=findings,
        objections=[finding for finding in findings if finding.status in ("fail", "warn")],
        worst_prompts=[(file.name, worst) for file in context.files for worst in file.worst[:1]],
        origin=formatting.origin(context),
        verdict=formatting.verdict(context),
        provenance=list(formatting.provenance(context)),
        front_matter=front_matter(export_metadata(context, publication)),
        **_as_published(context.best, publication.repository if publication else ""),
        for_ollama=for_ollama,
    )


def _as_published(best: ReportedFile, repository: str) -> dict[str, Any]:
    """Return how programs name a file in a repository: by its type, or where its name lacks that, itself."""
    by_type = best.type in best.name
    by_name = f"-hfr {repository} -hff {best.name}"
    return {
        "repository": repository,
        "tag": best.type if by_type else best.name,
        "for_llama_cpp": f"-hf {repository}:{best.type}" if by_type else by_name,
        "other_parts": json.dumps([file for file in best.hashes if file not in (best.name, best.lora)]),
    }


def _modelfile(folder: Path, context: ReportContext) -> str:
    """Return the Modelfile for the recommended model; shards must be merged into one file for it."""
    facts = probe_model(folder / context.best.name).facts
    template = facts.chat_template()
    bos = facts.bos if facts.adds_bos else ""  # then Ollama adds it too
    turns = find_turns(lambda chat: template.render(chat).removeprefix(bos))
    stops = dict.fromkeys(stop for stop in (facts.eos, *_end_of_turn(turns, facts.control)) if stop)
    best, why = context.best, context.recommendation.why
    return modelfile(best.whole, turns, list(stops), facts.recommended, why=why, lora=best.lora)


def _end_of_turn(turns: Turns | None, control: tuple[str, ...]) -> list[str]:
    """Return the control token that the template puts after an answer, in a list, if there is one."""
    return [token for token in control if turns and turns.after_assistant.startswith(token)]
