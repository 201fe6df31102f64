"""The checks of a certificate, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.certificate.behaviour_check import check_behaviour
from pipeline.certificate.finding import Finding
from pipeline.certificate.logits_check import check_logits
from pipeline.certificate.quality_check import check_quality
from pipeline.certificate.settings_check import check_settings
from pipeline.certificate.subject import Subject
from pipeline.certificate.template_check import check_template
from pipeline.certificate.tokenizer_check import check_tokenizer
from pipeline.certificate.warm_up import prepare_quality
from pipeline.certificate.weights_check import check_weights
from pipeline.progress import StepProgress

Check = Callable[[Subject, StepProgress], Iterator[Finding]]
"""Yields what it finds; raises InputError for what the user has to mend."""

CHECKS: dict[str, Check] = {
    "tokenizer": check_tokenizer,
    "template": check_template,
    "settings": check_settings,
    "weights": check_weights,
    "logits": check_logits,
    "quality": check_quality,
    "behaviour": check_behaviour,
    "prepare": prepare_quality,  # finds nothing, and leaves what `quality` needs
}
"""By a name that people see when a check dies on the way. What is slow to import, a check imports itself."""
