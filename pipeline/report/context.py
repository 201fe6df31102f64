"""The data of a report, gathered from manifest.json and certificate.json, and its text formatting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.certificate import Certificate, Finding, Recommendation, Status, recommended
from common.shard_names import ADAPTER_SEPARATOR
from ggufio.shards import whole_name
from pipeline.manifest import LORAS, RECOVERY, Output, Record


@dataclass(frozen=True)
class ReportedFile:
    """One model: `size` in bytes, `kl` in nats a token, `prefill` and `decode` in tokens a second.

    `name` is its file, or the first of its shards; `hashes` are the SHA-256 of all shards, and of `lora`, the
    adapter that is loaded on it, which `size` includes. `survival` is the share and its 95 % interval. Values
    that were not measured are None.
    """

    name: str
    type: str
    size: int
    bits: float
    hashes: Mapping[str, str]
    status: Status
    kl: float | None = None
    agreement: float | None = None
    survival: tuple[float, float, float] | None = None
    prefill: float | None = None
    decode: float | None = None
    worst: tuple[Mapping[str, Any], ...] = ()
    lora: str | None = None

    @property
    def both(self) -> str:
        """What the app is started with: the name, and the adapter's."""
        return f"{self.name}{ADAPTER_SEPARATOR}{self.lora}" if self.lora else self.name

    @property
    def whole(self) -> str:
        """The name as a single file; shards must be merged into one for Ollama."""
        return whole_name(self.name)

    @property
    def parts(self) -> int:
        """The number of files that it consists of."""
        return len(self.hashes) - (self.lora is not None)


@dataclass(frozen=True)
class ReportContext:
    """An export: its inputs, its files from the smallest to the largest, and all findings.

    `base`, `adapters`, `model`, `importance` (the source of an importance matrix), `choice` (the trials of
    `--quant auto`) and `template` (the user's) are the manifest's entries; the last three are empty when
    there are none. `merged_into` says whether the base was rounded before, and `recoveries` what training
    for the files gained.
    """

    name: str
    base: Mapping[str, Any]
    adapters: tuple[Mapping[str, Any], ...]
    model: Mapping[str, Any]
    files: tuple[ReportedFile, ...]
    status: Status
    findings: tuple[Finding, ...]
    recommendation: Recommendation
    versions: Mapping[str, str]
    importance: Mapping[str, str] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, str] = field(default_factory=dict)
    merged_into: str = ""
    recoveries: tuple[str, ...] = ()
    is_adapter: bool = False
    """Whether the files are GGUF LoRA files, to be loaded with the base."""

    @property
    def best(self) -> ReportedFile:
        """The recommended file."""
        return next(file for file in self.files if file.name == self.recommendation.name)


def report_context(name: str, record: Record, certificate: Certificate | None) -> ReportContext:
    """Gather the data of an export; without a certificate, quality and speed are None."""
    findings = certificate.findings if certificate else ()
    statuses = {file.file: file.status for file in certificate.files} if certificate else {}
    models: dict[str, list[Output]] = {}
    for output in record.outputs.values():
        models.setdefault(whole_name(output.file), []).append(output)
    loras = record.options.get(LORAS, {})
    files = [
        _reported_file(whole, shards, findings, statuses, record.outputs.get(loras.get(whole, "")))
        for whole, shards in models.items()
        if whole not in loras.values()
    ]
    recommendation = recommended({file.name: file.size for file in files}, certificate)
    assert recommendation is not None, name  # an export has a file
    return ReportContext(
        name=name,
        base=record.inputs["base"],
        adapters=tuple(record.inputs.get("adapters", ())),
        model=record.model,
        files=tuple(sorted(files, key=lambda file: file.size)),
        status=certificate.status if certificate else "skipped",
        findings=tuple(findings),
        recommendation=recommendation,
        versions=record.versions,
        importance=record.inputs.get("importance", {}),
        choice=record.options.get("auto", {}),
        template=record.inputs.get("chat_template", {}),
        merged_into=record.inputs.get("merged_into", ""),
        recoveries=tuple(
            found["note"] for found in record.options.get(RECOVERY, {}).values() if "note" in found
        ),
        is_adapter=record.options.get("format") == "adapter",
    )


def _reported_file(
    whole: str,
    shards: Sequence[Output],
    findings: Sequence[Finding],
    statuses: Mapping[str, Status],
    lora: Output | None,
) -> ReportedFile:
    first, outputs = shards[0], [*shards, *([lora] if lora else [])]
    figures = {finding.name: finding.figures for finding in findings if finding.file in (whole, first.file)}
    quality, speed = figures.get("quantization", {}), figures.get("speed", {})
    survival = figures.get("survival", {}).get("kept") or {"doubt": "not measured"}
    return ReportedFile(
        name=first.file,
        type=first.type,
        size=sum(output.bytes for output in outputs),
        bits=first.bits_per_weight,
        hashes={output.file: output.sha256 for output in outputs},
        status=statuses.get(first.file, "skipped"),
        kl=quality.get("mean_kl"),
        agreement=quality.get("agreement"),
        survival=None if survival["doubt"] else (survival["value"], survival["low"], survival["high"]),
        prefill=speed.get("prefill"),
        decode=speed.get("decode"),
        worst=tuple(quality.get("worst", ())),
        lora=lora.file if lora else None,
    )


_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#!~$&])")


def size(count: int) -> str:
    """Format bytes as GB or MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def number(value: float | None, form: str) -> str:
    """Format a number with a pattern like "%.3f"; a dash if it was not measured."""
    return "–" if value is None else form % value


def percent(value: float | None) -> str:
    """Format a share as a percentage; a dash if it was not measured."""
    return "–" if value is None else f"{value:.1%}"


def share(value: tuple[float, float, float] | None) -> str:
    """Format a share with its interval; a dash if it was not measured."""
    return "–" if value is None else f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def tried(trial: Mapping[str, Any]) -> str:
    """Format the survival of a type that `--quant auto` tried, with its interval."""
    survival = (trial["survival"], trial["low"], trial["high"])
    return "–" if None in survival else share(survival)


def line(text: str) -> str:
    """Escape a text for one line of Markdown: prompts and names are untrusted."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def cell(text: str, length: int = 120) -> str:
    """Escape the beginning of a text for a cell of a Markdown table."""
    words = " ".join(text.split())
    return line(words if len(words) <= length else words[:length].rstrip() + " …")


def origin(context: ReportContext) -> str:
    """Return a sentence about what the model was made of."""
    base = context.base["source"]
    if not context.adapters:
        return f"{base} as GGUF."
    merged = ", ".join(adapter["source"] for adapter in context.adapters)
    if context.is_adapter:
        return f"{merged} for {base}, as a GGUF LoRA file."
    if context.best.lora:
        return f"{base} as GGUF, with {merged} beside it."
    if "rounded" in context.merged_into:
        return f"{merged} merged into {context.merged_into.replace('the base', base, 1)}, as GGUF."
    return f"{base} with {merged} merged into it, as GGUF."


def verdict(context: ReportContext) -> str:
    """Return a sentence about the result of all checks."""
    return {
        "pass": "All checks passed.",
        "warn": "The checks passed with a warning: read it before you choose a file.",
        "fail": "A check failed: do not use the files that it names.",
        "skipped": "Nothing was checked.",
    }[context.status]


def provenance(context: ReportContext) -> Iterator[tuple[str, str]]:
    """Yield the labels and texts of all inputs, notes and versions."""
    yield "base model", _input(context.base)
    for adapter in context.adapters:
        weight = "" if adapter["weight"] == 1 else f", weight {adapter['weight']:g}"
        yield "adapter", f"{_input(adapter)}, {adapter['kind']} of rank {adapter['rank']}{weight}"
    if context.importance:
        source = context.importance.get("calibrate") or context.importance["imatrix"]
        yield "importance matrix", f"{source}, sha256 {context.importance['sha256']}"
    if context.template:
        yield "chat template", f"{context.template['from']}, sha256 {context.template['sha256']}"
    for note in context.model.get("notes", ()):
        yield "note", note
    for line in context.recoveries:
        yield "recovery", line
    yield "versions", ", ".join(f"{name} {version}" for name, version in context.versions.items())


def _input(entry: Mapping[str, Any]) -> str:
    if entry.get("revision"):
        return f"{entry['source']} at {entry['revision']}"
    return f"{entry['source']} ({entry['model']})" if entry.get("model") else str(entry["source"])
