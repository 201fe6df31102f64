"""The Fisher information of a model's weights on its own predictions, summed over the rows of each matrix.

For y drawn from the model's own distribution p, the expected square of the gradient of log p(y) is the
second order of the KL divergence that an error of the weights causes. A layer's gradient is g x^T for each
token, with its input x and the gradient g of its output: the sum over the rows is |g|^2 x_j^2. No gradient of
a weight is ever computed, so that the memory is that of the weights and of one text's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

_SEED = 20240
Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Text:
    """Token ids, and the places whose next token is predicted."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


def column_information(
    model: Any, texts: Sequence[Text], advance: Callable[[int], None]
) -> tuple[Columns, Columns]:
    """Return the information of each column by module name, in nats a token: of linear layers, of embeddings.

    `advance` is called with the number of texts that are done.
    """
    generator = torch.Generator().manual_seed(_SEED)
    recorder = _Recorder(model)
    model.requires_grad_(False)
    try:
        for done, text in enumerate(texts, 1):
            ids = torch.tensor([text.ids])
            logits = model(input_ids=ids, use_cache=False).logits[0, list(text.places)]
            log_p = torch.log_softmax(logits.float(), dim=-1)
            drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
            torch.autograd.backward(log_p.gather(1, drawn).sum())
            advance(done)
    finally:
        recorder.close()
    tokens = sum(len(text.places) for text in texts)
    return recorder.means(recorder.linear, tokens), recorder.means(recorder.embedding, tokens)


class _Recorder:
    """Sums the squares while the model runs backwards."""

    def __init__(self, model: Any) -> None:
        self.linear: dict[str, torch.Tensor] = {}
        self.embedding: dict[str, torch.Tensor] = {}
        self._hooks = []
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | Conv1D):
                hook: Callable[..., torch.Tensor | None] = self._linear_hook(name)
            elif isinstance(module, torch.nn.Embedding):
                hook = self._embedding_hook(name, float(getattr(module, "embed_scale", 1.0)))
            else:
                continue
            self._hooks.append(module.register_forward_hook(hook))

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def means(self, sums: dict[str, torch.Tensor], tokens: int) -> Columns:
        """Return the sums for each token."""
        return {name: (value / tokens).numpy() for name, value in sums.items()}

    def _linear_hook(self, name: str) -> Callable[..., None]:
        def record(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0].detach()

            def add(gradient: torch.Tensor) -> None:
                squares = x.reshape(-1, x.shape[-1]).float().square()
                norms = gradient.reshape(-1, gradient.shape[-1]).float().square().sum(dim=1)
                _add(self.linear, name, norms @ squares)

            if output.requires_grad:
                output.register_hook(add)  # type: ignore[no-untyped-call] # torch's own

        return record

    def _embedding_hook(self, name: str, scale: float) -> Callable[..., torch.Tensor]:
        def record(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            def add(gradient: torch.Tensor) -> None:
                squares = (scale * gradient).reshape(-1, gradient.shape[-1]).float().square()
                _add(self.embedding, name, squares.sum(dim=0))

            output = output.detach().requires_grad_()
            output.register_hook(add)  # type: ignore[no-untyped-call] # torch's own
            return output

        return record


def _add(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    sums[name] = sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double()
