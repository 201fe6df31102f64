"""The base that an adapter was trained on, compared with the base that it is merged into.

Two bases of the same shape, such as a model and its -Instruct version, take the same adapter without error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.sources.adapter import Adapter
from pipeline.sources.bundled import read_record
from pipeline.sources.model_source import HUB_ID, Source, read_json

_EDITION = re.compile(r"-(base|pt|it|instruct|chat)$")
_COPY = re.compile(r"^meta-|(-unsloth)?-bnb-4bit$")
"""Parts of names that do not change the weights: Meta's old prefix, Unsloth's 4-bit copies."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def base_mismatch_notes(base: Source, adapters: Sequence[Adapter]) -> list[str]:
    """Return a note on each adapter that was trained on another base, or on another commit of it.

    There is no note where a name is unknown: paths differ between machines, and folder names are arbitrary.
    """
    return [note for adapter in adapters for note in _mismatch_notes(base, adapter)]


def base_model(base: Source, adapters: Sequence[Adapter]) -> str:
    """Return the base's Hub id, else the one that all adapters name; empty when unknown."""
    known = _hub_name(base)
    if known or base_mismatch_notes(base, adapters):
        return known
    named = {str(adapter.config.get("base_model_name_or_path")) for adapter in adapters}
    return named.pop() if len(named) == 1 and all(map(_is_hub_id, named)) else ""


def _is_hub_id(name: str) -> bool:
    """Return whether a name is a Hub id, not a path such as models/mine."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).parent.is_dir()


def _mismatch_notes(base: Source, adapter: Adapter) -> Iterator[str]:
    name = adapter.source.spec if adapter.source.revision else adapter.source.folder.name
    named, commit = adapter.config.get("base_model_name_or_path"), adapter.config.get("revision")
    if isinstance(named, str) and (known := _different_base(base, named)):
        yield f"the adapter {name} was trained on {_without_folders(named)}, and the base is {known}"
    elif base.revision and isinstance(commit, str) and _COMMIT.fullmatch(commit) and commit != base.revision:
        yield f"the adapter {name} was trained on commit {commit} of the base, not on {base.revision}"


def _different_base(base: Source, named: str) -> str:
    """Return the base's name when it is certainly not the adapter's base `named`; else an empty string."""
    known, folder = _hub_name(base), base.folder.name if base.revision is None else ""
    # A published config.json may name the model that this one was made from: a match counts, a mismatch not.
    origin = ""
    if not known:
        config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
        origin = str(config.get("_name_or_path", ""))
    if any(_normalized(name) == _normalized(named) for name in (known, folder, origin)):
        return ""
    if known and HUB_ID.fullmatch(named):
        return known
    # After `hf download owner/Name --local-dir Name` only the folder has the name.
    return next((name for name in (known, folder) if name and _family(name) == _family(named)), "")


def _hub_name(base: Source) -> str:
    """Return the base's Hub id; an empty string when unknown."""
    return base.spec if base.revision else str((read_record(base.folder) or {}).get("model", ""))


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _normalized(name: str) -> str:
    return _COPY.sub("", _last_part(name).lower())


def _family(name: str) -> str:
    return _EDITION.sub("", _normalized(name))


def _without_folders(name: str) -> str:
    """Return a Hub id, or the last part of a path: manifests are published, and home folders are private."""
    return name if HUB_ID.fullmatch(name) else _last_part(name)
