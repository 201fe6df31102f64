"""Check 6: greedy answers of each file end by themselves, leak no special token, and do not loop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.certificate import Finding, Status
from common.text import pluralize
from engine.core.detokenizer import IncrementalDetokenizer
from engine.llama.model import Model
from engine.probe.cpu_backend import probe_model
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.scoring.samples import PROMPTS, greedy_answers
from pipeline.certificate.scoring.scorer import choose_backend
from pipeline.certificate.scoring.teacher_forcing import open_adapter, open_model
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress

_NUM_PROMPTS = 6
_MAX_TOKENS = 256
_RULE = (
    "At least one of six answers ends by itself within 256 tokens, or the end token is lost; no answer holds "
    "a special token's spelling. Circles only warn: small models run in some when they are greedy."
)
_LOOP = re.compile(r"(.{12,160}?)\1{3,}", re.DOTALL)  # a piece that is repeated four times in a row
_SPECIAL_TOKEN = re.compile(r"<\|[a-z_0-9]{2,24}\|>|</?s>|\[/?INST\]|<(start|end)_of_turn>")


def check_behaviour(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Generate a few answers with each file; only with `--verify full`, since that is slow."""
    if subject.depth != "full":
        return
    files = {subject.full_name: subject.full, **subject.files}
    with progress.step("Ask each file", len(files)) as advance:
        for done, (name, path) in enumerate(files.items(), 1):
            yield _check_file(name, path, subject)
            advance(done)


def _check_file(name: str, path: Path, subject: Subject) -> Finding:
    facts, threads = probe_model(path, threads=subject.threads).facts, subject.threads
    choice, lora = choose_backend(subject), subject.loras.get(name)
    with open_model(path, choice) as model, open_adapter(model, lora) as adapter:
        prompts = facts.prompt_builder(model.vocab)
        questions = [prompts.tokens([{"role": "user", "content": text}]) for text in PROMPTS[:_NUM_PROMPTS]]
        answers = greedy_answers(model, questions, _MAX_TOKENS, threads, adapter=adapter)
        return judge_answers(name, model, [answer.tokens for answer in answers])


def judge_answers(name: str, model: Model, answers: Sequence[Sequence[int]]) -> Finding:
    """Return the finding on a file's answers, given as token ids."""
    texts = [_text(model, answer) for answer in answers]
    ended = sum(bool(answer) and model.vocab.is_eog(answer[-1]) for answer in answers)
    leaks = [found[0] for text in texts if (found := _SPECIAL_TOKEN.search(text))]
    loops = [text for text in texts if has_loop(text)]
    figures = {"answers": len(answers), "ended": ended, "leaks": leaks, "circles": len(loops)}
    status: Status = "pass"
    of_all, cause = f"of {pluralize(len(answers), 'answer')}", ""
    ends = pluralize(ended, f"{of_all} ends by itself", f"{of_all} end by themselves")
    summary = f"{ends}; none leaks or runs in circles."
    if loops:
        status, cause = "warn", find_cause("loops")
        summary = f"{pluralize(len(loops), f'{of_all} runs', f'{of_all} run')} in circles."
    if leaks:
        status, cause = "fail", find_cause("leak")
        hold = pluralize(len(leaks), f"{of_all} holds", f"{of_all} hold")
        summary = f"{hold} a special token's spelling, {leaks[0]!r} first."
    if not ended:
        status, cause = "fail", find_cause("no_end")
        summary = f"None {of_all} ends within {_MAX_TOKENS} tokens."
    return Finding("behaviour", status, summary, figures, _RULE, cause, name)


def has_loop(text: str) -> bool:
    """Return whether a piece of the text is repeated four times in a row."""
    return _LOOP.search(text) is not None


def _text(model: Model, answer: Sequence[int]) -> str:
    stream = IncrementalDetokenizer()
    return "".join(stream.push(model.vocab.piece(token)) for token in answer) + stream.finish()
