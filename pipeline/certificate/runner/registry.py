"""The checks of a certificate, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from common.certificate import Finding
from pipeline.certificate.checks.behaviour import check_behaviour
from pipeline.certificate.checks.logits import check_logits
from pipeline.certificate.checks.quality import check_quality
from pipeline.certificate.checks.settings import check_settings
from pipeline.certificate.checks.template import check_template
from pipeline.certificate.checks.tokenizer import check_tokenizer
from pipeline.certificate.checks.weights import check_weights
from pipeline.certificate.scoring.file_scores import prepare_quality
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress

Check = Callable[[Subject, StepProgress], Iterator[Finding]]
"""Yields findings; raises InputError for wrong input."""


CHECKS: dict[str, Check] = {
    "tokenizer": check_tokenizer,
    "template": check_template,
    "settings": check_settings,
    "weights": check_weights,
    "logits": check_logits,
    "quality": check_quality,
    "behaviour": check_behaviour,
    "prepare": prepare_quality,  # yields nothing, and caches what `quality` needs
}
"""The checks by name, which a user sees when a check crashes. Slow imports are made inside the checks."""
