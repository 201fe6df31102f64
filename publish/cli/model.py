"""The command `publish model`: an export to a repository on the Hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from common.terminal import say, terminal_console
from common.text import pluralize
from publish.card import CardOptions
from publish.cli.console import publishing
from publish.files import file_size
from publish.hub import Account, Gate
from publish.model import Plan, Published, PublishOptions, plan_model, publish
from publish.refusals import PublishError

card = partial(typer.Option, rich_help_panel="Card")
more = partial(typer.Option, rich_help_panel="More repositories")


def model(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of an export.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hub.")],
    *,
    private: Annotated[bool, typer.Option("--private", help="Only for you or your organization.")] = False,
    gated: Annotated[
        str | None, typer.Option(metavar="auto|manual", help="Readers must ask; admitted at once, or by you.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, upload nothing.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch; made if it is missing.")
    ] = None,
    adapter: Annotated[
        Path | None, more(metavar="DIR", help="The adapter's folder, for OWNER/NAME-lora.")
    ] = None,
    merged: Annotated[
        Path | None, more(metavar="DIR", help="The merged model's folder, for OWNER/NAME-merged.")
    ] = None,
    license_: Annotated[
        str | None, card("--license", metavar="ID", help="Such as apache-2.0.", show_default="the base's")
    ] = None,
    language: Annotated[
        list[str] | None, card(metavar="CODE", help="Such as en; repeatable.", show_default="the base's")
    ] = None,
    replace_card: Annotated[
        bool, card("--replace-card", help="Replace a card on the Hub that you wrote there.")
    ] = False,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Publish files whose certificate has a failed check.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON at the end.")] = False,
) -> None:
    """Publish an export: GGUF files, certificate, report and a card that says how to run them.

    The same command goes on after an interruption, and sends nothing that the Hub has. Afterwards the SHA-256
    of each file is compared with what the Hub states.

    Exit codes: 0 done, 2 refused, with the way out in one line.
    """
    with publishing():
        if gated not in (None, "auto", "manual"):
            raise PublishError(f"--gated {gated!r}: give auto or manual")
        options = PublishOptions(
            folder=out,
            repository=repository,
            adapter=adapter,
            merged=merged,
            private=private,
            gated=cast("Gate | None", gated),
            revision=revision,
            card=CardOptions(license_, tuple(language or ())),
            replace_card=replace_card,
            allow_failed=allow_failed,
        )
        account, plans = plan_model(options)
        for plan in plans:
            _show_plan(plan, account)
        if dry_run:
            done: list[Published] = []
            say("a dry run: nothing was uploaded, and the Hub accepts the cards")
        else:
            done = [publish(plan, options, partial(say, file=sys.stderr)) for plan in plans]
            _show_published(done)
        if as_json:
            print(json.dumps(_summary(plans, done, dry_run)))


def _show_plan(plan: Plan, account: Account) -> None:
    """Print the files with their sizes and what happens to them, and notes."""
    console = terminal_console()
    state = "exists" if plan.exists else "is new"
    table = Table(title=Text(f"{plan.repository} ({state}, account {account.name})"), title_justify="left")
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("")
    for file in plan.files:
        table.add_row(
            Text(file.name), file_size(file.size), "upload" if file in plan.changes else "there already"
        )
    console.print(table)
    for note in plan.notes:
        say(f"note: {note}")


def _show_published(done: Sequence[Published]) -> None:
    for one in done:
        sent = pluralize(len(one.sent), "file was", "files were")
        change = f"{sent} uploaded" if one.sent else "nothing had to be uploaded"
        say(f"{one.url}: {change}; all {len(one.sent) + len(one.kept)} files are equal on the Hub by SHA-256")


def _summary(plans: Sequence[Plan], done: Sequence[Published], dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "repositories": [
            {
                "repository": plan.repository,
                "url": f"{plan.hub.api.endpoint}/{plan.repository}",
                "uploaded": [file.name for file in one.sent] if one else [],
                "files": {file.name: file.sha256 for file in plan.files},
                "notes": plan.notes,
            }
            for plan, one in zip(plans, [*done, *[None] * (len(plans) - len(done))], strict=True)
        ],
    }
