"""The tuned model with the negated adapter gives the logits of the converted base."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from engine.llama.model import Adapter, Model
from engine.probe.cpu_backend import load_cpu_backend
from pipeline.certificate.scoring.base_model import negated_adapter
from pipeline.certificate.scoring.metrics import log_softmax, token_scores
from pipeline.certificate.scoring.teacher_forcing import Sample, logits_of
from pipeline.certificate.subject import Subject
from tests.pipeline.certificate.conftest import TINY, base_alone

TEXT = Sample(0, "", (5,), tuple(range(6, 40)), own=True)


def log_p(model: Model, adapter: Adapter | None = None) -> np.ndarray:
    [logits] = logits_of(model, [TEXT], 2, adapter)
    return log_softmax(logits)


@pytest.mark.parametrize("name", ["smollm2", *TINY])
def test_what_is_left_is_the_base(sound: dict[str, Subject], name: str) -> None:
    subject = sound[name]
    load_cpu_backend(subject.full)
    with closing(Model(subject.full)) as model, closing(Model(base_alone(subject))) as base:
        adapter = negated_adapter(subject, model)
        if "use_dora" in TINY.get(name, {}):
            assert adapter is None  # DoRA's change is not a product of two low-rank matrices
            return
        assert adapter is not None
        with closing(adapter):
            wanted, tuned, left = log_p(base), log_p(model), log_p(model, adapter)
    changed = token_scores(wanted, tuned, TEXT.answer).kl.mean()
    rounding = 1e-6  # of the tuned file's numbers, in nats
    assert token_scores(wanted, left, TEXT.answer).kl.mean() < max(rounding, 1e-3 * changed) < changed
