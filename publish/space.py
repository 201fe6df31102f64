"""Make or update a Space on the Hub: the app's files and no others, settings, hardware; then wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.sources.model_source import HUB_ID
from publish.files import file_size
from publish.hub import COMMIT_ENDING, HubClient
from publish.llama_wheel import LlamaBuild
from publish.refusals import PublishError, refusals
from publish.space_files import OUR_FILE, ZERO_GPU, SpaceFiles, pack
from publish.space_model import find_model, parse_model
from publish.space_runtime import wait_until_running
from publish.space_settings import (
    MODEL,
    TOKEN,
    restore_variables,
    secret_names,
    set_secrets,
    set_variables,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

Report = Callable[[str], None]
CPU = "cpu-basic"


@dataclass(frozen=True)
class SpacePlan:
    """What to publish: `model` is a name as the app takes it; no `hardware` keeps the present.

    Variables and secrets are those beside the model's. `llama` is None where the Space compiles llama.cpp.
    """

    repository: str
    model: str
    hardware: str | None = None
    title: str | None = None
    private: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    llama: LlamaBuild | None = None
    seconds: float = 3600.0


@dataclass(frozen=True)
class Preparation:
    """What the Hub said beforehand: `present` is the hardware of a Space that is there, else None."""

    files: Mapping[str, bytes]
    model: str
    hardware: str
    present: str | None

    @property
    def exists(self) -> bool:
        """Whether the Space is there already."""
        return self.present is not None


def check_name(option: str, name: str) -> str:
    """Return a name of the form "owner/name". Raises PublishError for another."""
    if not HUB_ID.fullmatch(name):
        raise PublishError(f"{option} {name!r} is no repository's name: write it as owner/name")
    return name


def prepare(hub: HubClient, plan: SpacePlan) -> Preparation:
    """Return what would be published, after asking the Hub for the model and the Space; changes nothing.

    Raises PublishError for what the Hub would refuse, as far as it says so beforehand.
    """
    named = parse_model(plan.model)
    hub.account().require_writer(plan.repository.split("/")[0])
    model = find_model(hub, named)
    present = _present(hub, plan)
    hardware = plan.hardware or present or CPU
    if model.closed:
        with refusals(plan.repository, "space"):
            held = secret_names(hub.api, plan.repository) if present else set()
        if TOKEN not in {*plan.secrets, *held}:
            repository, kind = model.closed
            raise PublishError(
                f"the model {repository} is {kind}, and the Space has no token: add --secret {TOKEN} (of a "
                "token that may only read it)"
            )
    files = SpaceFiles(
        title=plan.title or plan.repository.split("/")[1],
        model=model.base,
        hardware=hardware,
        preload=model.preload,
        commit=model.commit,
        llama=plan.llama,
    )
    return Preparation(pack(files), model.setting, hardware, present)


def _present(hub: HubClient, plan: SpacePlan) -> str | None:
    """Return the hardware of the Space, None where there is none.

    Raises PublishError for a Space that is not one of ours, whose files would be lost.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with refusals(plan.repository, "space"):
        try:
            info = hub.api.space_info(plan.repository)
        except RepositoryNotFoundError:
            return None
        names = {item.rfilename for item in info.siblings or []}
        if info.sdk not in (None, "gradio"):
            raise PublishError(
                f"the Space {plan.repository} is a {info.sdk} Space, no Gradio one: name another"
            )
        if names - {".gitattributes", "README.md"} and OUR_FILE not in names:
            others = ", ".join(sorted(names - {".gitattributes", "README.md"})[:3])
            raise PublishError(
                f"the Space {plan.repository} has other files ({others}), which would go: name another, "
                "or delete them first"
            )
        requested = hub.api.get_space_runtime(plan.repository).requested_hardware
    return str(getattr(requested, "value", requested) or CPU)


def publish(
    hub: HubClient, plan: SpacePlan, ready: Preparation, report: Report, *, interval: float = 3.0
) -> str:
    """Make or update the Space, wait until it runs, and return its address.

    `report` takes a line for each step. `interval` is in seconds, between two looks at the stage. Raises
    PublishError for what the Hub refuses, SpaceFailed when the Space does not run.
    """
    from huggingface_hub import CommitOperationAdd

    api, repository = hub.api, plan.repository
    with refusals(repository, "space"), _payments(repository, ready.hardware):
        _make(api, plan, ready, report)
        additions = [CommitOperationAdd(name, content) for name, content in ready.files.items()]
        api.preupload_lfs_files(repository, additions, repo_type="space", free_memory=False)
        # What is likely to be refused comes first, and what starts a build last.
        with _as_before_unless_committed(api, repository, ready, report):
            if ready.present not in (None, ready.hardware):
                api.request_space_hardware(repository, ready.hardware)  # type: ignore[arg-type]
                report(f"hardware {ready.hardware} requested")
            changes = set_variables(api, repository, {**plan.variables, MODEL: ready.model})
            for change in [*changes, *set_secrets(api, repository, plan.secrets)]:
                report(change)
            commit = _commit(api, repository, additions, report)
        runtime = wait_until_running(api, repository, commit, report, timeout=plan.seconds, interval=interval)
    domains = [str(entry["domain"]) for entry in runtime.raw.get("domains") or [] if entry.get("domain")]
    return f"https://{domains[0]}" if domains else f"{api.endpoint}/spaces/{repository}"


def _make(api: HfApi, plan: SpacePlan, ready: Preparation, report: Report) -> None:
    if not ready.exists:
        api.create_repo(
            plan.repository,
            repo_type="space",
            space_sdk="gradio",
            space_hardware=ready.hardware,  # type: ignore[arg-type]
            private=plan.private or None,
            exist_ok=True,
        )
        report(f"created {api.endpoint}/spaces/{plan.repository} on {ready.hardware}")
    elif plan.private and not api.space_info(plan.repository).private:
        api.update_repo_settings(plan.repository, repo_type="space", private=True)
        report("made private")


@contextmanager
def _as_before_unless_committed(
    api: HfApi, repository: str, ready: Preparation, report: Report
) -> Iterator[None]:
    """Give a Space its variables and its hardware back when the block fails, as far as the Hub lets it.

    Secrets keep their new values, as nobody can read what was there.
    """
    from huggingface_hub import errors

    before = api.get_space_variables(repository) if ready.exists else None
    try:
        yield
    except BaseException:
        if before is not None:
            with suppress(errors.HTTPError, OSError):  # type: ignore[attr-defined] # the first is httpx's
                changes = restore_variables(api, repository, before)
                if ready.hardware != ready.present:
                    api.request_space_hardware(repository, ready.present)  # type: ignore[arg-type]
                    changes.append(f"hardware {ready.present} requested")
                for change in changes:
                    report(f"as before: {change}")
        raise


def _commit(api: HfApi, repository: str, additions: list[CommitOperationAdd], report: Report) -> str:
    """Make the files exactly those that are added; return the commit, the present one if none differs.

    One commit, as the Hub builds each: `upload_folder` would make several of so many files.
    """
    from huggingface_hub import CommitOperationDelete

    info = api.space_info(repository)
    present = {item.rfilename for item in info.siblings or []} - {".gitattributes"}
    made = api.create_commit(
        repository,
        [*additions, *map(CommitOperationDelete, sorted(present - {one.path_in_repo for one in additions}))],
        commit_message=f"Publish the chat{COMMIT_ENDING}",
        repo_type="space",
    )
    size = sum(one.upload_info.size for one in additions)
    is_new = made.oid != info.sha
    report(f"{len(additions)} files, {file_size(size)}" if is_new else "no file has changed")
    return str(made.oid)


@contextmanager
def _payments(repository: str, hardware: str) -> Iterator[None]:
    """Raise PublishError where the Hub wants payment for the hardware of a Space."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code != 402:
            raise
        other = f"the Hub wants payment for {hardware} (402): add credit at https://huggingface.co/settings/billing"
        raise PublishError(f"space {repository!r}: {_PAYMENT.get(hardware, other)}") from error


_PAYMENT = {
    CPU: (
        f"Gradio Spaces on {CPU} are for paying accounts (402): take --hardware {ZERO_GPU}, of which a free "
        "account may have two, or subscribe at https://huggingface.co/pro"
    ),
    ZERO_GPU: (
        "your account may have no further ZeroGPU Space (402), a free one has two: delete one, name one of "
        "them here, or subscribe at https://huggingface.co/pro"
    ),
}
