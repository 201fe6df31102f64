"""The teacher's log-probabilities are those of the model's own forward pass, for every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from pipeline.data.dataset import IGNORED, Example
from pipeline.evaluation.token_losses import collate, trained_logits
from pipeline.training.distillation import Teacher, make_lessons
from tests.pipeline.conftest import Bases
from tests.pipeline.tiny import ARCHITECTURES

pytestmark = pytest.mark.slow

EXAMPLES = [
    Example([1, 5, 9, 12, 7, 2], [IGNORED, IGNORED, IGNORED, 12, 7, 2], truncated=False),
    Example([1, 8, 3, 2], [IGNORED, IGNORED, 3, 2], truncated=False),
    Example([1, 30, 31, 32, 33, 34, 35, 2], [IGNORED] * 4 + [33, 34, 35, 2], truncated=False),
]


@pytest.fixture(params=[*ARCHITECTURES, "granite", "cohere"])
def model(request: pytest.FixtureRequest, bases: Bases) -> Any:
    # scales and soft caps after the head are what a teacher must not forget
    extra = {"granite": {"logits_scaling": 3.0}, "cohere": {"logit_scale": 0.25}}.get(request.param, {})
    base = AutoModelForCausalLM.from_pretrained(bases(request.param, **extra), dtype=torch.float32)
    return get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))


def test_teacher_says_what_the_model_said(model: Any) -> None:
    lessons = make_lessons(model, EXAMPLES, 2, lambda _: None)
    assert [len(lesson.states) for lesson in lessons] == [3, 2, 4]
    head = model.get_output_embeddings().weight
    teacher = Teacher(model, head.detach().clone())
    with torch.no_grad():
        wanted, _, _ = trained_logits(model, model, collate(EXAMPLES))
        head.add_(1.0)  # the student's head is rounded by the time that the teacher is asked
        found = torch.cat([teacher.log_probs(lesson.states) for lesson in lessons])
    torch.testing.assert_close(found, torch.log_softmax(wanted, -1), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.get_output_embeddings().weight, head)
    assert model(input_ids=torch.tensor([[1, 5]])).logits.shape[1] == 2, "the model computes again as before"
