"""The checkpoints of a training beside its output: whole ones only, and what they were made from.

A kill may leave a half-written checkpoint. One is whole when its seal is there, which is written last.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from common.files import fsync_path, load_json, store_json
from pipeline.errors import InputError

_SEAL = "complete.json"
_OPTIONS = "options.json"
_BEFORE = "before.json"
_LOCK = "lock"
METRICS = "metrics.jsonl"
"""The measured values of each step, in the work folder and in the adapter."""


@dataclass
class RunState:
    """What a training knows beside its weights.

    `best_loss` is held out; `without_gain` counts the evaluations since.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    trained_tokens: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    without_gain: int = 0


class Checkpoints:
    """The work folder of a training, `.NAME.training` beside its output."""

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(f".{out.name}.training")
        self._lock: IO[str] | None = None

    def open(self, options: Mapping[str, Any], *, resume: bool, main: bool = True) -> RunState:
        """Return the state to go on from; a new one where there is none.

        The `main` process removes what is half written, and locks the folder until `release`. Raises
        InputError where the checkpoints are of another training, or another process trains there.
        """
        newest = self._newest()
        if not main:
            return RunState(**load_json(newest / _SEAL)) if resume and newest else RunState()
        try:
            self._take_lock()
            known = load_json(self.folder / _OPTIONS)
            if not resume or known is None or newest is None:
                self._clear()
                store_json(self.folder / _OPTIONS, dict(options))
                return RunState()
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written ({error.strerror}): choose another place with --out"
            ) from None
        self._require_same(known, json.loads(json.dumps(options)), newest)
        state = RunState(**load_json(newest / _SEAL))
        self._keep(state)
        self._cut_metrics(state.step)
        return state

    def release(self) -> None:
        """Let other processes train there."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def discard_begun(self) -> None:
        """Remove the folder that this process has begun, unless a training can go on from it."""
        if self._lock is not None and not self._newest():
            self.remove()

    def precision(self) -> str | None:
        """Return the precision of the training to go on from; None where there is none."""
        known = load_json(self.folder / _OPTIONS)
        return known.get("precision") if isinstance(known, dict) and self._newest() else None

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step, as transformers names it."""
        return self.folder / f"checkpoint-{step}"

    def seal(self, state: RunState) -> None:
        """Mark the checkpoint of `state.step` as whole, and remove those that are not needed any more."""
        folder = self.path(state.step)
        fsync_path(folder)
        store_json(folder / _SEAL, asdict(state))
        self._keep(state)

    def before(self) -> Any:
        """Return what was measured before the training; None when it was not."""
        return load_json(self.folder / _BEFORE)

    def store_before(self, measured: object) -> None:
        """Keep what was measured before the training."""
        store_json(self.folder / _BEFORE, measured)

    def add_metrics(self, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl."""
        path = self.folder / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [value for line in lines if (value := _parsed(line)) is not None]

    def remove(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InputError(
                f"another training is writing to {self.folder}: wait for it to end, or choose another --out"
            ) from None
        except OSError:  # a network file system without locks
            pass
        self._lock = lock

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def _newest(self) -> Path | None:
        whole = [seal.parent for seal in self.folder.glob(f"checkpoint-*/{_SEAL}") if load_json(seal)]
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def _keep(self, state: RunState) -> None:
        wanted = {self.path(step) for step in (state.step, state.best_step) if step is not None}
        for path in self.folder.glob("checkpoint-*"):
            if path not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def _cut_metrics(self, step: int) -> None:
        """Drop what was measured after the checkpoint, as it will be measured again."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        (self.folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")

    def _require_same(self, known: Mapping[str, Any], options: Mapping[str, Any], newest: Path) -> None:
        changed = [key for key in sorted({*known, *options}) if known.get(key) != options.get(key)]
        if changed:
            was = ", ".join(
                f"{key} {_shown(known.get(key))}, now {_shown(options.get(key))}" for key in changed[:3]
            )
            raise InputError(
                f"{self.folder} has {newest.name} of a training with other options ({was}): give those to go "
                "on, or --no-resume to begin anew"
            )


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:  # a kill cut it
        return None
    return value if isinstance(value, dict) and "step" in value else None


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
