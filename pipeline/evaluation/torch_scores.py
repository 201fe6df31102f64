"""Greedy answers of a model of transformers, and the tokens that end them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from pipeline.data.chat_template import end_of_turn
from pipeline.data.dataset import Example
from pipeline.progress import Advance


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
    own, was_training = model.generation_config, model.training
    model.generation_config = settings
    model.eval()
    answers = []
    for done, prompt in enumerate(prompts, 1):
        ids = torch.tensor([list(prompt)], device=model.device)
        mask = torch.ones_like(ids)
        whole = model.generate(ids, attention_mask=mask, generation_config=settings, use_cache=True)
        answers.append(whole[0, len(prompt) :].tolist())
        advance(done)
    model.generation_config = own
    model.train(was_training)
    return answers


def stop_tokens(tokenizer: Any, model: Any, examples: Sequence[Example]) -> set[int]:
    """Return the tokens that end an answer: the model's, the tokenizer's, and those that end trained ones."""
    known = getattr(model.config.get_text_config(), "eos_token_id", None)
    named = known if isinstance(known, list) else [known]
    special = set(tokenizer.all_special_ids)
    trained = {ids[-1] for ids in (example.input_ids for example in examples) if ids[-1] in special}
    found = {*named, tokenizer.eos_token_id, *end_of_turn(tokenizer), *trained}
    return {token for token in found if token is not None}
