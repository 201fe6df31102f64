"""What the report tells, gathered from manifest.json and certificate.json. No model is opened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ggufio.shards import whole_name
from pipeline.certificate.finding import Certificate, Finding, Status
from pipeline.manifest import Output, Record


@dataclass(frozen=True)
class FileFacts:
    """One model: `size` in bytes, `kl` in nats a token, `prefill` and `decode` in tokens a second.

    `name` is its file, of shards the first; `hashes` are the SHA-256 of all. What was not measured is None.
    `survival` is the share and its 95 % interval.
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

    @property
    def whole(self) -> str:
        """Its name as one file, which a model in shards has to become for Ollama."""
        return whole_name(self.name)

    @property
    def parts(self) -> int:
        """How many files it consists of."""
        return len(self.hashes)


@dataclass(frozen=True)
class ReportContext:
    """An export: what it was made of, its files from the smallest to the largest, and all findings.

    `importance` is what an importance matrix was gathered from, `choice` what `--quant auto` tried; as the
    manifest has them, and empty where there is none.
    """

    name: str
    base: Mapping[str, Any]
    adapters: tuple[Mapping[str, Any], ...]
    model: Mapping[str, Any]
    files: tuple[FileFacts, ...]
    status: Status
    findings: tuple[Finding, ...]
    versions: Mapping[str, str]
    importance: Mapping[str, str] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> FileFacts:
        """The file to begin with: the smallest with no objection, else the one nearest to the tuned model."""
        sound = [file for file in self.files if file.status == "pass"]
        if sound:
            return sound[0]
        return min(self.files, key=lambda file: (file.kl is None, file.kl or 0.0, file.size))


def report_context(name: str, record: Record, certificate: Certificate | None) -> ReportContext:
    """The facts of an export with its certificate; without one, nothing is said of quality and speed."""
    findings = certificate.findings if certificate else ()
    statuses = certificate.files if certificate else {}
    models: dict[str, list[Output]] = {}
    for output in record.outputs.values():
        models.setdefault(whole_name(output.file), []).append(output)
    files = [_file(whole, shards, findings, statuses) for whole, shards in models.items()]
    return ReportContext(
        name=name,
        base=record.inputs["base"],
        adapters=tuple(record.inputs.get("adapters", ())),
        model=record.model,
        files=tuple(sorted(files, key=lambda file: file.size)),
        status=certificate.status if certificate else "skipped",
        findings=tuple(findings),
        versions=record.versions,
        importance=record.inputs.get("importance", {}),
        choice=record.options.get("auto", {}),
    )


def _file(
    whole: str, shards: Sequence[Output], findings: Sequence[Finding], statuses: Mapping[str, Status]
) -> FileFacts:
    first = shards[0]
    about = {finding.name: finding.figures for finding in findings if finding.file in (whole, first.file)}
    quality, speed = about.get("quantization", {}), about.get("speed", {})
    kept = about.get("survival", {}).get("kept") or {"doubt": "not measured"}
    return FileFacts(
        name=first.file,
        type=first.type,
        size=sum(shard.bytes for shard in shards),
        bits=first.bits_per_weight,
        hashes={shard.file: shard.sha256 for shard in shards},
        status=statuses.get(first.file, "skipped"),
        kl=quality.get("mean_kl"),
        agreement=quality.get("agreement"),
        survival=None if kept["doubt"] else (kept["value"], kept["low"], kept["high"]),
        prefill=speed.get("prefill"),
        decode=speed.get("decode"),
        worst=tuple(quality.get("worst", ())),
    )


_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#!~$&])")


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def number(value: float | None, form: str) -> str:
    """A number in a form such as "%.3f", or a dash where it was not measured."""
    return "–" if value is None else form % value


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def share(value: tuple[float, float, float] | None) -> str:
    """A share with its interval."""
    return "–" if value is None else f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def tried(trial: Mapping[str, Any]) -> str:
    """What a type keeps that `--quant auto` tried, with its interval."""
    kept = (trial["survival"], trial["low"], trial["high"])
    return "–" if None in kept else share(kept)


def line(text: str) -> str:
    """Any text as one line of Markdown that says just that: prompts and names are strangers' words."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def cell(text: str, length: int = 120) -> str:
    """The beginning of a text, for a table of Markdown."""
    words = " ".join(text.split())
    return line(words if len(words) <= length else words[:length].rstrip() + " …")


def origin(facts: ReportContext) -> str:
    """What the model is, in a sentence."""
    base = facts.base["source"]
    if not facts.adapters:
        return f"{base} as GGUF."
    merged = ", ".join(adapter["source"] for adapter in facts.adapters)
    return f"{base} with {merged} merged into it, as GGUF."


def verdict(facts: ReportContext) -> str:
    """What the checks add up to."""
    return {
        "pass": "All checks passed.",
        "warn": "The checks passed with a warning: read it before you choose a file.",
        "fail": "A check failed: do not use the files that it names.",
        "skipped": "Nothing was checked.",
    }[facts.status]


def provenance(facts: ReportContext) -> Iterator[tuple[str, str]]:
    """What went in, line by line."""
    yield "base model", _input(facts.base)
    for adapter in facts.adapters:
        weight = "" if adapter["weight"] == 1 else f", weight {adapter['weight']:g}"
        yield "adapter", f"{_input(adapter)}, {adapter['kind']} of rank {adapter['rank']}{weight}"
    if facts.importance:
        source = facts.importance.get("calibrate") or facts.importance["imatrix"]
        yield "importance matrix", f"{source}, sha256 {facts.importance['sha256']}"
    for note in facts.model.get("notes", ()):
        yield "note", note
    yield "versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items())


def _input(told: Mapping[str, Any]) -> str:
    if told.get("revision"):
        return f"{told['source']} at {told['revision']}"
    return f"{told['source']} ({told['model']})" if told.get("model") else str(told["source"])
