"""Score samples with a loaded GGUF, measure its speed, and cache the scores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import load_json, store_json
from engine.core.types import BatchRow
from engine.llama.model import Adapter, Model
from engine.llama.runner import Runner
from engine.probe.cpu_backend import CpuChoice, probe_model
from pipeline.certificate.scoring.metrics import TokenScores, log_p_of, log_softmax, token_scores
from pipeline.certificate.scoring.teacher_forcing import Sample, logits_of, open_adapter, open_model
from pipeline.certificate.subject import Subject

_PROMPT_TOKENS = 64
_CONTEXT = 128


@dataclass(frozen=True)
class Speed:
    """Tokens a second for one conversation; `memory` is the process's growth in bytes, 0 when unknown.

    The field names are keys of certificate.json.
    """

    prefill: float
    decode: float
    memory: int = 0


@dataclass(frozen=True)
class SpeedTest:
    """The number of prompt evaluations and of single-token decodes in a measurement."""

    prefills: int
    decodes: int


SPEED_TESTS = {"fast": SpeedTest(1, 8), "full": SpeedTest(3, 32)}


def measure_speed(model: Model, threads: int, test: SpeedTest, adapter: Adapter | None = None) -> Speed:
    """Evaluate a prompt of 64 tokens, then decode tokens one by one, after a warm-up.

    The fastest run of each counts: other programs can only slow it down.
    """
    runner = Runner(model, slots=1, context=_CONTEXT, batch=_PROMPT_TOKENS, threads=threads, adapter=adapter)
    tokens = [(100 + 37 * n) % model.vocab.size for n in range(_PROMPT_TOKENS)]
    try:
        _time_decode(runner, BatchRow(0, 0, tokens[:1], 1))  # reads the weights into memory
        prefills = [_time_decode(runner, BatchRow(0, 0, tokens, 1)) for _ in range(test.prefills)]
        decodes = [
            _time_decode(runner, BatchRow(0, _PROMPT_TOKENS + n, tokens[:1], 1)) for n in range(test.decodes)
        ]
    finally:
        runner.close()
    return Speed(_PROMPT_TOKENS / min(prefills), 1 / min(decodes))


def _time_decode(runner: Runner, row: BatchRow) -> float:
    """Return the seconds that decoding the row takes."""
    runner.prepare(0, row.start)
    began = time.perf_counter()
    runner.decode([row])
    return time.perf_counter() - began


def resident_bytes() -> int:
    """Return this process's resident memory, mapped files included; 0 without /proc."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 if sizes else 0


LogProbs = NDArray[np.float16]
"""The tuned model's log-probabilities on its own answers: [tokens, vocabulary]."""


@dataclass(frozen=True)
class ModelScorer:
    """A loaded model with its LoRA adapter, if it has one.

    `memory_before` is the process's memory before loading it, in bytes.
    """

    model: Model
    memory_before: int
    adapter: Adapter | None = None

    def score(
        self,
        samples: Sequence[Sample],
        log_probs: LogProbs,
        subject: Subject,
        adapter: Adapter | None = None,
    ) -> tuple[TokenScores, ...]:
        """Score every sample; `log_probs` has the rows of the tuned model's own answers, in their order.

        Another `adapter` takes the place of its own.
        """
        logits = logits_of(self.model, samples, subject.threads, adapter or self.adapter)
        return tuple(_scores(samples, logits, log_probs))

    def speed(self, subject: Subject) -> Speed:
        """Measure the speed, and the memory by which the process has grown."""
        speed = measure_speed(self.model, subject.threads, SPEED_TESTS[subject.depth], self.adapter)
        return replace(speed, memory=max(0, resident_bytes() - self.memory_before))


def _scores(
    samples: Sequence[Sample], logits: Iterator[NDArray[np.float32]], log_probs: LogProbs
) -> Iterator[TokenScores]:
    start = 0
    for sample, rows in zip(samples, logits, strict=True):
        actual = log_softmax(rows)
        if sample.own:
            yield token_scores(log_probs[start : start + len(actual)], actual, sample.answer)
            start += len(actual)
        else:
            yield TokenScores(np.zeros(0), np.zeros(0, np.bool_), log_p_of(actual, sample.answer))


@contextmanager
def open_scorer(path: Path, choice: CpuChoice, lora: Path | None = None) -> Iterator[ModelScorer]:
    """Load the file, and a GGUF LoRA on it, until the context ends. Raises EngineError where it fails."""
    before = resident_bytes()
    with open_model(path, choice) as model, open_adapter(model, lora) as adapter:
        yield ModelScorer(model, before, adapter)


def choose_backend(subject: Subject) -> CpuChoice:
    """Return the CPU backend for all files of the subject, since a process can load only one.

    The smallest file is tried in a child process: backends crash with quantized types, not with f16.
    """
    smallest = min((*subject.files.values(), subject.full), key=lambda path: path.stat().st_size)
    return probe_model(smallest, threads=subject.threads).choice


@cache
def has_template(path: Path) -> bool:
    """Return whether the GGUF has a chat template; cached, as it loads the vocabulary. Raises ModelError."""
    with closing(Model(path, vocab_only=True)) as model:
        return bool(model.metadata("tokenizer.chat_template"))


def save_scores(path: Path, key: str, content: dict[str, Any]) -> None:
    """Cache the content at `path` for `load_scores` with the same key. Raises OSError."""
    store_json(path, {"key": key, **content})


def load_scores(path: Path, key: str) -> dict[str, Any] | None:
    """Return the content cached at `path`; None when it is missing, damaged, or has another key."""
    content: dict[str, Any] | None = load_json(path)
    return content if content is not None and content["key"] == key else None


def cache_key(*parts: object) -> str:
    """Return a key of values with a `repr`, and of files by name, size and time.

    Hashes are not needed, as a scratch folder belongs to one export.
    """
    return repr([_file_state(part) if isinstance(part, Path) else part for part in parts])


def _file_state(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def scores_to_json(scores: Sequence[TokenScores]) -> list[list[list[float]]]:
    """Return the scores as lists for JSON."""
    return [[score.kl.tolist(), score.agree.tolist(), score.log_p.tolist()] for score in scores]


def scores_from_json(content: list[list[list[float]]]) -> tuple[TokenScores, ...]:
    """Read the lists of `scores_to_json`."""
    return tuple(
        TokenScores(np.array(kl, np.float64), np.array(agree, np.bool_), np.array(log_p, np.float64))
        for kl, agree, log_p in content
    )
