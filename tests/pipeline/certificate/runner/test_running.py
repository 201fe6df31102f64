"""Checks that run the models: transformers' logits beside the GGUF's, and the look of answers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.llama.model import Model
from pipeline.certificate.checks import logits as logits_check
from pipeline.certificate.checks.behaviour import judge_answers, runs_in_circles
from pipeline.certificate.checks.logits import Asked, ask_transformers, compare_logits, least_same
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.subject import Subject
from pipeline.progress import NoProgress
from pipeline.tokenizers.reference import load_tokenizer_reference
from tests.pipeline.certificate.rewrite import rewrite


@pytest.fixture(scope="module")
def asked(real: Subject) -> list[Asked]:
    reference = load_tokenizer_reference(real.tokenizer_reference, real.reference, real.evaluation)
    return list(ask_transformers(real, [chat.ids for chat in reference.chats if chat.ids]))


def test_a_sound_file_gives_transformers_logits_and_first_words(real: Subject, asked: list[Asked]) -> None:
    logits, words = compare_logits(real, asked)
    assert (logits.name, logits.status) == ("logits", "pass")
    assert logits.figures["mean_kl"] < 1e-4
    assert (words.name, words.status) == ("behaviour.first_words", "pass")


def test_a_wrong_rope_shows_in_the_logits_and_first_words(
    real: Subject, asked: list[Asked], tmp_path: Path
) -> None:
    broken = rewrite(real.full, tmp_path / "broken.gguf", {"llama.rope.freq_base": 10.0})
    logits, words = compare_logits(replace(real, full=broken), asked)
    assert (logits.status, logits.cause) == ("fail", find_cause("logits"))
    assert (words.status, words.cause) == ("fail", find_cause("first_words"))


def test_a_model_that_free_memory_does_not_hold_is_not_run(
    real: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits_check, "free_memory", lambda: 2**27)
    [finding] = logits_check.check_logits(replace(real, depth="full"), NoProgress())
    assert finding.status == "skipped" and "0.1 GiB are free" in finding.summary


def test_nine_in_ten_answers_must_begin_the_same_and_of_few_all_but_one() -> None:
    assert [least_same(count) for count in (1, 2, 4, 10, 12)] == [1, 1, 3, 9, 10]


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
    ("text", "circles"),
    [("- one\n- two\n- three\n- four\n- five\n", False), ("the cat and the dog " * 4, True), ("", False)],
)
def test_circles(text: str, circles: bool) -> None:
    assert runs_in_circles(text) == circles
