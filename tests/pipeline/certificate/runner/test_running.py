"""Checks that run the models: transformers' logits against the GGUF's, and the form of answers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.llama.model import Model
from pipeline.certificate.checks import logits as logits_check
from pipeline.certificate.checks.behaviour import has_loop, judge_answers
from pipeline.certificate.checks.logits import Generation, compare_logits, min_same_answers, run_transformers
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.subject import Subject
from pipeline.progress import NoProgress
from pipeline.tokenizers.reference import load_tokenizer_reference
from tests.pipeline.certificate.rewrite import rewrite


@pytest.fixture(scope="module")
def generations(real: Subject) -> list[Generation]:
    reference = load_tokenizer_reference(real.tokenizer_reference, real.reference, real.evaluation)
    return list(run_transformers(real, [chat.ids for chat in reference.chats if chat.ids]))


def test_a_sound_file_gives_transformers_logits_and_first_words(
    real: Subject, generations: list[Generation]
) -> None:
    logits, words = compare_logits(real, generations)
    assert (logits.name, logits.status) == ("logits", "pass")
    assert logits.figures["mean_kl"] < 1e-4
    assert (words.name, words.status) == ("behaviour.first_words", "pass")


def test_a_wrong_rope_shows_in_the_logits_and_first_words(
    real: Subject, generations: list[Generation], tmp_path: Path
) -> None:
    broken = rewrite(real.full, tmp_path / "broken.gguf", {"llama.rope.freq_base": 10.0})
    logits, words = compare_logits(replace(real, full=broken), generations)
    assert (logits.status, logits.cause) == ("fail", find_cause("logits"))
    assert (words.status, words.cause) == ("fail", find_cause("first_words"))


def test_a_model_that_free_memory_does_not_hold_is_not_run(
    real: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits_check, "free_memory", lambda: 2**27)
    [finding] = logits_check.check_logits(replace(real, depth="full"), NoProgress())
    assert finding.status == "skipped" and "0.1 GiB are free" in finding.summary


def test_nine_in_ten_answers_must_begin_the_same_and_of_few_all_but_one() -> None:
    assert [min_same_answers(count) for count in (1, 2, 4, 10, 12)] == [1, 1, 3, 9, 10]


def test_answers_are_judged(real: Subject) -> None:
    with closing(Model(real.full, vocab_only=True)) as model:

        def judged(*texts: str) -> tuple[str, str]:
            answers = [model.vocab.tokenize(text, special=True) for text in texts]
            finding = judge_answers("bob.gguf", model, answers)
            return finding.status, finding.cause

        good, endless = "Aye.<|im_end|>", "And then, and then, we sailed"
        assert judged(good, endless) == ("pass", "")
        assert judged(endless, endless) == ("fail", find_cause("no_end"))
        assert judged(good, "<|user|> hello<|im_end|>") == ("fail", find_cause("leak"))
        assert judged(good, "We sailed the seven seas. " * 5) == ("warn", find_cause("loops"))


@pytest.mark.parametrize(
    ("text", "loops"),
    [("- one\n- two\n- three\n- four\n- five\n", False), ("the cat and the dog " * 4, True), ("", False)],
)
def test_circles(text: str, loops: bool) -> None:
    assert has_loop(text) == loops
