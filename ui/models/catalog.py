"""The catalog of models that users may choose.

A browser may send only a key of the catalog, so a visitor cannot make the server open other files or download
any. Only the user of the serving machine may type a path or a Hub name, which is then added to the catalog.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from common.shard_names import ADAPTER_SEPARATOR
from engine.errors import ModelError
from engine.serving.protocols import ChatBackend
from engine.types import ProgressCallback, no_progress, scaled
from ui.models.files import (
    CatalogEntry,
    catalog_entry,
    choose_adapter,
    choose_gguf,
    choose_with_reason,
    embedded_gguf,
    find_entries,
    is_embedded,
    is_hub_name,
    leaves_choice,
    lora_beside,
    total_size,
)

_DOWNLOAD_SHARE = 0.8  # of the progress, for a model that is downloaded before it is loaded


class OpenGguf(Protocol):
    """Loads GGUF files."""

    def __call__(
        self, path: Path, adapter: Path | None, progress: ProgressCallback, /, *, chat_template: str = ""
    ) -> ChatBackend:
        """Load a file, with a GGUF LoRA adapter or None; a `chat_template` replaces the file's own."""
        ...


class Catalog:
    """The models on offer, by key. The first one is the default.

    `own_machine` means that the request comes from the serving machine's user.
    """

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        self._offered = _by_key(entries)
        self._typed: dict[str, CatalogEntry] = {}
        self.default = next(iter(self._offered))

    def keys(self) -> list[str]:
        """Return the keys of the configured models, the default first."""
        return list(self._offered)

    def choices(self, own_machine: bool) -> list[tuple[str, str]]:
        """Return (label, key) of each model for a picker; typed ones only for the machine's user."""
        shown = {**self._offered, **(self._typed if own_machine else {})}
        return [(entry.label, key) for key, entry in shown.items()]

    def label(self, key: str) -> str:
        """Return a model's label, or the key itself for an unknown one."""
        entry = self._find(key)
        return entry.label if entry else key

    def has_only_embedded(self) -> bool:
        """Return whether the embedded model is the only one."""
        sources = [entry.source for entry in (*self._offered.values(), *self._typed.values())]
        return all(is_embedded(Path(source)) for source in sources)

    def allows(self, key: object, own_machine: bool) -> bool:
        """Return whether the user may use the model of `key`."""
        return isinstance(key, str) and (key in self._offered or (own_machine and key in self._typed))

    def leaves_open(self, wanted: object) -> bool:
        """Return whether this is the name of a whole repository on the Hub that is not on offer yet."""
        if not isinstance(wanted, str) or wanted in self._offered or wanted in self._typed:
            return False
        return is_hub_name(Path(wanted.strip())) and leaves_choice(wanted.strip())

    def admit(self, wanted: object, own_machine: bool, progress: ProgressCallback = no_progress) -> str:
        """Return the key of a chosen or, on the user's own machine, typed model, which it may download.

        `progress` is called during a download. Raises ModelError when there is no such model, or the user
        may not choose it.
        """
        if self.allows(wanted, own_machine):
            return str(wanted)
        if not own_machine or not isinstance(wanted, str) or not wanted.strip():
            raise ModelError(f"model {str(wanted)[:80]!r} is not offered here: choose one of the list")
        entry = resolve_entry(wanted.strip(), progress=progress)
        existing = {**self._offered, **self._typed}
        key = next((key for key, other in existing.items() if _same(other, entry)), None)
        if key is None:
            entry = _numbered(entry, existing)
            key, self._typed[entry.key] = entry.key, entry
        return key

    def size(self, key: str) -> int:
        """Return the size of a model's files in bytes; 0 until they are downloaded."""
        entry = self._find(key)
        return total_size(entry) if entry else 0

    def file(self, key: str) -> Path | None:
        """Return the file of a model's weights; None until it is downloaded."""
        entry = self._find(key)
        return Path(entry.source) if entry and Path(entry.source).is_file() else None

    def open(self, key: str, open_gguf: OpenGguf, progress: ProgressCallback) -> ChatBackend:
        """Load the model of a key. Raises ModelError and what `open_gguf` raises.

        Visitors see the error, so it names files without their folders.
        """
        entry = self._find(key)
        if entry is None:
            raise ModelError(f"model {key!r} is not offered here: choose one of the list")
        source = file = Path(entry.source)
        download = 0.0 if source.exists() else _DOWNLOAD_SHARE
        try:
            file = choose_gguf(source, scaled(progress, 0.0, download))
            given = {"chat_template": entry.chat_template} if entry.chat_template else {}
            adapter = entry.adapter or (lora_beside(source, file) if download else None)
            return open_gguf(file, adapter, scaled(progress, download, 1.0), **given)
        except ModelError as error:
            raise ModelError(_without_folders(str(error), file, entry.adapter)) from error

    def _find(self, key: str) -> CatalogEntry | None:
        return self._offered.get(key) or self._typed.get(key)


def default_entry(model: Path | None) -> CatalogEntry:
    """Return the entry of a command's MODEL argument, or the embedded model's for None."""
    return resolve_entry(str(model)) if model is not None else catalog_entry(embedded_gguf())


def make_catalog(default: CatalogEntry, models: Sequence[str], chat_template: str = "") -> Catalog:
    """Return the catalog of `default` and the option --models. Raises ModelError for a missing file.

    Each of `models` is a folder (its models and those in its subfolders), a .gguf file, `NAME=FILE`,
    `FILE::ADAPTER.gguf`, or a model on the Hub, which is downloaded on its first use. They get the
    `chat_template` in place of their own, unless it is "".
    """
    entries: list[CatalogEntry] = []
    for text in models:
        entries += find_entries(Path(text)) if Path(text).is_dir() else [_parse_entry(text)]
    return Catalog([default, *(replace(entry, chat_template=chat_template) for entry in entries)])


def resolve_entry(
    text: str, name: str | None = None, progress: ProgressCallback = no_progress
) -> CatalogEntry:
    """Return the entry of a path or Hub name, optionally followed by `::ADAPTER.gguf`. Raises ModelError."""
    whole = Path(text).exists()  # a path may contain the separator
    model, _, adapter = (text, "", "") if whole else text.partition(ADAPTER_SEPARATOR)
    lora = choose_adapter(adapter, progress) if adapter else None
    file, reason = choose_with_reason(Path(model), progress)
    return catalog_entry(file, lora or lora_beside(Path(model), file), name, reason)


def _parse_entry(text: str) -> CatalogEntry:
    whole = Path(text).exists() or is_hub_name(Path(text))  # the Hub's addresses may contain a "="
    name, equals, source = ("", "", text) if whole else text.rpartition("=")
    model, _, adapter = source.partition(ADAPTER_SEPARATOR)
    if is_hub_name(Path(model)):  # not downloaded before it is used
        lora = choose_adapter(adapter) if adapter else None
        return CatalogEntry(name or source, name or source, model, lora, named=bool(name))
    return resolve_entry(source, name if equals else None)


def _without_folders(text: str, *files: Path | None) -> str:
    """Replace the files' paths in a text by their names; Hub names stay."""
    for file in files:
        if file is not None and (file.is_absolute() or file.exists()):
            text = text.replace(str(file), file.name)
    return text


def _by_key(entries: Iterable[CatalogEntry]) -> dict[str, CatalogEntry]:
    """Return the distinct models by key; the second of two with the same key gets a number."""
    result: dict[str, CatalogEntry] = {}
    for entry in _distinct(entries):
        numbered = _numbered(entry, result)
        result[numbered.key] = numbered
    return result


def _distinct(entries: Iterable[CatalogEntry]) -> list[CatalogEntry]:
    """Return the entries without repetitions; a chosen name takes precedence over the file's own."""
    distinct: list[CatalogEntry] = []
    for entry in entries:
        same = [index for index, other in enumerate(distinct) if _same(entry, other)]
        if not same or (entry.named and distinct[same[0]].named):
            distinct.append(entry)
        elif entry.named:
            distinct[same[0]] = entry
    return distinct


def _same(one: CatalogEntry, other: CatalogEntry) -> bool:
    return one.adapter == other.adapter and Path(one.source).absolute() == Path(other.source).absolute()


def _numbered(entry: CatalogEntry, taken: Mapping[str, CatalogEntry]) -> CatalogEntry:
    """Return the entry, with a number appended to its key and label if another one has the same key."""
    if entry.key not in taken:
        return entry
    number = next(n for n in range(2, len(taken) + 2) if f"{entry.key} ({n})" not in taken)
    return replace(entry, key=f"{entry.key} ({number})", label=f"{entry.label} ({number})")
