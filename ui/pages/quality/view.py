"""The HTML of a certificate: its verdict on a file, the findings, and the table and charts of all files.

The findings are the export's English sentences; everything else is in the visitor's language.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from common.certificate import Certificate, Finding, recommended
from common.certificate_charts import ChartedFile, Title, certificate_charts, size_charts, tried_files
from common.shard_names import model_sizes
from common.text import size_text
from ggufio.shards import whole_name
from ui.i18n.words import Translator
from ui.models.files import name_and_type
from ui.render.html import html, render
from ui.render.tables import NOTHING, heading, paragraph, percent, short_number, table

CHECKS = {
    "tokenizer": ("size", "vocabulary", "added", "roles", "text"),
    "template": ("words", "text", "bos", "end"),
    "settings": ("base", "shape", "rope"),
    "weights": ("head", "values", "uncompared"),
    "behaviour": ("first_words",),
    **dict.fromkeys(("logits", "quality", "quantization", "survival", "speed", "size"), ()),
}
"""The findings that have a translated name: the areas, and the checks in each."""


HOW = "python scripts/export_gguf.py certify {} --reference FOLDER"
_MAX_WORST = 5  # prompts that are shown


@dataclass(frozen=True)
class FileFigures:
    """A model's measured shares, nats per token and tokens per second; None if not measured.

    `name` is its file, for shards the whole's name; `interval` is the survival's.
    """

    name: str
    status: str
    size: int | None
    survival: float | None
    interval: tuple[float, float] | None
    kl: float | None
    agreement: float | None
    prefill: float | None
    decode: float | None

    @property
    def label(self) -> str:
        """The name in a plot: the type, or the file's name if it has no type."""
        stem, kind = name_and_type(Path(self.name))
        return kind or stem


def file_figures(certificate: Certificate, folder: Path) -> list[FileFigures]:
    """Return the figures of a certificate's models, and of the unrounded one that was timed with them."""
    timed = [finding.file for finding in certificate.findings if finding.name == "speed" and finding.file]
    first: dict[str, str] = {}
    for name in (*(file.file for file in certificate.files), *timed):
        first.setdefault(whole_name(name), name)
    sizes = _sizes(folder)
    return [_figures(name, certificate, sizes.get(whole)) for whole, name in first.items()]


def _sizes(folder: Path) -> Mapping[str, int]:
    """Return the bytes of each model in a folder, summed over its files, by the whole's name."""
    sizes = Counter[str]()
    for path in folder.glob("*.gguf"):
        sizes[whole_name(path.name)] += path.stat().st_size if path.is_file() else 0
    return sizes


def _figures(name: str, certificate: Certificate, size: int | None) -> FileFigures:
    """Return the figures of a model; `name` is one of its files, `size` all its bytes."""

    def figure(check: str, *names: str) -> float | None:
        found = certificate.finding(check, name)
        return found.figure(*names) if found else None

    entry = certificate.entry(name)
    low, high = figure("survival", "kept", "low"), figure("survival", "kept", "high")
    return FileFigures(
        name=whole_name(name),
        status=entry.status if entry else "skipped",
        size=size,
        survival=figure("survival", "kept", "value"),
        interval=None if low is None or high is None else (low, high),
        kl=figure("quantization", "mean_kl"),
        agreement=figure("quantization", "agreement"),
        prefill=figure("speed", "prefill"),
        decode=figure("speed", "decode"),
    )


def verdict(name: str, certificate: Certificate, actual: Mapping[str, str], t: Translator) -> Markup:
    """Render the verdict on a file, and whether its hashes match the certificate's.

    `actual` maps each of the model's files to its SHA-256; empty when they cannot be compared.
    """
    entry = certificate.entry(name)
    if entry is None:
        names = ", ".join(file.file for file in certificate.files[:4])
        return paragraph(t("quality.foreign", name=name, names=names), "verdict warn") + how(name, t)
    head = html(
        "<p class='verdict {{ status }}'>{{ chip }} {{ words }}</p>",
        status=entry.status,
        chip=chip(entry.status, t),
        words=t(f"quality.verdict.{entry.status}"),
    )
    if not actual:
        return head
    for file, found in actual.items():
        certified = certificate.entry(file)
        expected = certified.sha256 if certified else NOTHING
        if found != expected:
            known = t("quality.changed", actual=found[:12], expected=expected[:12])
            return paragraph(known, "verdict fail")
    return head + paragraph(t("quality.same", hash=entry.sha256[:12]), "teach")


def how(name: str, t: Translator) -> Markup:
    """Render the command that makes a certificate."""
    command = html("<pre><code>{{ command }}</code></pre>", command=HOW.format(name))
    return paragraph(t("quality.how"), "teach") + command


def findings(found: Sequence[Finding], t: Translator) -> Markup:
    """Render the findings: failures and warnings open, the rest folded."""
    open_ones = [one for one in found if one.status in ("fail", "warn")]
    parts = [_finding(one, t) for one in open_ones]
    for status in ("pass", "skipped"):
        folded = [one for one in found if one.status == status]
        if folded:
            summary = t(f"quality.folded.{status}", count=len(folded))
            inner = Markup().join(_finding(one, t) for one in folded)
            source = "<details><summary>{{ summary }}</summary>{{ inner }}</details>"
            parts.append(html(source, summary=summary, inner=inner))
    return html("<div class='findings'>{{ parts }}</div>", parts=Markup().join(parts))


def files_table(figures: Sequence[FileFigures], t: Translator) -> Markup:
    """Render the table of all files of the export."""
    heads = ("file", "verdict", "size", "survival", "kl", "agreement", "prefill", "decode")
    label = t("quality.files")
    rows = [_row(one, t) for one in figures]
    title = heading(label) + paragraph(t("quality.files.info"), "teach")
    return title + table([t(f"quality.head.{head}") for head in heads], rows, label)


def advice(certificate: Certificate, folder: Path, t: Translator) -> Markup:
    """Render which of the certificate's files in the folder to take, and why; empty when there are none."""
    files = [folder / entry.file for entry in certificate.files]
    sizes = {file.name: file.stat().st_size for file in files if file.is_file()}
    best = recommended(model_sizes(sizes), certificate)
    if best is None:
        return Markup()
    return paragraph(t(f"quality.take.{best.reason}", name=best.name), "advice")


def chip(status: str, t: Translator) -> Markup:
    """Render a status as a label that does not depend on colour."""
    text = t(f"quality.status.{status}")
    return html("<span class='chip {{ status }}'>{{ text }}</span>", status=status, text=text)


def _row(one: FileFigures, t: Translator) -> list[str]:
    return [
        one.name,
        t(f"quality.status.{one.status}"),
        size_text(one.size) if one.size is not None else NOTHING,
        _survival(one, t),
        short_number(one.kl, t),
        percent(one.agreement, t),
        t.number(one.prefill) if one.prefill is not None else NOTHING,
        t.number(one.decode) if one.decode is not None else NOTHING,
    ]


def _survival(one: FileFigures, t: Translator) -> str:
    value = percent(one.survival, t)
    if one.survival is None or one.interval is None:
        return value
    low, high = (t.number(100 * end, 1) for end in one.interval)
    return t("quality.interval", value=value, low=low, high=high)


def _finding(one: Finding, t: Translator) -> Markup:
    details = (("cause", one.cause), ("wanted", one.threshold))
    return render(
        "finding",
        chip=chip(one.status, t),
        heading=_heading(one.name, t),
        summary=one.summary,
        details=[(t(f"quality.{name}"), text) for name, text in details if text],
        worst=t("quality.worst"),
        prompts=_worst_prompts(one),
    )


def _heading(name: str, t: Translator) -> str:
    """Return the translated name of the finding or of its area, or else the finding's own name."""
    area, _, part = name.partition(".")
    if area not in CHECKS:
        return name
    return t(f"quality.check.{area}_{part}" if part in CHECKS[area] else f"quality.check.{area}")


def _worst_prompts(one: Finding) -> list[str]:
    listed = one.figures.get("worst")
    worst = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [str(entry.get("prompt", ""))[:200] for entry in worst[:_MAX_WORST]]


def charts(figures: Sequence[FileFigures], chosen: str, t: Translator) -> Markup:
    """Render charts of what was measured, with the file `chosen` highlighted; empty when nothing was."""
    titles = _titles(t)
    files = [_charted(one, chosen) for one in figures]
    rows = certificate_charts(files, titles, t.number).items()
    source = "<div class='scatters'>{{ drawn }}</div>"
    return Markup().join(
        html(source, drawn=Markup().join(drawn)) + paragraph(t(f"quality.{what}.info"), "teach")
        for what, drawn in rows
    )


def tried_charts(certificate: Certificate, t: Translator) -> Markup:
    """Render charts of the files that were measured for a size; empty when none was asked for."""
    found = next((one for one in certificate.findings if one.name == "size"), None)
    if found is None:
        return Markup()
    label = name_and_type(Path(found.file))[1]
    drawn = size_charts(tried_files(found.figures.get("tried"), label), _titles(t), t.number)
    if not drawn:
        return Markup()
    body = html("<div class='scatters'>{{ drawn }}</div>", drawn=Markup().join(drawn))
    return heading(t("quality.tried")) + paragraph(t("quality.tried.info"), "teach") + body


def _titles(t: Translator) -> dict[Title, str]:
    return {
        "survival": t("quality.survival"),
        "kl": t("quality.kl"),
        "size": t("quality.head.size"),
        "speed": t("quality.speed"),
        "chart": t("quality.chart", x="{x}", y="{y}"),
    }


def _charted(one: FileFigures, chosen: str) -> ChartedFile:
    return ChartedFile(
        one.label, one.size, one.decode, one.kl, one.survival, one.interval, one.name == chosen
    )
