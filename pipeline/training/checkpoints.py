"""The checkpoints of a training beside its output: whole ones only, and what they were made from.

A kill may leave a half-written checkpoint. One is whole when its seal is there, which is written last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.files import exclusive, fsync_path, load_json, store_json, write_atomically
from pipeline.errors import InputError

_SEAL = "complete.json"
_OPTIONS = "options.json"
_BEFORE = "before.json"
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
        self._out = out
        self.folder = out.with_name(f".{out.name}.training")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings away. A failure leaves the work folder only if it has a checkpoint.

        Raises InputError where another process trains into the same folder, or nothing can be written.
        """
        busy = (
            f"another training is writing to {str(self._out)!r}: wait for it to end, or choose another --out"
        )
        with exclusive(self.folder.with_suffix(".lock"), busy):
            try:
                yield
            except Exception:
                if self.last_step is None:
                    self.remove()
                raise

    @property
    def last_step(self) -> int | None:
        """The step of the last whole checkpoint; None without one."""
        newest = self._newest()
        return None if newest is None else int(newest.name.rpartition("-")[2])

    def precision(self, device: str) -> str | None:
        """Return the precision of an interrupted training on that device, which measuring may not repeat."""
        known = load_json(self.folder / _OPTIONS)
        same = isinstance(known, dict) and known.get("device") == device and self.last_step is not None
        return known["precision"] if same else None

    def open(self, options: Mapping[str, Any], *, resume: bool, main: bool = True) -> RunState:
        """Return the state to go on from; a new one where there is none.

        The `main` process removes what is half written. Raises InputError where the checkpoints are of
        another training.
        """
        newest = self._newest()
        if not main:
            return RunState(**load_json(newest / _SEAL)) if resume and newest else RunState()
        known = load_json(self.folder / _OPTIONS)
        if not resume or known is None or newest is None:
            self.remove()
            try:
                store_json(self.folder / _OPTIONS, dict(options))
            except OSError as error:
                self.remove()
                raise self._unwritable(error) from None
            return RunState()
        self._require_same(known, json.loads(json.dumps(options)), newest)
        state = RunState(**load_json(newest / _SEAL))
        self._keep(state)
        self._cut_metrics(state.step)
        return state

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
        """Remove the work folder; what a kill leaves of it is not gone on from."""
        (self.folder / _OPTIONS).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest(self) -> Path | None:
        whole = [seal.parent for seal in self.folder.glob(f"checkpoint-*/{_SEAL}") if load_json(seal)]
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def _keep(self, state: RunState) -> None:
        wanted = {self.path(step) for step in (state.step, state.best_step) if step is not None}
        for path in self.folder.glob("checkpoint-*"):
            if path not in wanted:
                (path / _SEAL).unlink(missing_ok=True)  # first, as a kill may leave the rest
                shutil.rmtree(path, ignore_errors=True)

    def _cut_metrics(self, step: int) -> None:
        """Drop what was measured after the checkpoint, as it will be measured again."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_atomically(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.folder} cannot be written ({error.strerror}): choose another place with --out"
        )

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
