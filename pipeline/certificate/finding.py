"""What a check found, and the certificate of all that was found: certificate.json."""

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
_GRAVITY: tuple[Status, ...] = ("skipped", "pass", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One answer of one check.

    `name` stays the same over time and says what was looked at ("tokenizer.text"), `summary` is one plain
    sentence, `figures` are numbers and names for programs, `threshold` is what counts as good and why, and
    `cause` is the known cause that fits, with what to do. `file` names the one file that it is about, of
    shards the whole; an empty one stands for all of them.
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
    """All findings on some files, in the order in which they were made.

    `hashes` maps each file's name to its SHA-256, `inputs` is what the findings rest on, so that a later run
    can tell whether they still hold.
    """

    findings: tuple[Finding, ...]
    hashes: dict[str, str]
    versions: dict[str, str]
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The gravest status of all findings."""
        return worst_status(finding.status for finding in self.findings)

    @property
    def files(self) -> dict[str, Status]:
        """Each file's name and the gravest status of what was found about it."""
        return {name: worst_status(finding.status for finding in self.about(name)) for name in self.hashes}

    def about(self, name: str) -> list[Finding]:
        """The findings that count for a file, or for a shard of the one that they are about."""
        return [one for one in self.findings if one.file in ("", name, whole_name(name))]

    def to_json(self) -> dict[str, Any]:
        """The certificate as certificate.json holds it."""
        found = [asdict(finding) for finding in self.findings]
        return {
            "format": FORMAT,
            "status": self.status,
            "files": [
                {"file": name, "status": status, "sha256": self.hashes[name]}
                for name, status in self.files.items()
            ],
            "findings": found,
            "versions": self.versions,
            "inputs": self.inputs,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Certificate:
        """The certificate out of what `to_json` gave; raises KeyError or TypeError for anything else."""
        return cls(
            tuple(Finding(**finding) for finding in content["findings"]),
            {file["file"]: file["sha256"] for file in content["files"]},
            dict(content["versions"]),
            dict(content["inputs"]),
        )


def worst_status(statuses: Iterable[Status]) -> Status:
    """The one that counts among several: fail, then warn, then pass; "skipped" when nothing was looked at."""
    return max(statuses, key=_GRAVITY.index, default="skipped")


def load_certificate(path: Path) -> Certificate | None:
    """Read a certificate back; None when there is none. Raises InputError when it is not ours."""
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
