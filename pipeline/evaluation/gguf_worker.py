"""The worker process that reads and scores a GGUF: an untrusted file may abort llama.cpp.

gguf_files.py runs it as `python -m pipeline.evaluation.gguf_worker`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from common.dataclass_json import from_json
from common.worker_process import Message, send, serve
from engine.errors import EngineError
from engine.llama.model import Adapter, Model
from ggufio.errors import GgufError
from pipeline.certificate.checks.tokenizer import is_same_token
from pipeline.certificate.scoring.metrics import log_p_of, log_softmax
from pipeline.certificate.scoring.samples import greedy_answers
from pipeline.certificate.scoring.teacher_forcing import Sample, logits_of, open_adapter, open_model
from pipeline.errors import InputError
from pipeline.evaluation.gguf_files import ScoreJob, VocabularyJob


def work(request: Message) -> Message:
    """Run a VocabularyJob or a ScoreJob."""
    try:
        if "vocabulary" in request:
            return _compare(from_json(VocabularyJob, request))
        return _score(from_json(ScoreJob, request))
    except (EngineError, GgufError) as error:
        raise InputError(str(error)) from error


def _compare(job: VocabularyJob) -> Message:
    """Return whether the GGUF `adds_bos`, how many tokens `differ`, and the `first` one's id and spelling."""
    with closing(Model(job.model, vocab_only=True)) as model:
        vocab = model.vocab
        moved = [
            number
            for number, spelling in enumerate(job.vocabulary)
            if number >= vocab.size or not is_same_token(number, spelling, vocab)
        ]
        found: Message = {"adds_bos": vocab.add_bos, "differ": len(moved)}
        if moved:
            first = moved[0]
            found["first"] = [first, vocab.text(first) if first < vocab.size else None]
        return found


def _score(job: ScoreJob) -> Message:
    with open_model(job.model, job.choice) as model, open_adapter(model, job.lora) as adapter:
        nats = []
        for done, value in enumerate(_nats(model, job, adapter), 1):
            nats.append(value if math.isfinite(value) else None)
            send({"done": done})
        answers = []
        for answer in greedy_answers(model, job.prompts, job.max_tokens, job.threads, adapter=adapter):
            answers.append(answer.tokens)
            send({"done": len(nats) + len(answers)})
    return {"nats": nats, "answers": answers}


def _nats(model: Model, job: ScoreJob, adapter: Adapter | None) -> Iterator[float]:
    """Yield each row's summed cross entropy over its trained places, from one pass over its text."""
    samples = [
        Sample(number, "", ids[: places[0]], ids[places[0] : places[-1] + 1], own=False)
        for number, (ids, places) in enumerate(job.rows)
    ]
    for (ids, places), logits in zip(job.rows, logits_of(model, samples, job.threads, adapter), strict=True):
        rows = [place - places[0] for place in places]
        yield -float(log_p_of(log_softmax(logits[np.array(rows)]), [ids[place] for place in places]).sum())


if __name__ == "__main__":
    serve(work)
