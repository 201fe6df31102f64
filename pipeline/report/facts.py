"""What the report tells, gathered from manifest.json and certificate.json. No model is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.certificate.finding import Certificate, Finding, Status
from pipeline.manifest import Output, Record
from shards import whole_name


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
class Facts:
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


def gather(name: str, record: Record, certificate: Certificate | None) -> Facts:
    """The facts of an export with its certificate; without one, nothing is said of quality and speed."""
    findings = certificate.findings if certificate else ()
    statuses = certificate.files if certificate else {}
    models: dict[str, list[Output]] = {}
    for output in record.outputs.values():
        models.setdefault(whole_name(output.file), []).append(output)
    files = [_file(whole, shards, findings, statuses) for whole, shards in models.items()]
    return Facts(
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
