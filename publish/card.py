"""The card of a published repository: what only its publisher knows, and its check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.text import first_line
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import Record, load_record
from pipeline.report.model_card import (
    CARD,
    Publication,
    bases_on_hub,
    is_our_card,
    with_metadata,
    without_metadata,
)
from pipeline.report.write import published_card
from pipeline.sources.model_source import HUB_ID, read_json
from publish.files import ExportFolder
from publish.hub import HubClient
from publish.refusals import PublishError

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code")
_LICENSE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class CardOptions:
    """What the user says about a model: an identifier of its license, and codes of its languages."""

    license: str | None = None
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises PublishError for values that the Hub does not take."""
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise PublishError(
                f"--license {self.license!r}: give an identifier of the Hub, such as apache-2.0, llama3.1 or "
                "other"
            )
        for language in self.languages:
            if not _LANGUAGE.fullmatch(language):
                raise PublishError(f"--language {language!r}: give an ISO 639 code, such as en or de")

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return self.license is not None or bool(self.languages)


@dataclass(frozen=True)
class Card:
    """The text of a README.md, with notes for the user about it."""

    text: str
    notes: tuple[str, ...] = ()


def export_card(
    export: ExportFolder, hub: HubClient, options: CardOptions, siblings: Sequence[str] = ()
) -> Card:
    """Return the card of an export; the user's own README.md as it is.

    `siblings` are repositories that are published with it, and which it was made from. Raises PublishError
    for options that would change the user's own card.
    """
    own = _read(export.folder / CARD)
    if own is not None and not is_our_card(own):
        return _own(own, f"{export.folder / CARD}", options)
    bases, of_base, notes = _shown(hub, export_bases(export.record))
    known = _known(options, bases, of_base, notes)
    known["quantized_by"] = hub.repository.partition("/")[0]
    if not bases:
        notes.append("no base model on the Hub is known, so that the card names none")
    publication = Publication(hub.repository, tuple(dict.fromkeys((*bases, *siblings))), known)
    text = published_card(export.folder, export.name, export.record, export.certificate, publication)
    return Card(text, tuple(notes))


def source_card(
    folder: Path, hub: HubClient, options: CardOptions, known: Mapping[str, Any], bases: Sequence[str] = ()
) -> Card:
    """Return the card of an adapter or a checkpoint: the folder's with what it lacks, or a short one.

    `bases` are what it was made from, where the folder itself does not say that.

    A base model that is no name on the Hub, such as the path that PEFT writes, is replaced or left out, as
    the Hub refuses it.
    """
    text = _read(folder / CARD)
    if text is None:
        text = f"\n# {hub.repository.partition('/')[2]}\n\nMade with GGUF Chat.\n"
    check_structure(text, hub.repository)
    own = metadata_of(text)
    bases, of_base, notes = _shown(hub, _bases_of(folder) or bases)
    told = _known(options, bases, of_base, [] if own.get("license") and not options.license else notes)
    told |= known
    if bases:
        told["base_model"] = bases[0] if len(bases) == 1 else list(bases)
    named = own.get("base_model")
    if named and not all(_is_name(name) for name in (named if isinstance(named, list) else [named])):
        notes.append(f"base_model: {named} is no name on the Hub and is left out of the card")
        text = without_metadata(text, "base_model")
        named = None
    if not named and not bases:
        told.pop("base_model_relation", None)
    given = {key for key, value in (("license", options.license), ("language", options.languages)) if value}
    return Card(with_metadata(text, told, replaced=given), tuple(notes))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and HUB_ID.fullmatch(name) is not None


def export_bases(record: Record) -> tuple[str, ...]:
    """Return the repositories of an export's base and adapters."""
    return bases_on_hub(record.inputs.get("base", {}), record.inputs.get("adapters", ()))


def _bases_of(folder: Path) -> tuple[str, ...]:
    """Return the repositories that a folder's manifest or configuration names as its base and adapters."""
    if (record := load_record(folder / MANIFEST)) is not None:
        return export_bases(record)
    path = folder / "adapter_config.json"
    name = read_json(path, "the adapter").get("base_model_name_or_path") if path.is_file() else None
    return (str(name),) if _is_name(name) else ()


def _read(path: Path) -> str | None:
    """Return a card; None without one. Raises PublishError for one that is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, OSError) as error:
        raise PublishError(f"{path} cannot be read ({first_line(error)}): save it as UTF-8") from None


def _own(text: str, path: str, options: CardOptions) -> Card:
    if options.given:
        raise PublishError(
            f"{path} is your own card: write license and language into it, without the options"
        )
    missing = [key for key in ("license", "base_model") if not re.search(rf"^{key}:", text, re.MULTILINE)]
    note = f"{path} is your own card and is published as it is; it lacks {' and '.join(missing)}"
    return Card(text, (note,) if missing else ())


def _shown(hub: HubClient, bases: Sequence[str]) -> tuple[list[str], Mapping[str, Any], list[str]]:
    """Return the bases that the Hub shows, the metadata of the first one's card, and notes about the others.

    A relative path such as models/base has the form of a name on the Hub, too.
    """
    cards = {name: hub.card_of(name) for name in bases}
    shown = [name for name, card in cards.items() if card is not None]
    notes = [f"base_model: {name} is not on the Hub and is left out" for name in bases if name not in shown]
    return shown, (cards[shown[0]] or {}) if shown else {}, notes


def _known(
    options: CardOptions, bases: Sequence[str], of_base: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Return license and language as the user says, else as the base's card does; add to the notes."""
    known: dict[str, Any] = {}
    if options.license:
        known["license"] = options.license
    elif isinstance(of_base.get("license"), str):
        known |= {key: of_base[key] for key in _LICENSE_KEYS if of_base.get(key)}
        notes.append(f"license: {of_base['license']}, as {bases[0]} has it; --license names another")
    else:
        notes.append("no license is known: name it with --license")
    if languages := options.languages or of_base.get("language"):
        known["language"] = languages if isinstance(languages, str) else list(languages)
    return known


def check_structure(text: str, repository: str) -> None:
    """Check a card's metadata without the Hub. Raises PublishError."""
    import yaml

    try:
        metadata_of(text)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise PublishError(f"the card of {repository!r} has faulty metadata: {first_line(error)}") from None


def metadata_of(text: str) -> dict[str, Any]:
    """Return a card's metadata, read by huggingface_hub's classes, which raise errors of several kinds."""
    from huggingface_hub import ModelCard

    data = ModelCard(text).data
    data.to_yaml()
    return dict(vars(data))
