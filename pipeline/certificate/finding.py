"""The findings of checks, and the certificate that collects them: certificate.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ggufio.shards import whole_name
from pipeline.errors import InputError

Status = Literal["pass", "warn", "fail", "skipped"]
FORMAT = 1
NAME = "certificate.json"
_SEVERITY: tuple[Status, ...] = ("skipped", "pass", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One result of a check. The field names are keys of certificate.json.

    `name` is a stable identifier of what was checked ("tokenizer.text"), `summary` is one plain sentence,
    `figures` are values for programs, `threshold` explains what counts as good and why, and `cause` is the
    known cause that fits, with a remedy. `file` is the name of the file that it is about (of a model in
    shards the whole name), or empty for all files.
    """

    name: str
    status: Status
    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    threshold: str = ""
    cause: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        assert self.status in get_args(Status), self.status


@dataclass(frozen=True)
class Certificate:
    """All findings on some files, in the order of the checks.

    `hashes` maps each file's name to its SHA-256. `inputs` are what the findings depend on: a later run
    reuses them while these are equal.
    """

    findings: tuple[Finding, ...]
    hashes: dict[str, str]
    versions: dict[str, str]
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The most severe status of all findings."""
        return worst_status(finding.status for finding in self.findings)

    @property
    def files(self) -> dict[str, Status]:
        """Each file's name, with the most severe status of the findings about it."""
        return {name: worst_status(finding.status for finding in self.about(name)) for name in self.hashes}

    def about(self, name: str) -> list[Finding]:
        """Return the findings about a file: its own, those about all files, and for a shard the model's."""
        return [one for one in self.findings if one.file in ("", name, whole_name(name))]

    def to_json(self) -> dict[str, Any]:
        """Return the content of certificate.json."""
        return {
            "format": FORMAT,
            "status": self.status,
            "files": [
                {"file": name, "status": status, "sha256": self.hashes[name]}
                for name, status in self.files.items()
            ],
            "findings": [asdict(finding) for finding in self.findings],
            "versions": self.versions,
            "inputs": self.inputs,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Certificate:
        """Read the content that `to_json` returned; raises KeyError or TypeError for anything else."""
        return cls(
            tuple(Finding(**finding) for finding in content["findings"]),
            {file["file"]: file["sha256"] for file in content["files"]},
            dict(content["versions"]),
            dict(content["inputs"]),
        )


def worst_status(statuses: Iterable[Status]) -> Status:
    """Return the most severe status: fail, then warn, then pass; "skipped" when there are none."""
    return max(statuses, key=_SEVERITY.index, default="skipped")


def load_certificate(path: Path) -> Certificate | None:
    """Read certificate.json; None when it does not exist. Raises InputError for any other content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it, and export again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no certificate of this version: remove it, and export again")
    try:
        return Certificate.from_json(content)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no whole certificate ({error}): remove it, and export again") from None
