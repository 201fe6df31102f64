"""The card of a published repository: what only its publisher knows, and its check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.text import first_line
from pipeline.report.model_card import CARD, Publication, bases_on_hub, own_card, with_metadata
from pipeline.report.write import published_card
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
    if (own := own_card(export.folder)) is not None:
        return _own(own, f"{export.folder / CARD}", options)
    inputs = export.record.inputs
    bases = bases_on_hub(inputs["base"], inputs.get("adapters", ()))
    known, notes = _known(hub, options, bases[:1])
    known["quantized_by"] = hub.repository.partition("/")[0]
    if not bases:
        notes.append("no base model on the Hub is known, so that the card names none")
    publication = Publication(hub.repository, tuple(dict.fromkeys((*bases, *siblings))), known)
    text = published_card(export.folder, export.name, export.record, export.certificate, publication)
    return Card(text, tuple(notes))


def source_card(
    text: str | None, hub: HubClient, options: CardOptions, bases: Sequence[str], known: Mapping[str, Any]
) -> Card:
    """Return the card of an adapter or a merged model: `text` with what it lacks, or a short one."""
    told, notes = _known(hub, options, bases[:1])
    told |= known
    if bases:
        told["base_model"] = bases[0] if len(bases) == 1 else list(bases)
    elif "base_model_relation" in told:
        del told["base_model_relation"]
    body = text if text is not None else f"\n# {hub.repository.partition('/')[2]}\n\nMade with GGUF Chat.\n"
    return Card(with_metadata(body, told, override=options.given), tuple(notes))


def _own(text: str, path: str, options: CardOptions) -> Card:
    if options.given:
        raise PublishError(
            f"{path} is your own card: write license and language into it, without the options"
        )
    missing = [key for key in ("license", "base_model") if not re.search(rf"^{key}:", text, re.MULTILINE)]
    note = f"{path} is your own card and is published as it is; it lacks {' and '.join(missing)}"
    return Card(text, (note,) if missing else ())


def _known(hub: HubClient, options: CardOptions, bases: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return license and language as the user says, else as the base's card does; and notes."""
    known: dict[str, Any] = {}
    notes = []
    of_base = hub.card_of(bases[0]) if bases and not (options.license and options.languages) else {}
    if options.license:
        known["license"] = options.license
    elif isinstance(of_base.get("license"), str):
        known |= {key: of_base[key] for key in _LICENSE_KEYS if of_base.get(key)}
        notes.append(f"license: {of_base['license']}, as {bases[0]} has it; --license names another")
    else:
        notes.append("no license is known: name it with --license")
    if languages := options.languages or of_base.get("language"):
        known["language"] = languages if isinstance(languages, str) else list(languages)
    return known, notes


def check_structure(text: str, repository: str) -> None:
    """Check a card's metadata without the Hub. Raises PublishError."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text).data
        data.to_yaml()
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise PublishError(f"the card of {repository!r} has faulty metadata: {first_line(error)}") from None
