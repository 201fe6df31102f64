"""The Hub as the account of one token may use it: who it is, repositories, uploads in one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.text import pluralize
from publish.files import PublishedFile, file_size
from publish.refusals import TOKENS, Kind, PublishError, refusals

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

Gate = Literal["auto", "manual"]
COMMIT_ENDING = " with GGUF Chat"
"""The end of the titles of this program's commits, by which it knows its repositories."""

_ANNOUNCED = 1_000_000
"""Bytes of a file that gets a line of its own while it is sent."""

_ATTEMPTS = 5
_TRANSIENT = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Account:
    """Whose token it is; `role` is "write", "read", or "fineGrained", which may write where it says."""

    name: str
    organizations: tuple[str, ...]
    role: str
    pays: bool

    def require_writer(self, owner: str) -> None:
        """Raise PublishError for a token that cannot write to a namespace."""
        if self.role == "read":
            raise PublishError(
                f"the token of {self.name!r} may only read: make one that may write at {TOKENS}"
            )
        if owner not in (self.name, *self.organizations):
            names = ", ".join((self.name, *self.organizations))
            raise PublishError(
                f"{owner!r} is neither the account of your token nor one of its organizations: name a "
                f"repository of {names}"
            )


class HubClient:
    """Requests with one token, which is read once. All methods raise PublishError for what is refused."""

    def __init__(self, repository: str, kind: Kind = "model", revision: str | None = None) -> None:
        """Raises PublishError without a token."""
        from huggingface_hub import HfApi, errors, get_token

        self.repository, self.kind, self.revision = repository, kind, revision
        with refusals(repository, kind):
            if (token := get_token()) is None:
                raise errors.LocalTokenNotFoundError
        self.token: str = token
        self.api: HfApi = HfApi(token=token)

    def sibling(self, repository: str) -> HubClient:
        """Return a client for another repository, with the same token."""
        other = HubClient.__new__(HubClient)
        other.__dict__ |= self.__dict__ | {"repository": repository}
        return other

    def account(self) -> Account:
        """Return whose token it is."""
        with refusals(self.repository, self.kind):
            found = self.api.whoami()
        token = found.get("auth", {}).get("accessToken", {})
        names = tuple(one["name"] for one in found.get("orgs", ()))
        return Account(found["name"], names, token.get("role", "write"), bool(found.get("isPro")))

    def exists(self) -> bool:
        """Return whether the repository exists, and the token may write to it."""
        from huggingface_hub import errors

        with refusals(self.repository, self.kind):
            try:
                self.api.auth_check(self.repository, repo_type=self.kind, write=True)
            except errors.GatedRepoError:
                raise
            except errors.RepositoryNotFoundError:
                return False
        return True

    def files(self) -> dict[str, RepoFile]:
        """Return the repository's files by their paths; none of a branch that does not exist yet."""
        from huggingface_hub import errors
        from huggingface_hub.hf_api import RepoFile

        with refusals(self.repository, self.kind):
            try:
                entries = list(
                    self.api.list_repo_tree(
                        self.repository, recursive=True, revision=self.revision, repo_type=self.kind
                    )
                )
            except errors.RevisionNotFoundError:
                return {}
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def read_text(self, path: str) -> str:
        """Return a small text file of the repository."""
        with refusals(self.repository, self.kind):
            found = self.api.hf_hub_download(
                self.repository, path, revision=self.revision, repo_type=self.kind
            )
        return Path(found).read_text(encoding="utf-8", errors="replace")

    def was_published(self) -> bool:
        """Return whether this program has committed to the repository before."""
        with refusals(self.repository, self.kind):
            commits = self.api.list_repo_commits(self.repository, repo_type=self.kind, revision=self.revision)
        return any(commit.title.endswith(COMMIT_ENDING) for commit in commits)

    def card_of(self, model: str) -> Mapping[str, Any]:
        """Return the metadata in a model's card; empty for one that cannot be seen."""
        from huggingface_hub import errors

        try:
            card = self.api.model_info(model).card_data
        except (errors.HfHubHTTPError, errors.HFValidationError):
            return {}
        return dict(vars(card)) if card is not None else {}

    def validate_card(self, text: str) -> None:
        """Let the Hub's own validator check a card. Raises PublishError with what it finds."""
        from huggingface_hub import ModelCard

        with refusals(self.repository, self.kind):
            try:
                ModelCard(text).validate()
            except ValueError as error:
                found = " ".join(str(error).split())
                raise PublishError(
                    f"the Hub does not accept the card of {self.repository!r}: {found}"
                ) from None

    def create(self, private: bool, gated: Gate | None, *, exists: bool) -> None:
        """Make the repository unless it exists, and apply what was asked for, before anything is in it."""
        with refusals(self.repository, self.kind):
            if not exists:
                self.api.create_repo(self.repository, repo_type=self.kind, private=private or None)
            if private or gated:
                self.api.update_repo_settings(
                    self.repository, repo_type=self.kind, private=private or None, gated=gated
                )
            if self.revision is not None:
                self.api.create_branch(
                    self.repository, branch=self.revision, repo_type=self.kind, exist_ok=True
                )

    def upload(self, files: Sequence[PublishedFile], message: str, say: Callable[[str], None]) -> str:
        """Send files, largest first, then add them in one commit; return its address.

        What was sent before an interruption is not sent again. `say` is given a line before each step. Raises
        PublishError also for a file that is no longer what was recorded; nothing is committed then.
        """
        from huggingface_hub import CommitOperationAdd

        additions = {file.name: CommitOperationAdd(file.name, file.source) for file in files}
        ordered = sorted(files, key=lambda file: -file.size)
        with refusals(self.repository, self.kind):
            for place, file in enumerate(ordered, 1):
                if file.size >= _ANNOUNCED:
                    say(f"sending {file.name}, {place} of {len(files)} ({file_size(file.size)})")
                self.api.preupload_lfs_files(
                    self.repository,
                    [additions[file.name]],
                    repo_type=self.kind,
                    revision=self.revision,
                    free_memory=False,
                )
                if additions[file.name].upload_info.sha256.hex() != file.sha256:
                    raise PublishError(f"{file.name} changed while it was sent: run the same command again")
            say(f"adding {pluralize(len(files), 'file')} to {self.repository} in one commit")
            return self._commit(list(additions.values()), files, message)

    def _commit(
        self, additions: list[CommitOperationAdd], files: Sequence[PublishedFile], message: str
    ) -> str:
        """Commit, and try again after the Hub's own faults, unless the commit happened all the same."""
        from huggingface_hub import errors

        for attempt in range(_ATTEMPTS):
            try:
                done = self.api.create_commit(
                    self.repository,
                    additions,
                    commit_message=message,
                    repo_type=self.kind,
                    revision=self.revision,
                )
                return str(done.commit_url)
            except errors.HTTPError as error:  # type: ignore[attr-defined] # httpx's
                status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 503
                if status not in _TRANSIENT or attempt == _ATTEMPTS - 1:
                    raise
            time.sleep(2**attempt)
            if not self.differing(files):
                break
        return f"{self.api.endpoint}/{self.repository}"

    def differing(self, files: Sequence[PublishedFile]) -> list[PublishedFile]:
        """Return the files that the repository lacks, or has with another content."""
        there = self.files()
        return [file for file in files if not file.equals(there.get(file.name))]
