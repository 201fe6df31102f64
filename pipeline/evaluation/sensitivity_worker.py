"""The worker process that measures how much errors of the weights matter.

sensitivity.py runs it as `python -m pipeline.evaluation.sensitivity_worker`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.dataclass_json import from_json, to_json
from common.sequences import sample_evenly
from common.text import first_line
from common.worker_process import Message, send, serve
from engine.errors import EngineError
from engine.llama.model import Model
from ggufio.errors import GgufError
from ggufio.ggml_reader import GgufTensors
from pipeline.certificate.scoring.base_model import negated_factors
from pipeline.certificate.scoring.reference import Reference, make_reference
from pipeline.certificate.scoring.scorer import choose_backend
from pipeline.certificate.subject import Subject, text_config
from pipeline.certificate.tensors.expected import all_updates
from pipeline.certificate.tensors.layout import TensorMap
from pipeline.data.chat_template import set_template
from pipeline.data.dataset import IGNORED, encode_chat, read_chats
from pipeline.errors import InputError
from pipeline.evaluation.sensitivity import MeasuredSensitivity, SensitivityJob
from pipeline.merge.model_class import missing_class
from pipeline.quantize.tensor_costs import Sensitivity
from pipeline.sources.model_source import Source
from pipeline.tokenizers.own_code import NeedsCode, load_without_code

Columns = dict[str, NDArray[np.float64]]
_MAX_TEXTS = 128
_MAX_TOKENS = 8192  # of all texts together, prompts included
_MAX_LENGTH = 1024  # tokens of a text


def measure(request: Message) -> Message:
    """Run a SensitivityJob; return a MeasuredSensitivity."""
    job = from_json(SensitivityJob, request)
    subject = job.subject
    try:
        reference = make_reference(subject, choose_backend(subject))
        with closing(Model(subject.full, vocab_only=True)) as model:
            architecture = model.metadata("general.architecture")
    except EngineError as error:
        raise InputError(str(error)) from error
    layout = TensorMap(architecture, text_config(subject.reference))
    tensors = GgufTensors(subject.full)
    change = _change(reference)
    down, up = _factors(subject, layout, tensors) if change else ({}, {})
    # Complete without the columns, if their measurement ends this process for want of memory.
    Sensitivity({}, down, up, change).save(job.target)
    columns, tokens, reason = _columns_or_reason(job, reference, layout, tensors)
    Sensitivity(columns, down, up, change).save(job.target)
    return to_json(MeasuredSensitivity(tokens, len(columns), change, reason))


def _columns_or_reason(
    job: SensitivityJob, reference: Reference, layout: TensorMap, tensors: GgufTensors
) -> tuple[Columns, int, str]:
    """Return the columns' information, the tokens that it was measured on, and why there is none, if so."""
    base = job.subject.base
    if base is None or (model_type := missing_class(base)) is not None:
        known = f" ({model_type})" if base else ""
        return {}, 0, f"transformers has no model class for the base{known}"
    try:
        return *_columns(job, base, reference, layout, tensors), ""
    except (InputError, NeedsCode) as error:
        return {}, 0, str(error)
    except Exception as error:  # noqa: BLE001 - a model's own code may fail in any way, and this is optional
        return {}, 0, f"transformers does not run the model: {first_line(error)}"


def _change(reference: Reference) -> float:
    """Return the mean KL divergence of the base on the tuned model's answers; 0 without a base."""
    if reference.base is None:
        return 0.0
    own = [score.kl for score, one in zip(reference.base, reference.samples, strict=True) if one.own]
    return float(np.concatenate(own).mean())


def _factors(subject: Subject, layout: TensorMap, tensors: GgufTensors) -> tuple[dict[str, Any], ...]:
    """Return the factors of plain LoRA updates; nothing for other adapters and unknown layouts."""
    updates = all_updates(subject)
    found = negated_factors(updates, layout, tensors) if updates and layout.is_known else None
    pairs = found or {}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def _columns(
    job: SensitivityJob, base: Source, reference: Reference, layout: TensorMap, tensors: GgufTensors
) -> tuple[Columns, int]:
    """Return the columns' information by the GGUF's names, and the number of tokens predicted."""
    import torch

    from pipeline.evaluation.fisher import Text, column_information
    from pipeline.evaluation.models import tuned_checkpoint

    torch.set_num_threads(job.subject.threads)
    checkpoint = tuned_checkpoint(base, job.subject.adapters, job.subject.rounding)
    texts = [Text(ids, places) for ids, places in _within([*_own(reference), *_given(job)])]
    linear, embedding = column_information(checkpoint.load(), texts, lambda done: send({"done": done}))
    found: Columns = {}
    for module, value in (*linear.items(), *embedding.items()):
        location = layout.location(f"{module}.weight")
        name = location.tensor if location is not None and location.expert is None else ""
        if name == "output.weight" and name not in tensors.tensors:
            name = "token_embd.weight"  # tied: both uses count
        if name in tensors.tensors and tensors.tensors[name].width == len(value):
            found[name] = found[name] + value if name in found else value
    return found, sum(len(text.places) for text in texts)


Answer = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids, and the places before each token of the answer."""


def _own(reference: Reference) -> Iterator[Answer]:
    for sample in reference.samples:
        ids = (*sample.prompt, *sample.answer[:-1])
        yield ids, tuple(range(len(sample.prompt) - 1, len(ids)))


def _given(job: SensitivityJob) -> Iterator[Answer]:
    """Yield the chats of the user that have answers, tokenized as for training."""
    if job.chats is None:
        return
    from transformers import AutoTokenizer

    tokenizer = load_without_code(AutoTokenizer.from_pretrained, job.subject.reference)
    set_template(tokenizer)
    for chat in sample_evenly(read_chats(job.chats, require_answer=False), _MAX_TEXTS):
        try:
            example = encode_chat(tokenizer, chat, max_length=_MAX_LENGTH)
        except InputError:
            continue  # a chat without an answer, or one that the template refuses
        places = tuple(n - 1 for n, label in enumerate(example.labels) if n and label != IGNORED)
        if places:
            yield tuple(example.input_ids), places


def _within(answers: Sequence[Answer]) -> list[Answer]:
    """Return some of the answers, evenly, at most _MAX_TEXTS, of _MAX_TOKENS together, and at least one."""
    answers = [one for one in answers if len(one[0]) <= _MAX_LENGTH] or answers[:1]
    count = min(len(answers), _MAX_TEXTS)
    while count > 1 and sum(len(ids) for ids, _ in sample_evenly(answers, count)) > _MAX_TOKENS:
        count -= 1
    return sample_evenly(answers, count)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything needed is in the subject's folders
    serve(measure, preload=("torch",), refusals=(InputError, GgufError))
