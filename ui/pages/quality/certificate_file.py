"""Reads the certificate.json that an export writes beside its files (docs/certificate.md).

It depends on the file's format only, not on the pipeline. The file is untrusted: an invalid one is an error
of one line, and a figure that is no number counts as missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engine.errors import ModelError
from ggufio.shards import whole_name

NAME = "certificate.json"
STATUSES = ("fail", "warn", "pass", "skipped")  # the worst first
_FORMAT = 1
_MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Finding:
    """The result of a check on one `file` (for shards, the whole's name), or on all of them if that is ""."""

    name: str
    status: str
    summary: str
    threshold: str
    cause: str
    file: str
    figures: Mapping[str, Any]

    def figure(self, *names: str) -> float | None:
        """Return a finite number of the figures by its path of names, or None."""
        found: object = self.figures
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
        return float(cast(float, found)) if number else None


@dataclass(frozen=True)
class Certified:
    """A certified file."""

    name: str
    status: str
    sha256: str


@dataclass(frozen=True)
class Certificate:
    """The findings on some files. A sharded model can be looked up by any of its files."""

    files: tuple[Certified, ...]
    findings: tuple[Finding, ...]
    versions: Mapping[str, str]

    def entry(self, name: str) -> Certified | None:
        """Return a file's entry, or None when the certificate is about other files."""
        return next((file for file in self.files if file.name == name), None)

    def about(self, name: str) -> list[Finding]:
        """Return the findings that apply to a file, the worst first."""
        found = [finding for finding in self.findings if finding.file in ("", name, whole_name(name))]
        return sorted(found, key=lambda finding: STATUSES.index(finding.status))

    def finding(self, check: str, file: str) -> Finding | None:
        """Return the finding of a per-file check on a file, if any."""
        names = (file, whole_name(file))
        return next((one for one in self.findings if one.name == check and one.file in names), None)


def read_certificate(model: Path) -> Certificate | None:
    """Read the certificate beside a model's file; None without one. Raises ModelError for an invalid one."""
    path = model.with_name(NAME)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{NAME} is larger than any certificate")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{NAME} cannot be read ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ModelError(f"{NAME} is no certificate of this version")
    try:
        return Certificate(
            tuple(_certified(file) for file in content["files"]),
            tuple(_finding(finding) for finding in content["findings"]),
            {str(name): str(version) for name, version in content["versions"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{NAME} is no whole certificate ({error})") from None


def _certified(entry: Mapping[str, object]) -> Certified:
    return Certified(str(entry["file"]), _status(entry["status"]), str(entry["sha256"]))


def _finding(entry: Mapping[str, Any]) -> Finding:
    return Finding(
        name=str(entry["name"]),
        status=_status(entry["status"]),
        summary=str(entry["summary"]),
        threshold=str(entry["threshold"]),
        cause=str(entry["cause"]),
        file=str(entry["file"]),
        figures=entry["figures"] if isinstance(entry["figures"], dict) else {},
    )


def _status(value: object) -> str:
    if value not in STATUSES:
        raise TypeError(f"status {str(value)[:20]!r}")
    return str(value)
