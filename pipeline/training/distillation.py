"""Distillation of a tuned model into itself, through the rounded base (rounded_base.py).

The teacher is the model as it was tuned, without rounding; the student the same adapter on the rounded base.
The loss is the Kullback-Leibler divergence of the student's next token from the teacher's, over the whole
vocabulary, at the positions before a trained token. The teacher reads each chat once: its hidden states there
are kept, from which the output matrix makes its logits again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import TrainerCallback
from transformers.modeling_outputs import BaseModelOutputWithPast

from pipeline.data.dataset import Example
from pipeline.evaluation.statistics import RowLoss
from pipeline.evaluation.token_losses import (
    batches_by_length,
    collate,
    mean_loss,
    on_device,
    row_losses,
    trained_logits,
)
from pipeline.training.config import FinetuneConfig
from pipeline.training.rounded_base import RoundedBase
from pipeline.training.trainer import FinetuneTrainer


@dataclass(frozen=True)
class Lesson:
    """A chat with the teacher's last hidden states before its trained tokens, [trained tokens, hidden]."""

    example: Example
    states: torch.Tensor

    @property
    def input_ids(self) -> Sequence[int]:
        """The chat's tokens."""
        return self.example.input_ids


@torch.no_grad()
def make_lessons(
    model: Any, examples: Sequence[Example], batch_size: int, advance: Callable[[int], None]
) -> list[Lesson]:
    """Run the chats through the model as it is now, the teacher, and keep its hidden states."""
    model.eval()
    found: dict[int, Lesson] = {}
    for places in batches_by_length(examples, batch_size):
        batch = on_device(collate([examples[place] for place in places]), model)
        with _captured_states(model) as captured:
            _, _, row = trained_logits(model, model, batch)
        states = captured[0][0]
        for number, place in enumerate(places):
            found[place] = Lesson(examples[place], states[row == number].float().cpu().clone())
        advance(len(found))
    return [found[place] for place in range(len(examples))]


@contextmanager
def _captured_states(model: Any) -> Iterator[list[torch.Tensor]]:
    captured: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, inputs, __: captured.append(inputs[0]))
    try:
        yield captured
    finally:
        hook.remove()


class Teacher:
    """Makes the teacher's log-probabilities from its hidden states, with the model's own code."""

    def __init__(self, model: Any, head: torch.Tensor) -> None:
        """Take the model, whose head is rounded by now, and its weight before, [vocabulary, hidden]."""
        self._model = getattr(model, "get_base_model", lambda: model)()
        self._head = head

    @torch.no_grad()
    def log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [tokens, vocabulary] of hidden states [tokens, hidden]."""
        model, head = self._model, self._model.get_output_embeddings()
        body, weight = model.base_model, head.weight.data
        output = BaseModelOutputWithPast(last_hidden_state=states.unsqueeze(0))
        body.forward = lambda *_, **__: output  # what follows the body, and scales or caps logits, stays
        head.weight.data = self._head
        try:
            ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
            logits = model(input_ids=ids, use_cache=False).logits[0]
        finally:
            del body.forward
            head.weight.data = weight
        return log_softmax(logits.float(), dim=-1)


def collate_lessons(lessons: Sequence[Lesson], pad_id: int) -> dict[str, torch.Tensor]:
    """Return the batch of the chats, with the teacher's states in the order of the trained tokens."""
    batch = collate([lesson.example for lesson in lessons], pad_id)
    return {**batch, "states": torch.cat([lesson.states for lesson in lessons])}


class RoundedTrainer(FinetuneTrainer):
    """FinetuneTrainer on a rounded base: on labels, with the held-out loss of the file that ships."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: Any,
        rows: Sequence[Any],
        held: Sequence[Any],
        *,
        base: RoundedBase,
        every: int,
        work: Path,
        pad_id: int,
    ) -> None:
        """Take the options, and after how many steps the base is rounded again."""
        super().__init__(config, model, rows, held, work=work, pad_id=pad_id)
        self._base = base
        self.add_callback(RefreshCallback(base, every))

    def held_out_losses(self) -> list[RowLoss]:
        """Return the loss on each held-out chat, in nats, rounded as the file would be."""
        self._base.refresh()
        return row_losses(self.model, self._held, self._config.batch_size)

    def _held_out_loss(self) -> float:
        return mean_loss(self.held_out_losses())


class DistillationTrainer(RoundedTrainer):
    """RoundedTrainer with the divergence from the teacher in place of the labels' loss."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: Any,
        rows: Sequence[Lesson],
        held: Sequence[Lesson],
        *,
        teacher: Teacher,
        base: RoundedBase,
        every: int,
        work: Path,
        pad_id: int,
    ) -> None:
        self._lessons = sorted(held, key=lambda one: len(one.input_ids))
        super().__init__(config, model, rows, self._lessons, base=base, every=every, work=work, pad_id=pad_id)
        self._teacher = teacher
        self.data_collator = lambda batch: collate_lessons(batch, pad_id)

    def token_losses(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the divergence at each trained token, in nats."""
        logits, _, _ = trained_logits(model, self.accelerator.unwrap_model(model), inputs)
        wanted = self._teacher.log_probs(inputs["states"])
        mine = log_softmax(logits.float(), dim=-1)
        return kl_div(mine, wanted, reduction="none", log_target=True).sum(dim=-1)

    @torch.no_grad()
    def held_out_losses(self) -> list[RowLoss]:
        """Return the divergence on each held-out chat, in nats, rounded as the file would be."""
        self._base.refresh()
        self.model.eval()
        found: list[RowLoss] = []
        size = self._config.batch_size
        for start in range(0, len(self._lessons), size):
            part = self._lessons[start : start + size]
            each = self.token_losses(self.model, on_device(collate_lessons(part, 0), self.model))
            counts = [len(lesson.states) for lesson in part]
            sums = [float(one.double().sum()) for one in torch.split(each.cpu(), counts)]
            found += [RowLoss(nats, count) for nats, count in zip(sums, counts, strict=True)]
        self.model.train()
        return found


class RefreshCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped to mypy
    """Rounds the base again each `every` steps."""

    def __init__(self, base: RoundedBase, every: int) -> None:
        self._base = base
        self._every = every

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refresh the base before the step, when it is time."""
        if state.global_step % self._every == 0:
            self._base.refresh()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The step has changed the adapter."""
        self._base.mark_stale()
