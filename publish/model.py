"""Publish an export, and the adapter or the merged model beside it: check everything, upload, compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.paths import secrets_in
from pipeline.report.model_card import CARD, bases_on_hub, is_our_card
from pipeline.sources.model_source import HUB_ID
from publish.card import Card, CardOptions, check_structure, export_card, source_card
from publish.files import PublishedFile, adapter_files, export_folder, merged_files, reject_secrets
from publish.hub import COMMIT_ENDING, Account, Gate, HubClient
from publish.refusals import PublishError

_GGUF_ENDING = "-GGUF"


@dataclass(frozen=True)
class PublishOptions:
    """What is published where. `adapter` and `merged` are folders, for repositories of their own."""

    folder: Path
    repository: str
    adapter: Path | None = None
    merged: Path | None = None
    private: bool = False
    gated: Gate | None = None
    revision: str | None = None
    card: CardOptions = field(default_factory=CardOptions)
    replace_card: bool = False
    allow_failed: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Raises PublishError for a name that no repository can have."""
        if not HUB_ID.fullmatch(self.repository) or self.repository.endswith((".git", ".", "-")):
            raise PublishError(f"{self.repository!r} is no name of a repository: it looks like owner/name")
        if len(self.repository.partition("/")[2]) > 96 or any(x in self.repository for x in ("--", "..")):
            raise PublishError(
                f"{self.repository!r}: the Hub takes names of at most 96 characters, without -- and .."
            )

    def sibling(self, ending: str) -> str:
        """Return the repository of the adapter or the merged model: the name without -GGUF, and `ending`."""
        return self.repository.removesuffix(_GGUF_ENDING) + ending


@dataclass(frozen=True)
class Plan:
    """What is to be in one repository; `files` include its card. `exists` says whether the Hub has it."""

    hub: HubClient
    files: tuple[PublishedFile, ...]
    card: Card
    exists: bool
    changes: tuple[PublishedFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def repository(self) -> str:
        """The repository's name."""
        return self.hub.repository


@dataclass(frozen=True)
class Published:
    """A repository after publishing: its address, the files that were sent, and those it had already."""

    url: str
    sent: tuple[PublishedFile, ...]
    kept: tuple[PublishedFile, ...]


def plan_model(options: PublishOptions) -> tuple[Account, list[Plan]]:
    """Check all that is to be published and ask the Hub whether it may be; nothing is changed there.

    The plans are in the order of publishing. Raises InputError.
    """
    export = export_folder(options.folder)
    if export.certificate is not None and export.certificate.status == "fail" and not options.allow_failed:
        raise PublishError(
            f"the certificate in {options.folder} has a failed check: see report.html there; "
            "--allow-failed publishes the files all the same"
        )
    hub = HubClient(options.repository, revision=options.revision)
    account = hub.account()
    account.require_writer(options.repository.partition("/")[0])
    inputs = export.record.inputs
    bases = bases_on_hub(inputs["base"], inputs.get("adapters", ()))
    siblings: list[Plan] = []
    if options.adapter is not None:
        siblings.append(
            _source_plan(options, hub.sibling(options.sibling("-lora")), options.adapter, bases, merged=False)
        )
    if options.merged is not None:
        siblings.append(
            _source_plan(options, hub.sibling(options.sibling("-merged")), options.merged, bases, merged=True)
        )
    card = export_card(export, hub, options.card, [plan.repository for plan in siblings])
    notes = [f"{name} is not in the manifest and is left out" for name in export.left_out]
    if export.certificate is None:
        notes.append("the export has no certificate, so that the card says nothing about quality")
    return account, [*siblings, _plan(options, hub, export.files, card, notes)]


def _source_plan(
    options: PublishOptions, hub: HubClient, folder: Path, bases: Sequence[str], *, merged: bool
) -> Plan:
    """Return the plan for an adapter or a merged model."""
    files = merged_files(folder) if merged else adapter_files(folder)
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    known = {
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "base_model_relation": "finetune" if merged else "adapter",
    }
    return _plan(options, hub, files, source_card(text, hub, options.card, bases[:1], known))


def _plan(
    options: PublishOptions,
    hub: HubClient,
    files: Sequence[PublishedFile],
    card: Card,
    notes: Sequence[str] = (),
) -> Plan:
    """Compare with the repository. Raises PublishError for a faulty card, a secret, and a taken name."""
    check_structure(card.text, hub.repository)
    every = (*files, PublishedFile.of_text(CARD, card.text))
    reject_secrets(every, secrets_in(os.environ) | {"token": hub.token})
    hub.validate_card(card.text)
    exists = hub.exists()
    there = hub.files() if exists else {}
    if exists and not options.replace_card and CARD in there and not every[-1].equals(there[CARD]):
        strangers = there.keys() - {CARD, ".gitattributes"}
        if strangers and not hub.was_published() and not is_our_card(hub.read_text(CARD)):
            raise PublishError(
                f"the name is taken: {hub.repository!r} has a README.md that this program did not write; "
                "choose another name, or replace it with --replace-card"
            )
    others = sorted(
        name
        for name in there.keys() - {file.name for file in every}
        if name.endswith((".gguf", ".safetensors"))
    )
    kept = [f"{name} stays in {hub.repository}, as it is not in this folder" for name in others]
    changes = tuple(file for file in every if not file.equals(there.get(file.name)))
    return Plan(hub, every, card, exists, changes, (*card.notes, *notes, *kept))


def publish(plan: Plan, options: PublishOptions, say: Callable[[str], None] = lambda text: None) -> Published:
    """Bring a repository to what the plan says, in one commit, and compare what the Hub then states.

    `say` is given lines about the progress. Raises PublishError; the repository then has all files or none of
    them, and the next call goes on with what was sent.
    """
    hub = plan.hub
    hub.create(options.private, options.gated, exists=plan.exists)
    if plan.changes:
        title = f"Publish {plan.repository.partition('/')[2]}{COMMIT_ENDING}"
        hub.upload(plan.changes, title, say)
        if wrong := hub.differing(plan.files):
            names = ", ".join(file.name for file in wrong)
            raise PublishError(
                f"the Hub states another SHA-256 than these files have: {names}; run the same command again"
            )
    kept = tuple(file for file in plan.files if file not in plan.changes)
    return Published(f"{hub.api.endpoint}/{plan.repository}", plan.changes, kept)
