"""Losses and greedy answers of a model of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pipeline.data.chat_template import end_of_turn
from pipeline.data.dataset import IGNORED, Example
from pipeline.evaluation.statistics import RowLoss
from pipeline.progress import Advance


@torch.inference_mode()
def row_losses(
    model: Any, examples: Sequence[Example], advance: Advance = lambda done, note="": None
) -> list[RowLoss]:
    """Return the loss of each example's trained tokens, in nats. The model is in evaluation mode.

    Each is computed alone, so that no result depends on its neighbours.
    """
    losses = []
    for done, example in enumerate(examples, 1):
        losses.append(RowLoss(_nats(model, example), example.answer_tokens, example.category))
        advance(done)
    return losses


def _nats(model: Any, example: Example) -> float:
    """Return the summed cross entropy of the trained tokens; the head computes no other token's logits."""
    places = [place for place, label in enumerate(example.labels[1:]) if label != IGNORED]

    def select(_head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (inputs[0][:, places],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        logits = model(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0]
    finally:
        hook.remove()
    wanted = torch.tensor([example.labels[place + 1] for place in places])
    return float(cross_entropy(logits.double(), wanted, reduction="sum"))


@torch.inference_mode()
def greedy_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stops: Iterable[int],
    max_tokens: int,
    advance: Advance = lambda done, note="": None,
) -> list[list[int]]:
    """Return the likeliest tokens after each prompt, with the one of `stops` that ends them if it comes."""
    from transformers import GenerationConfig

    # Not the model's own configuration, which may sample or punish repetitions.
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_tokens, eos_token_id=sorted(set(stops)) or None, pad_token_id=0
    )
    model.generation_config = settings
    answers = []
    for done, prompt in enumerate(prompts, 1):
        ids = torch.tensor([list(prompt)])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        answers.append(whole[0, len(prompt) :].tolist())
        advance(done)
    return answers


def stop_tokens(tokenizer: Any, model: Any, examples: Sequence[Example]) -> set[int]:
    """Return the tokens that end an answer: the model's, the tokenizer's, and those that end trained ones."""
    known = getattr(model.config.get_text_config(), "eos_token_id", None)
    named = known if isinstance(known, list) else [known]
    special = set(tokenizer.all_special_ids)
    trained = {ids[-1] for ids in (example.input_ids for example in examples) if ids[-1] in special}
    found = {*named, tokenizer.eos_token_id, *end_of_turn(tokenizer), *trained}
    return {token for token in found if token is not None}
