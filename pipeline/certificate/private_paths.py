"""What is published tells no folder of this machine: the texts of findings without the folders in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.certificate.finding import Finding
from pipeline.certificate.subject import Subject

_FOLDERS = re.compile(r"(?<![\w./:<])/(?:[^/\s'\"<>]+/)+")  # of a path from the root, all but its last part


def without_folders(text: str, folders: Iterable[Path] = ()) -> str:
    """The text with paths cut down to their last parts; `folders` are known, and may hold spaces."""
    for folder in sorted(map(str, folders), key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    return _FOLDERS.sub("", text)


def published(finding: Finding, subject: Subject) -> Finding:
    """The finding as a certificate may hold it."""
    folders = _folders(subject)
    summary, cause = (without_folders(text, folders) for text in (finding.summary, finding.cause))
    return replace(finding, summary=summary, cause=cause)


def _folders(subject: Subject) -> set[Path]:
    files = [subject.full, *subject.files.values(), *([subject.evaluation] if subject.evaluation else [])]
    sources = [*([subject.base] if subject.base else []), *(adapter.source for adapter in subject.adapters)]
    folders = {subject.reference, subject.scratch, *(source.folder for source in sources)}
    found = {*(path.parent for path in files), *folders, *(folder.parent for folder in folders)}
    return {folder for folder in found if folder.is_absolute() and folder.parent != folder}
