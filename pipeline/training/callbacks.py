"""What happens between the steps of a training: progress, metrics, checkpoints, early stopping."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from pipeline.progress import Advance
from pipeline.training.checkpoints import Checkpoints, RunState
from pipeline.training.config import FinetuneConfig
from pipeline.training.trainer import FinetuneTrainer

_METRICS = {
    "loss": "loss",
    "eval_loss": "held_out_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
}
"""transformers' names of the values in metrics.jsonl, and ours."""

_SAVE_SECONDS = 60.0
_SAVE_SHARE = 20
"""Without --save-every, checkpoints take at most a twentieth of the time."""


class RunCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped to mypy
    """Keeps the RunState, writes metrics.jsonl and checkpoints, and ends a training that gains no more."""

    def __init__(
        self,
        config: FinetuneConfig,
        trainer: FinetuneTrainer,
        checkpoints: Checkpoints,
        state: RunState,
        advance: Advance,
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._advance = advance
        self._earlier = state.seconds
        self._started = self._saved = time.monotonic()
        self._save_after = _SAVE_SECONDS
        trainer.tokens, trainer.trained_tokens = state.tokens, state.trained_tokens
        self._tokens_at_start = state.tokens
        self.state = state

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step, and save when it is time."""
        run = self.state
        run.step = state.global_step
        run.seconds = round(self._earlier + time.monotonic() - self._started, 1)
        run.tokens, run.trained_tokens = self._trainer.tokens, self._trainer.trained_tokens
        last = state.global_step >= state.max_steps
        if self._config.save_every is None and not last:
            control.should_save = time.monotonic() - self._saved > self._save_after
        if self._config.save_every == 0:
            control.should_save = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Write the values of a step or of an evaluation, and show them."""
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        values = {new: _short(logs[old]) for old, new in _METRICS.items() if old in logs}
        run = self.state
        self._checkpoints.add_metrics(
            {"step": state.global_step, **values, "tokens": run.tokens, "seconds": run.seconds}
        )
        if "loss" in logs:
            self._advance(state.global_step, f"loss {logs['loss']:.3f}, {self._speed():.0f} tokens/s")

    def _speed(self) -> float:
        return (self.state.tokens - self._tokens_at_start) / (time.monotonic() - self._started)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Keep the best weights, and stop when they are not beaten any more."""
        run, loss = self.state, metrics["eval_loss"]
        if self._config.early_stopping is None:
            return
        if run.best_loss is None or loss < run.best_loss:
            run.best_loss, run.best_step, run.without_gain = loss, state.global_step, 0
            control.should_save = True
        else:
            run.without_gain += 1
            if run.without_gain >= self._config.early_stopping:  # else it may stop for another reason
                control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seal the checkpoint."""
        self._trainer.accelerator.wait_for_everyone()  # each process writes its dice
        if state.is_world_process_zero:
            self._checkpoints.seal(self.state)
        self._saved = now = time.monotonic()
        # reckoned from the last step's end, so that it counts the writing alone
        took = now - self._started - (self.state.seconds - self._earlier)
        self._save_after = max(_SAVE_SECONDS, _SAVE_SHARE * took)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
