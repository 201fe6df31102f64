"""Which models may be chosen: what the owner offers, and on the person's own machine whatever they name.

What a browser sends is a key of this list, or it is refused: a visitor cannot make the server open other
files, or fetch any. Only who sits at the machine may type a path or a name on the Hub, which then joins
the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.errors import ModelError
from engine.serving.protocols import ChatBackend
from engine.types import ProgressCallback, no_progress, scaled
from ui.models.files import (
    CatalogEntry,
    catalog_entry,
    choose_gguf,
    embedded_gguf,
    entries_below,
    is_embedded,
    on_hub,
    size_of,
)

_JOINT = "::"
_FETCHED = 0.8  # of the way, for a model that is on the Hub
OpenGguf = Callable[[Path, Path | None, ProgressCallback], ChatBackend]
"""Loads a file, with the GGUF of a LoRA adapter on it if one is given, and tells how far it is."""


class Catalog:
    """The models on offer, by key. The first one is the default."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        self._owners = _by_key(entries)
        self._typed: dict[str, CatalogEntry] = {}
        self.first = next(iter(self._owners))

    def keys(self) -> list[str]:
        """The keys of what the owner offers, the default first."""
        return list(self._owners)

    def choices(self, own_machine: bool) -> list[tuple[str, str]]:
        """(label, key) for a picker; what was typed in is shown to who sits at the machine."""
        shown = {**self._owners, **(self._typed if own_machine else {})}
        return [(entry.label, key) for key, entry in shown.items()]

    def label(self, key: str) -> str:
        """What a model is called; the key itself for one that is not here."""
        entry = self._find(key)
        return entry.label if entry else key

    def is_lonely(self) -> bool:
        """Whether the embedded model is all there is."""
        sources = [entry.source for entry in (*self._owners.values(), *self._typed.values())]
        return all(is_embedded(Path(source)) for source in sources)

    def allows(self, key: object, own_machine: bool) -> bool:
        """Whether this visitor may use the model of `key`."""
        return isinstance(key, str) and (key in self._owners or (own_machine and key in self._typed))

    def admit(self, wanted: object, own_machine: bool, progress: ProgressCallback = no_progress) -> str:
        """The key for what was chosen, or typed in at the own machine, where it may be downloaded: slow.

        `progress` hears of a download. Raises ModelError when there is no such thing, or it is not this
        visitor's to choose.
        """
        if self.allows(wanted, own_machine):
            return str(wanted)
        if not own_machine or not isinstance(wanted, str) or not wanted.strip():
            raise ModelError(f"model {str(wanted)[:80]!r} is not offered here: choose one of the list")
        entry = resolved(wanted.strip(), progress=progress)
        known = next((key for key, own in {**self._owners, **self._typed}.items() if _same(own, entry)), None)
        if known is None:
            own = _numbered(entry, {**self._owners, **self._typed})
            known, self._typed[own.key] = own.key, own
        return known

    def size(self, key: str) -> int:
        """The bytes of a model's files; 0 while they are still on the Hub."""
        entry = self._find(key)
        return size_of(entry) if entry else 0

    def file(self, key: str) -> Path | None:
        """The file of a model's weights; None while it is still on the Hub."""
        entry = self._find(key)
        return Path(entry.source) if entry and Path(entry.source).is_file() else None

    def open(self, key: str, open_gguf: OpenGguf, progress: ProgressCallback) -> ChatBackend:
        """Load the model of a key. Raises ModelError and what `open_gguf` raises.

        Visitors read the error, and are not to learn where things are on this machine.
        """
        entry = self._find(key)
        if entry is None:
            raise ModelError(f"model {key!r} is not offered here: choose one of the list")
        source = file = Path(entry.source)
        begun = 0.0 if source.exists() else _FETCHED
        try:
            file = choose_gguf(source, scaled(progress, 0.0, begun))
            return open_gguf(file, entry.adapter, scaled(progress, begun, 1.0))
        except ModelError as error:
            raise ModelError(_names_alone(str(error), file, entry.adapter)) from error

    def _find(self, key: str) -> CatalogEntry | None:
        return self._owners.get(key) or self._typed.get(key)


def started_with(model: Path | None) -> CatalogEntry:
    """The entry of the model that a command names, as `resolved`; of None, the embedded one's."""
    return resolved(str(model)) if model is not None else catalog_entry(embedded_gguf())


def make_catalog(first: CatalogEntry, named: Sequence[str]) -> Catalog:
    """`first` is the model that the app was started with. Raises ModelError for what does not exist.

    Each of `named` is a folder (its models, and those in its folders), a .gguf file, `NAME=FILE`,
    `FILE::ADAPTER.gguf`, or a model on the Hub, which is fetched when it is first asked for.
    """
    entries = [first]
    for text in named:
        entries += entries_below(Path(text)) if Path(text).is_dir() else [_named(text)]
    return Catalog(entries)


def resolved(text: str, name: str | None = None, progress: ProgressCallback = no_progress) -> CatalogEntry:
    """The entry of a path or Hub name, with `::ADAPTER.gguf` or without. Raises ModelError."""
    model, _, adapter = text.partition(_JOINT)
    if adapter and not Path(adapter).is_file():
        raise ModelError(f"adapter {adapter!r} does not exist: give the path of a GGUF LoRA file")
    return catalog_entry(choose_gguf(Path(model), progress), Path(adapter) if adapter else None, name)


def _named(text: str) -> CatalogEntry:
    name, equals, source = text.rpartition("=")
    if on_hub(Path(source.partition(_JOINT)[0])):
        return CatalogEntry(
            name or source, name or source, source, named=bool(name)
        )  # the Hub is asked when someone wants it
    return resolved(source, name if equals else None)


def _names_alone(text: str, *files: Path | None) -> str:
    """The text with each file's name in the place of its path; a name on the Hub is not one."""
    for file in files:
        if file is not None and (file.is_absolute() or file.exists()):
            text = text.replace(str(file), file.name)
    return text


def _by_key(entries: Iterable[CatalogEntry]) -> dict[str, CatalogEntry]:
    """Each model once; of two with the same name the second one gets a number."""
    found: dict[str, CatalogEntry] = {}
    for entry in _each_once(entries):
        own = _numbered(entry, found)
        found[own.key] = own
    return found


def _each_once(entries: Iterable[CatalogEntry]) -> list[CatalogEntry]:
    """The models as they came, each once; a name that the owner chose goes before the file's own."""
    kept: list[CatalogEntry] = []
    for entry in entries:
        same = [place for place, other in enumerate(kept) if _same(entry, other)]
        if not same or (entry.named and kept[same[0]].named):
            kept.append(entry)
        elif entry.named:
            kept[same[0]] = entry
    return kept


def _same(one: CatalogEntry, other: CatalogEntry) -> bool:
    return one.adapter == other.adapter and Path(one.source).absolute() == Path(other.source).absolute()


def _numbered(entry: CatalogEntry, taken: Mapping[str, CatalogEntry]) -> CatalogEntry:
    """The entry, told apart by a number where another one has its name."""
    number = next(n for n in range(1, len(taken) + 2) if _name(entry.key, n) not in taken)
    return replace(entry, key=_name(entry.key, number), label=_name(entry.label, number))


def _name(name: str, number: int) -> str:
    return name if number == 1 else f"{name} ({number})"
