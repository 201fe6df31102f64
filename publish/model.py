"""Publish an export, and the adapter or the merged model beside it: check everything, upload, compare."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.paths import secrets_in
from pipeline.report.model_card import CARD, is_our_card
from pipeline.sources.model_source import HUB_ID
from publish.card import Card, CardOptions, check_structure, export_bases, export_card, source_card
from publish.files import (
    KINDS,
    FolderKind,
    PublishedFile,
    export_folder,
    kind_of,
    reject_secrets,
    source_files,
)
from publish.hub import COMMIT_ENDING, Account, Gate, HubClient
from publish.refusals import PublishError

_GGUF_ENDING = "-GGUF"
_BRANCH = re.compile(r"(?!refs/)(?!.*(\.\.|\.lock$|\.$|/$|//))[A-Za-z0-9_][\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


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

    def __post_init__(self) -> None:
        """Raises PublishError for a name that no repository or branch can have."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils._validators import validate_repo_id

        if not HUB_ID.fullmatch(self.repository):
            raise PublishError(f"{self.repository!r} is no name of a repository: it looks like owner/name")
        siblings = {"-lora": self.adapter, "-merged": self.merged}
        names = (self.sibling(ending) for ending, folder in siblings.items() if folder is not None)
        for name in (self.repository, *names):
            try:
                validate_repo_id(name)
            except HFValidationError as error:
                raise PublishError(" ".join(str(error).split())) from None
        if self.revision is not None and (
            not _BRANCH.fullmatch(self.revision) or _COMMIT.fullmatch(self.revision)
        ):
            raise PublishError(
                f"--revision {self.revision!r} is no name of a branch: use letters, digits, dots and "
                "dashes, as in v1.0"
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
    kind = kind_of(options.folder)
    export = export_folder(options.folder) if kind == "export" else None
    if export is None and (options.adapter is not None or options.merged is not None):
        raise PublishError(
            f"{options.folder} is {KINDS[kind]} itself: --adapter and --merged go with an export of GGUFs"
        )
    if export is not None and export.has_failed and not options.allow_failed:
        raise PublishError(
            f"the certificate in {options.folder} has a failed check: see report.html there; "
            "--allow-failed publishes the files all the same"
        )
    hub = HubClient(options.repository, revision=options.revision)
    account = hub.account()
    account.require_writer(options.repository.partition("/")[0])
    if export is None:
        return account, [_source_plan(options, hub, options.folder)]
    _require_kinds(options)
    siblings = [
        _source_plan(options, hub.sibling(options.sibling(ending)), folder, export_bases(export.record)[:1])
        for ending, folder in (("-lora", options.adapter), ("-merged", options.merged))
        if folder is not None
    ]
    card = export_card(export, hub, options.card, [plan.repository for plan in siblings])
    notes = [f"{name} is not in the manifest and is left out" for name in export.left_out]
    if export.certificate is None:
        notes.append("the export has no certificate, so that the card says nothing about quality")
    return account, [*siblings, _plan(options, hub, export.files, card, notes)]


def _require_kinds(options: PublishOptions) -> None:
    """Raise PublishError where --adapter or --merged names a folder of the other kind."""
    given: dict[FolderKind, Path | None] = {"adapter": options.adapter, "merged": options.merged}
    for wanted, folder in given.items():
        found = kind_of(folder) if folder is not None else "export"
        if found not in (wanted, "export"):
            raise PublishError(
                f"--{wanted} {str(folder)!r} is {KINDS[found]}: name the folder of {KINDS[wanted]}"
            )


def _source_plan(options: PublishOptions, hub: HubClient, folder: Path, bases: Sequence[str] = ()) -> Plan:
    """Return the plan for an adapter or a merged model; `bases` is for one that does not name its own."""
    adapter = kind_of(folder) == "adapter"
    known = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "base_model_relation": "adapter" if adapter else "finetune",
    }
    files, notes = source_files(folder)
    return _plan(options, hub, files, source_card(folder, hub, options.card, known, bases), notes)


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
                f"the Hub does not hold these files as they are here: {names}; run the same command again"
            )
    kept = tuple(file for file in plan.files if file not in plan.changes)
    return Published(f"{hub.api.endpoint}/{plan.repository}", plan.changes, kept)
