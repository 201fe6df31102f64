"""An answer's tokens with their probabilities, from the scores of the engine."""

from __future__ import annotations

import math

import pytest

from engine.types import TextScores
from ui.generation.token_probabilities import Choice, tokens_of


def scores(*tokens: str, best: dict[str, float] | None = None) -> TextScores:
    log_probs: list[float | None] = [-1.0] * (len(tokens) + 1)
    return TextScores([*tokens, "end"], log_probs, [best or {} for _ in log_probs])


def test_the_tokens_together_are_the_answer() -> None:
    found = tokens_of(scores("Hel", "lo", " you\n", best={" all": -0.5, "lo": -2.0}), "Hello you\n")
    assert [token.text for token in found] == ["Hel", "lo", " you\n"]
    assert all(token.whole for token in found)
    assert found[1].probability == pytest.approx(math.exp(-1))
    assert found[1].choices == (Choice(" all", math.exp(-0.5)), Choice("lo", math.exp(-2.0)))


def test_a_character_of_several_tokens_is_not_gone_on_from() -> None:
    found = tokens_of(
        scores("a", "bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "b", best={"bytes:\\xf0": -1.0}), "a😀b"
    )
    assert [token.text for token in found] == ["a", "", "😀", "b"]
    assert [token.whole for token in found] == [True, True, False, True]
    assert found[0].choices == (Choice("f0", math.exp(-1.0), part=True),)


def test_the_space_that_a_tokenizer_puts_before_a_text_is_not_shown() -> None:
    found = tokens_of(scores(" The", " sea", best={" A": -1.0}), "The sea")
    assert [token.text for token in found] == ["The", " sea"]
    assert [choice.text for token in found for choice in token.choices] == ["A", " A"]
    assert tokens_of(scores(" The"), " The")[0].text == " The"
