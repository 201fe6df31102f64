"""The certificate of an export: certificate.json beside its files (docs/certificate.md).

The dataclasses are the file's schema: their field names are its keys. The pipeline writes it, and the page
/quality shows one that may come from a stranger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from common.dataclass_json import from_json_text, to_json
from common.errors import InputError
from common.files import open_input
from common.shard_names import whole_name

Status = Literal["fail", "warn", "pass", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""The worst first."""

NAME = "certificate.json"
_MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Finding:
    """One result of a check.

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
        assert self.status in STATUSES, self.status

    def figure(self, *names: str) -> float | None:
        """Return a finite number of the figures by its path of names, or None."""
        found: object = self.figures
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        try:
            return float(found) if math.isfinite(found) else None
        except OverflowError:  # a whole number of hundreds of digits
            return None


@dataclass(frozen=True)
class CertifiedFile:
    """A file, with the worst status of the findings about it."""

    file: str
    status: Status
    sha256: str


@dataclass(frozen=True)
class Certificate:
    """All findings on some files, in the order of the checks, and the worst status of all.

    `inputs` are what the findings depend on: a later run reuses them while these are equal.
    """

    format: Literal[1]
    status: Status
    files: tuple[CertifiedFile, ...]
    findings: tuple[Finding, ...]
    versions: dict[str, str]
    inputs: dict[str, Any]

    @classmethod
    def of(
        cls,
        findings: Iterable[Finding],
        hashes: Mapping[str, str],
        versions: Mapping[str, str],
        inputs: Mapping[str, Any],
    ) -> Certificate:
        """Return the certificate of files, given the SHA-256 of each by its name."""
        found = tuple(findings)
        files = [
            CertifiedFile(name, worst_status(one.status for one in _about(found, name)), sha256)
            for name, sha256 in hashes.items()
        ]
        status = worst_status(finding.status for finding in found)
        return cls(1, status, tuple(files), found, dict(versions), dict(inputs))

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file by its name."""
        return {file.file: file.sha256 for file in self.files}

    def entry(self, name: str) -> CertifiedFile | None:
        """Return a file's entry, or None when the certificate is about other files."""
        return next((file for file in self.files if file.file == name), None)

    def about(self, name: str) -> list[Finding]:
        """Return the findings about a file, the worst first.

        These are its own, those about all files, and for a shard the model's.
        """
        return sorted(_about(self.findings, name), key=lambda finding: STATUSES.index(finding.status))

    def finding(self, check: str, file: str) -> Finding | None:
        """Return the finding of a per-file check on a file, if any."""
        names = (file, whole_name(file))
        return next((one for one in self.findings if one.name == check and one.file in names), None)

    def to_json(self) -> dict[str, Any]:
        """Return the content of certificate.json."""
        return to_json(self)


def worst_status(statuses: Iterable[Status]) -> Status:
    """Return the worst status: fail, then warn, then pass; "skipped" when there are none."""
    return min(statuses, key=STATUSES.index, default="skipped")


Reason = Literal["pass", "warn", "skipped", "fail"]
REASONS: Mapping[Reason, str] = {
    "pass": "the smallest file that passed every check",
    "warn": "no file passed without a warning, and this one is the nearest to the tuned model",
    "skipped": "no file was checked, and this type is the usual trade-off of size and quality",
    "fail": "every file failed a check (do not use them), and this one is the nearest to the tuned model",
}
"""Why a file is recommended, by its status; better statuses first."""

# The order of types without a certificate: the usual trade-offs of size and quality first, then the rest.
PREFERENCE = (
    *("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q5_K_S", "Q6_K", "Q8_0", "IQ4_XS", "IQ4_NL"),
    *("MXFP4", "Q5_0", "Q5_1", "Q4_1", "Q4_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS"),
    *("Q2_K", "IQ3_XXS", "IQ2_M", "IQ2_S", "Q2_K_S", "TQ2_0", "TQ1_0", "", "BF16", "F16", "F32"),
)
_UNKNOWN = PREFERENCE.index("")
"""The place of any other type, and of a file that says none: before full precision."""

_TYPE = re.compile(r"(?<![A-Z0-9])(?:(?:I|T)?Q\d\w*|MXFP4\w*|NVFP4\w*|BF16|F(?:P)?(?:16|32))(?![A-Z0-9])")


@dataclass(frozen=True)
class Recommendation:
    """A file out of several, with the reason as a key of REASONS."""

    name: str
    reason: Reason

    @property
    def why(self) -> str:
        """The reason in words."""
        return REASONS[self.reason]


def recommended(
    sizes: Mapping[str, int], certificate: Certificate | None, types: Mapping[str, str] | None = None
) -> Recommendation | None:
    """Return the model to use out of several of one folder; None when there are none.

    `sizes` are the models' bytes by file name, for shards the first's; `types` are the types of the weights,
    which else the names tell. Those that passed go before those with a warning, then unchecked ones, then
    failed ones. The model card, the Modelfile, the app and the terminal
    all choose by this function.
    """
    statuses: dict[str, Reason] = {name: _status(certificate, name) for name in sizes}
    for reason in REASONS:
        names = [name for name, status in statuses.items() if status == reason]
        if names:
            return Recommendation(
                min(names, key=lambda name: _rank(name, reason, sizes, certificate, types or {})), reason
            )
    return None


def _status(certificate: Certificate | None, name: str) -> Status:
    entry = certificate.entry(name) if certificate else None
    return entry.status if entry else "skipped"


def _rank(
    name: str,
    reason: Reason,
    sizes: Mapping[str, int],
    certificate: Certificate | None,
    types: Mapping[str, str],
) -> tuple[float | str, ...]:
    """Return the sort key among files of one status."""
    if reason == "skipped":
        return _type_rank(types.get(name) or type_in_name(name)), name
    finding = certificate.finding("quantization", name) if certificate and reason != "pass" else None
    kl = finding.figure("mean_kl") if finding else None
    return kl is None, kl or 0.0, sizes[name], name


def type_in_name(name: str) -> str:
    """Return the type of weights that a file's name tells last: "Q4_K_XL" of llama-UD-Q4_K_XL.gguf; or ""."""
    found = _TYPE.findall(name.upper().removesuffix(".GGUF"))
    return str(found[-1]).replace("FP", "F") if found and "MXFP" not in found[-1] else (found or [""])[-1]


def _type_rank(kind: str) -> float:
    """Return a type's place in PREFERENCE; a variant such as Q4_K_XL follows its type."""
    if kind in PREFERENCE:
        return PREFERENCE.index(kind)
    start = kind
    while "_" in start:
        start = start.rpartition("_")[0]
        like = next((place for place, one in enumerate(PREFERENCE) if one in (start, f"{start}_M")), None)
        if like is not None:
            return like + 0.5
    return _UNKNOWN


def load_certificate(path: Path, *, strict: bool = True) -> Certificate | None:
    """Read certificate.json; None when it does not exist. Raises InputError for any other content.

    Unknown keys are refused if `strict`, or else ignored: a newer program may have written them. Messages
    name no folder, since the page shows them to its visitors.
    """
    try:
        with open_input(path) as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _broken(f"cannot be read ({type(error).__name__})") from None
    if len(text) > _MAX_BYTES:
        raise _broken("is larger than any certificate")
    return _parsed(text, strict=strict)


def _parsed(text: bytes, *, strict: bool) -> Certificate:
    from pydantic import ValidationError

    try:
        return from_json_text(Certificate, text, strict=strict)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    first = next((one for one in details if one["loc"][:1] == ("format",)), details[0])
    place = " ".join(".".join(str(part) for part in first["loc"]).split())[:80]
    if first["type"] == "json_invalid":
        raise _broken(f"cannot be read ({first['msg']})")
    if place in ("", "format"):
        raise _broken("is no certificate of this version")
    raise _broken(f"is no whole certificate ({place}: {first['msg']})")


def _broken(why: str) -> InputError:
    return InputError(f"{NAME} {why}: remove it, and export again")


def _about(findings: Iterable[Finding], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.file in ("", name, whole_name(name))]
