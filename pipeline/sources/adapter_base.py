"""Which base an adapter says it was trained on, and whether the one at hand is that.

Two bases of one shape, such as a model and its -Instruct version, take the same adapter without an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.sources.adapter import Adapter
from pipeline.sources.bundled import read_record
from pipeline.sources.model_source import HUB_ID, Source, read_json

_EDITION = re.compile(r"-(base|pt|it|instruct|chat)$")
_COPY = re.compile(r"^meta-|(-unsloth)?-bnb-4bit$")
"""What tells apart two names of the same weights: Meta's old names, and Unsloth's copies in 4 bits."""


_COMMIT = re.compile(r"[0-9a-f]{40}")


def base_mismatch_notes(base: Source, adapters: Sequence[Adapter]) -> list[str]:
    """A sentence on each adapter that names another base, or another commit of it, than this one.

    Nothing is said where a name is unknown: a path means nothing on another machine, and people name their
    folders as they like.
    """
    return [words for adapter in adapters for words in _said(base, adapter)]


def base_model(base: Source, adapters: Sequence[Adapter]) -> str:
    """The base's Hub id: its own, else the one that its adapters agree on; empty where that is not known."""
    known = _hub_name(base)
    if known or base_mismatch_notes(base, adapters):
        return known
    named = {str(adapter.config.get("base_model_name_or_path")) for adapter in adapters}
    return named.pop() if len(named) == 1 and all(map(_on_the_hub, named)) else ""


def _on_the_hub(name: str) -> bool:
    """Whether a name is a Hub id, and no path such as models/mine."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).parent.is_dir()


def _said(base: Source, adapter: Adapter) -> Iterator[str]:
    name = adapter.source.spec if adapter.source.revision else adapter.source.folder.name
    named, at = adapter.config.get("base_model_name_or_path"), adapter.config.get("revision")
    if isinstance(named, str) and (known := _other(base, named)):
        yield f"the adapter {name} was trained on {_public(named)}, and the base is {known}"
    elif base.revision and isinstance(at, str) and _COMMIT.fullmatch(at) and at != base.revision:
        yield f"the adapter {name} was trained on commit {at} of the base, not on {base.revision}"


def _other(base: Source, named: str) -> str:
    """The base's name where it is surely another than the adapter's; else nothing."""
    known, folder = _hub_name(base), base.folder.name if base.revision is None else ""
    # A published config.json may name the model that this one was made of: it can agree, and proves nothing.
    said = "" if known else str(_config(base).get("_name_or_path", ""))
    if any(_plain(name) == _plain(named) for name in (known, folder, said)):
        return ""
    if known and HUB_ID.fullmatch(named):
        return known
    # `hf download owner/Name --local-dir Name` leaves no name but the folder's.
    return next((name for name in (known, folder) if name and _family(name) == _family(named)), "")


def _hub_name(base: Source) -> str:
    """What the base is called on the Hub; nothing where that is unknown."""
    return base.spec if base.revision else str((read_record(base.folder) or {}).get("model", ""))


def _config(base: Source) -> dict[str, Any]:
    return read_json(base.folder / "config.json", f"the base model {base.spec!r}")


def _last(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _plain(name: str) -> str:
    return _COPY.sub("", _last(name).lower())


def _family(name: str) -> str:
    return _EDITION.sub("", _plain(name))


def _public(name: str) -> str:
    """A Hub id, or the last part of a path: a manifest is published, and a home folder is private."""
    return name if HUB_ID.fullmatch(name) else _last(name)
