"""The loss with logits of trained tokens only is the whole model's, packed or not, for each architecture."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.data.dataset import IGNORED, Example
from pipeline.errors import InputError
from pipeline.evaluation.token_losses import TrainedPositions, collate, row_losses, token_losses
from pipeline.training.batches import collate_packed, pack
from pipeline.training.trainer import reject_mixed_packing
from tests.pipeline.conftest import Bases
from tests.pipeline.tiny import ARCHITECTURES, MIXTURES


def examples(count: int, seed: int = 1, tokens: int = 300) -> list[Example]:
    dice = random.Random(seed)
    made = []
    for _ in range(count):
        ids = [dice.randrange(tokens) for _ in range(dice.randrange(6, 30))]
        start = dice.randrange(1, len(ids) - 2)
        made.append(Example(ids, [IGNORED] * start + ids[start:], truncated=False))
    return made


def whole_losses(model: Any, example: Example) -> float:
    """The sum of transformers' own loss over an example's trained tokens."""
    ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss) * example.answer_tokens


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MIXTURES, "gpt2"])
def test_the_loss_is_transformers_own(bases: Bases, architecture: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases(architecture), dtype=torch.float32).eval()
    rows = examples(5)
    wanted = [whole_losses(model, row) for row in rows]
    found = row_losses(model, rows, batch_size=2)
    assert [row.nats for row in found] == pytest.approx(wanted, rel=1e-4)
    assert [row.tokens for row in found] == [row.answer_tokens for row in rows]
    (packed,) = pack(rows, 1000)
    with torch.no_grad():
        losses, _ = token_losses(model, model, collate_packed([packed]))
    assert float(losses.sum()) == pytest.approx(sum(wanted), rel=1e-4)
    reject_mixed_packing(model, rows)


def test_the_head_sees_the_trained_positions_alone(bases: Bases) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases("llama"), dtype=torch.float32).eval()
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        whole = model(input_ids=ids).logits.reshape(12, -1)
        with TrainedPositions(model, torch.tensor([1, 4, 9])):
            chosen = model(input_ids=ids).logits
        again = model(input_ids=ids).logits
    assert chosen.shape == (1, 3, whole.shape[1])
    torch.testing.assert_close(chosen[0], whole[[1, 4, 9]])
    assert again.shape == (2, 6, whole.shape[1])


def test_a_base_that_mixes_packed_chats_is_refused(bases: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases("llama"), dtype=torch.float32)

    def without_positions(*args: Any) -> dict[str, torch.Tensor]:
        return {name: value for name, value in collate_packed(*args).items() if name != "position_ids"}

    monkeypatch.setattr("pipeline.training.trainer.collate_packed", without_positions)
    with pytest.raises(InputError, match="--packing does not work with this base"):
        reject_mixed_packing(model, examples(4))


def test_padding_changes_nothing(bases: Bases) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases("qwen3"), dtype=torch.float32).eval()
    rows = examples(3)
    with torch.no_grad():
        one, _ = token_losses(model, model, collate(rows, pad_id=0))
        other, _ = token_losses(model, model, collate(rows, pad_id=17))
    torch.testing.assert_close(one, other)
