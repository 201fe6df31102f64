"""Wait until a Space runs what was uploaded, and say why when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi, SpaceRuntime

Report = Callable[[str], None]
STALE_SECONDS = 120.0
"""How long a Space may still report an earlier commit."""
_UNDER_WAY = ("BUILDING", "APP_STARTING", "RUNNING_BUILDING", "RUNNING_APP_STARTING")
_MEANING = {
    "BUILDING": "is being built",
    "APP_STARTING": "starts",
    "RUNNING_BUILDING": "is being built, the one before still runs",
    "RUNNING_APP_STARTING": "starts, the one before still runs",
}
_FIXES = {
    "PAUSED": "it is paused: restart it in its settings",
    "STOPPED": "it is stopped: restart it in its settings",
    "DELETING": "it is being deleted: choose another name",
    "NO_APP_FILE": "it has no app.py: run the same command again",
}
_MAX_LINES, _MAX_TAIL = 20_000, 300


class SpaceFailed(UserError):
    """The Space is there, but does not run (exit code 1)."""


def wait_until_running(
    api: HfApi, repository: str, commit: str, report: Report, *, timeout: float, interval: float = 3.0
) -> SpaceRuntime:
    """Return the runtime once a commit runs, or sleeps until its first visitor; `report` each stage.

    `timeout` and `interval` are in seconds. Raises SpaceFailed with the log's end, and the Hub's errors.
    """
    began, shown = time.monotonic(), ""
    while True:
        if (runtime := _runtime(api, repository, is_last=time.monotonic() - began > timeout)) is None:
            time.sleep(interval)
            continue
        stage, waited = str(getattr(runtime.stage, "value", runtime.stage)), time.monotonic() - began
        sha = runtime.raw.get("sha")
        is_stale = sha not in (None, commit) and waited < STALE_SECONDS
        if stage not in _UNDER_WAY and not is_stale:
            if stage in ("RUNNING", "SLEEPING"):
                return runtime
            raise SpaceFailed(f"the Space {repository} does not run: {_why(api, repository, stage, runtime)}")
        if stage != shown:
            report(f"the Space {_MEANING.get(stage, 'waits for its build')} ({stage})")
            shown = stage
        if waited > timeout:
            raise SpaceFailed(
                f"the Space {repository} is still in stage {stage} after {timeout:.0f} seconds: look at its "
                f"logs, {api.endpoint}/spaces/{repository}?logs=build"
            )
        time.sleep(interval)


def _runtime(api: HfApi, repository: str, *, is_last: bool) -> SpaceRuntime | None:
    """Return the runtime; None where the Hub or the way to it has a fault, unless this is the last try."""
    from huggingface_hub import errors

    try:
        return api.get_space_runtime(repository)
    except errors.HTTPError as error:  # type: ignore[attr-defined] # httpx's
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 503
        if is_last or (status < 500 and status != 429):
            raise
        return None


def _why(api: HfApi, repository: str, stage: str, runtime: SpaceRuntime) -> str:
    """Return one line about a stage in which a Space does not run."""
    if stage in _FIXES:
        return _FIXES[stage]
    message = " ".join(str(runtime.raw.get("errorMessage") or "").split())
    tail = log_tail(api, repository, build=stage == "BUILD_ERROR")
    said = "; ".join(filter(None, [message[:_MAX_TAIL], f"its log ends with: {tail}" if tail else ""]))
    return f"{stage}: {said or f'see {api.endpoint}/spaces/{repository}'}"


def log_tail(api: HfApi, repository: str, *, build: bool) -> str:
    """Return the last three lines of a Space's log as one, "" where it cannot be read."""
    try:
        lines = [
            " ".join(line.split())
            for line in islice(api.fetch_space_logs(repository, build=build), _MAX_LINES)
        ]
    except Exception:  # noqa: BLE001 - it only adds to a message
        return ""
    return " | ".join([line for line in lines if line][-3:])[-_MAX_TAIL:]
