"""The command `publish space`: a public chat with a model of the Hub, as a Space."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Annotated

import typer

from common.paths import secrets_in
from common.terminal import say
from publish.cli.console import publishing
from publish.files import file_size
from publish.hub import HubClient
from publish.llama_wheel import LlamaBuild, installed_build, why_not_on_a_space
from publish.refusals import PublishError
from publish.space import Preparation, SpacePlan, check_name, prepare, publish
from publish.space_settings import read_secrets, read_variables

HARDWARE = ("cpu-basic", "cpu-upgrade", "zero-a10g")
running = partial(typer.Option, rich_help_panel="The Space")


def space(
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The Space; made where there is none.")
    ],
    *,
    model: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME/FILE",
            help="A GGUF on the Hub; FILE where there are several. Also OWNER/NAME:TYPE, or @REVISION.",
        ),
    ],
    hardware: Annotated[
        str | None,
        running(
            metavar="|".join(HARDWARE),
            help="Default: the present one; of a new Space, cpu-basic. A free account may have two on "
            "zero-a10g.",
        ),
    ] = None,
    private: Annotated[
        bool, running("--private", help="Only you, or your organization, can open it.")
    ] = False,
    title: Annotated[str | None, running(metavar="TEXT", help="Its title. Default: its name.")] = None,
    variable: Annotated[
        list[str] | None,
        running(
            metavar="NAME=VALUE", help="A setting of the app, such as GGUF_CHAT_SLOTS=2. May be repeated."
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        running(
            metavar="NAME[=VALUE]",
            help="The same, seen by nobody. Without VALUE, the variable of that name here. May be repeated.",
        ),
    ] = None,
    source_build: Annotated[
        bool, running("--source-build", help="Let the Space compile llama.cpp, for some ten minutes.")
    ] = False,
    timeout: Annotated[float, running(metavar="SECONDS", help="How long to wait until it runs.")] = 3600.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be uploaded; change nothing.")
    ] = False,
) -> None:
    """Make or update a Space that chats with a model of the Hub, and wait until it runs.

    It gets exactly the files that the app needs, with llama.cpp as it was compiled here; others are removed.

    Variables that an earlier run set and this one does not are removed too.
    """
    with publishing():
        hub = HubClient(check_name("the Space", repository), "space")
        if hardware is not None and hardware not in _known_hardware():
            raise PublishError(f"--hardware {hardware!r} is unknown: take one of {', '.join(HARDWARE)}")
        if not 0 <= timeout < math.inf:
            raise PublishError(f"--timeout {timeout:g}: give seconds, 0 or more")
        plan = SpacePlan(
            repository=repository,
            model=model,
            hardware=hardware,
            title=_one_line(title),
            private=private,
            variables=read_variables(variable or [], [hub.token, *secrets_in(os.environ).values()]),
            secrets=read_secrets(secret or [], os.environ, hub.token),
            llama=None if source_build else _built_llama(),
            seconds=timeout,
        )
        ready = prepare(hub, plan)
        if dry_run:
            _show(plan, ready)
            return
        say(f"running: {publish(hub, plan, ready, say)}")


def _known_hardware() -> set[str]:
    from huggingface_hub import SpaceHardware

    return {item.value for item in SpaceHardware}


def _one_line(title: str | None) -> str | None:
    """Return a title. Raises PublishError for an empty one or one of several lines."""
    if title is not None and (not title.strip() or "\n" in title):
        raise PublishError(f"--title {title!r} is no title: write one line")
    return title


def _built_llama() -> LlamaBuild | None:
    """Return the build of this machine; None on another system than Linux, where the Space compiles its own.

    Raises PublishError for a Linux build that a Space cannot run.
    """
    build = installed_build()
    reason = why_not_on_a_space(build)
    if reason is None:
        return build
    if build.glibc is None:
        say(f"note: {reason}, so the Space compiles it, for some ten minutes")
        return None
    raise PublishError(f"{reason}: let the Space compile it with --source-build")


def _show(plan: SpacePlan, ready: Preparation) -> None:
    """Print what would be published; names of secrets, and never their values."""
    for name, content in sorted(ready.files.items()):
        say(f"{len(content):>10,}  {name}")
    size = sum(map(len, ready.files.values()))
    state = "which is there" if ready.exists else "a new one"
    say(
        f"{len(ready.files)} files, {file_size(size)}, for the Space {plan.repository} ({state}) "
        f"on {ready.hardware}"
    )
    for name, value in plan.variables.items():
        say(f"variable {name} = {value}")
    say(f"variable GGUF_CHAT_MODEL = {ready.model}")
    for name in plan.secrets:
        say(f"secret {name}")
