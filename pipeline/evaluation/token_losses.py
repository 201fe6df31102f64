"""The loss on trained tokens only: the output head computes no logits for the others.

Logits are a training's largest tensor (tokens x vocabulary), and most tokens of a chat are not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pipeline.data.dataset import IGNORED, Example
from pipeline.evaluation.statistics import RowLoss


class TrainedPositions:
    """While it is open, the model's head sees only the hidden states before a trained token.

    `rows` are flat positions in the batch. The head is the module that transformers names the output
    embeddings; what follows it (scales, soft caps) works on each token alone.
    """

    def __init__(self, model: Any, rows: torch.Tensor) -> None:
        self._rows = rows
        self._hook = model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(self, _head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[self._rows].unsqueeze(0),)

    def __enter__(self) -> None:
        """Start to select."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Compute all logits again."""
        self._hook.remove()


def token_losses(
    forward: Callable[..., Any], model: Any, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross entropies of a batch's trained tokens in nats (float32), and the row of each.

    `forward` is the model or a wrapper around it, such as DistributedDataParallel's.
    """
    logits, labels, row = trained_logits(forward, model, batch)
    return cross_entropy(logits.float(), labels, reduction="none"), row


def trained_logits(
    forward: Callable[..., Any], model: Any, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the logits before each trained token of a batch, [tokens, vocabulary], its label and its row."""
    labels = batch["labels"][:, 1:]
    trained = labels != IGNORED
    row, column = trained.nonzero(as_tuple=True)
    inputs = {name: value for name, value in batch.items() if name in ("input_ids", "position_ids")}
    with TrainedPositions(model, row * batch["labels"].shape[1] + column):
        logits = forward(**inputs, use_cache=False).logits[0]
    return logits, labels[trained], row


@torch.no_grad()
def row_losses(
    model: Any,
    examples: Sequence[Example],
    batch_size: int,
    advance: Callable[[int], None] | None = None,
) -> list[RowLoss]:
    """Return the summed cross entropy of each example's trained tokens in nats, without dropout.

    Examples of similar length share a batch; the results are in the order of `examples`.
    """
    was_training = model.training
    model.eval()
    losses: dict[int, RowLoss] = {}
    for places in batches_by_length(examples, batch_size):
        batch = on_device(collate([examples[place] for place in places]), model)
        each, row = token_losses(model, model, batch)
        sums = torch.zeros(len(places), dtype=torch.float64).index_add_(0, row.cpu(), each.double().cpu())
        for place, nats in zip(places, sums.tolist(), strict=True):
            losses[place] = RowLoss(nats, examples[place].answer_tokens, examples[place].category)
        if advance:
            advance(len(losses))
    model.train(was_training)
    return [losses[place] for place in range(len(examples))]


def batches_by_length(examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
    """Yield the places of the examples of each batch: those of similar length share one."""
    order = sorted(range(len(examples)), key=lambda place: len(examples[place].input_ids))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def on_device(batch: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Return the batch on the model's device."""
    return {name: value.to(model.device) for name, value in batch.items()}


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """Return the loss a token over all rows, in nats."""
    return sum(row.nats for row in losses) / sum(row.tokens for row in losses)


def collate(examples: Sequence[Example], pad_id: int = 0) -> dict[str, torch.Tensor]:
    """Return input_ids and labels [rows, longest row] of a batch, padded on the right, and lengths [rows].

    Nothing masks the padding: no token sees what is to its right, and its labels are not trained on. Without
    a mask the attention takes its fast path.
    """
    return {
        "input_ids": padded([example.input_ids for example in examples], pad_id),
        "labels": padded([example.labels for example in examples], IGNORED),
        "lengths": torch.tensor([len(example.input_ids) for example in examples]),
    }


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return the rows as one tensor [rows, longest row], with `value` on the right of shorter ones."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
