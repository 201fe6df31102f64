"""Check 6: greedy answers of each file end by themselves, leak no special token, and run in no circles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.text import pluralize
from engine.core.detokenizer import IncrementalDetokenizer
from engine.llama.model import Model
from engine.probe.cpu_backend import probe_model
from pipeline.certificate.finding import Finding, Status
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.scoring.samples import PROMPTS, greedy_answers
from pipeline.certificate.scoring.teacher_forcing import open_model
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress

_PROMPTS = 6
_TOKENS = 256
_RULE = (
    "At least one of six answers ends by itself within 256 tokens, or the end token is lost; no answer holds "
    "a special token's spelling. Circles only warn: small models run in some when they are greedy."
)
_CIRCLE = re.compile(r"(.{12,160}?)\1{3,}", re.DOTALL)  # a piece that comes four times in a row
_SPELLING = re.compile(r"<\|[a-z_0-9]{2,24}\|>|</?s>|\[/?INST\]|<(start|end)_of_turn>")


def check_behaviour(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Ask each file a few questions; only with `--verify full`, since answers take their time."""
    if subject.depth != "full":
        return
    files = {subject.full_name: subject.full, **subject.files}
    with progress.step("Ask each file", len(files)) as advance:
        for done, (name, path) in enumerate(files.items(), 1):
            yield _judge(name, path, subject.threads)
            advance(done)


def _judge(name: str, path: Path, threads: int) -> Finding:
    probe = probe_model(path, threads=threads)
    with open_model(path, probe.choice) as model:
        prompts = probe.facts.prompt_builder(model.vocab)
        asked = [prompts.tokens([{"role": "user", "content": text}]) for text in PROMPTS[:_PROMPTS]]
        answers = [answer.tokens for answer in greedy_answers(model, asked, _TOKENS, threads)]
        return judge_answers(name, model, answers)


def judge_answers(name: str, model: Model, answers: Sequence[Sequence[int]]) -> Finding:
    """The finding on a file's answers, as token ids."""
    texts = [_text(model, answer) for answer in answers]
    ended = sum(bool(answer) and model.vocab.is_eog(answer[-1]) for answer in answers)
    leaks = [found[0] for text in texts if (found := _SPELLING.search(text))]
    circles = [text for text in texts if runs_in_circles(text)]
    figures = {"answers": len(answers), "ended": ended, "leaks": leaks, "circles": len(circles)}
    status: Status = "pass"
    of_all, why = f"of {pluralize(len(answers), 'answer')}", ""
    ends = pluralize(ended, f"{of_all} ends by itself", f"{of_all} end by themselves")
    words = f"{ends}; none leaks or runs in circles."
    if circles:
        status, why = "warn", find_cause("loops")
        words = f"{pluralize(len(circles), f'{of_all} runs', f'{of_all} run')} in circles."
    if leaks:
        status, why = "fail", find_cause("leak")
        hold = pluralize(len(leaks), f"{of_all} holds", f"{of_all} hold")
        words = f"{hold} a special token's spelling, {leaks[0]!r} first."
    if not ended:
        status, why = "fail", find_cause("no_end")
        words = f"None {of_all} ends within {_TOKENS} tokens."
    return Finding("behaviour", status, words, figures, _RULE, why, name)


def runs_in_circles(text: str) -> bool:
    """Whether a piece of the text comes four times in a row."""
    return _CIRCLE.search(text) is not None


def _text(model: Model, answer: Sequence[int]) -> str:
    stream = IncrementalDetokenizer()
    return "".join(stream.push(model.vocab.piece(token)) for token in answer) + stream.finish()
