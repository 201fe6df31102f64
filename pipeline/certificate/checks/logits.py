"""Check 3 with `--verify full`: compare the full-precision GGUF's logits with those of transformers and PEFT.

The only check that runs both models: it finds what no comparison of tensors can, such as a norm or a RoPE
that the runtime computes differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from common.certificate import Finding
from common.system import free_memory
from ggufio.ggml_reader import UNQUANTIZED, GgufTensors
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.scoring.metrics import TokenScores, log_softmax, token_scores
from pipeline.certificate.scoring.scorer import choose_backend
from pipeline.certificate.scoring.teacher_forcing import Logits, Sample, logits_of, open_model
from pipeline.certificate.subject import Subject
from pipeline.errors import InputError
from pipeline.merge.model_class import missing_class
from pipeline.progress import Advance, StepProgress
from pipeline.sources.model_source import tensors_of
from pipeline.sources.ternary import ternary_format
from pipeline.tokenizers.reference import load_tokenizer_reference

_MAX_CHATS = 12
_ANSWER_TOKENS = 12  # that transformers generates
_MAX_PROMPT_TOKENS = 512
_MAX_KL = 1e-2
_MIN_AGREEMENT = 0.97
_RULE = (
    "A mean KL divergence of at most 0.01 nats, and the same likeliest token in 97 % of places: f16 and "
    "other kernels cost SmolLM2 five millionths of a nat, and a model that is computed otherwise far more."
)
_FIRST_WORDS = (
    "The first words of nine in ten answers are the same, rounded down, and of one at least: a tie in the "
    "logits is enough for one of a few to differ."
)
Generation = tuple[list[int], int, Logits]
"""Ids of a prompt and its answer, the prompt's length, and the logits after each id: [ids, vocabulary]."""


def check_logits(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare logits on prompts and the answers that transformers generates; only with `--verify full`."""
    if subject.depth != "full" or subject.base is None:
        return
    if (reason := _skip_reason(subject)) is not None:
        yield Finding("logits", "skipped", reason)
        return
    reference = load_tokenizer_reference(subject.tokenizer_reference, subject.reference, subject.evaluation)
    prompts = [chat.ids for chat in reference.chats if chat.ids and len(chat.ids) <= _MAX_PROMPT_TOKENS][
        :_MAX_CHATS
    ]
    if not prompts:
        yield Finding("logits", "skipped", "The model has no chat template, so there is no prompt to try.")
        return
    with progress.step("Run the transformers model", len(prompts)) as advance:
        yield from compare_logits(subject, _count(run_transformers(subject, prompts), advance))


def _count(generations: Iterable[Generation], advance: Advance) -> Iterator[Generation]:
    """Pass the generations on, and advance the progress after each."""
    for done, generation in enumerate(generations, 1):
        yield generation
        advance(done)


def _skip_reason(subject: Subject) -> str | None:
    """Return why the transformers model cannot be run here; None when it can."""
    assert subject.base is not None
    if any(tensor.type not in UNQUANTIZED for tensor in GgufTensors(subject.full).tensors.values()):
        return "The GGUF is quantized, so its logits differ; how much is lost is told against its full one."
    if (model_type := missing_class(subject.base)) is not None:
        return (
            f"transformers has no class for {model_type} to compare with, and code that a model brings is "
            "never run here: only the weights were compared."
        )
    # 4 bytes a weight in float32, and those of the adapter
    needed = 6 * sum(info.elements for info in tensors_of(subject.base).values())
    free = free_memory()
    if free is not None and needed > free:
        return (
            f"The transformers model needs {needed / 2**30:.1f} GiB in float32, and {free / 2**30:.1f} GiB "
            "are free: nothing was compared."
        )
    return None


def tuned_model(subject: Subject) -> Any:
    """Load the base in float32, as QLoRA saw it, and merge its adapters by PEFT. Raises InputError."""
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    assert subject.base is not None
    torch.set_num_threads(subject.threads)
    if (stored := ternary_format(subject.base)) is not None:
        from pipeline.merge.checkpoint import Checkpoint
        from pipeline.merge.ternary import TernaryTensors, load_ternary, quantize_activations

        tensors = TernaryTensors(subject.base, Checkpoint(subject.base.weight_files()), stored)
        model = load_ternary(subject.base, tensors)
        quantize_activations(model, tensors.modules)
        return model.eval()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            subject.base.folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        if subject.rounding is not None:
            from pipeline.merge.nf4 import round_model

            round_model(model, subject.base, subject.rounding)
        for adapter in subject.adapters:
            tuned = PeftModel.from_pretrained(model, str(adapter.folder))
            for module in tuned.modules():
                if isinstance(module, BaseTunerLayer) and adapter.weight != 1.0:
                    module.scale_layer(adapter.weight)
            model = tuned.merge_and_unload()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"transformers cannot run the tuned model ({str(error).splitlines()[0]})") from None
    return model.eval()


def run_transformers(subject: Subject, prompts: Sequence[list[int]]) -> Iterator[Generation]:
    """Yield the first tokens of the tuned model's greedy answer to each prompt, with their logits."""
    import torch

    model = tuned_model(subject)
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            whole = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=_ANSWER_TOKENS, do_sample=False
            )
            yield whole[0].tolist(), len(prompt), model(input_ids=whole).logits[0].float().numpy()


def compare_logits(subject: Subject, generations: Iterable[Generation]) -> Iterator[Finding]:
    """Yield the findings on the GGUF's logits, compared with those of transformers.

    Consumes one generation at a time: the logits of 500 tokens take 300 MB with a vocabulary of 150,000.
    """
    scores: list[TokenScores] = []
    same_words = 0
    with open_model(subject.full, choose_backend(subject)) as model:
        for ids, length, logits in generations:
            text = Sample(0, "", tuple(ids[:1]), tuple(ids[1:]), own=True)
            [actual] = logits_of(model, [text], subject.threads)
            expected = logits[: len(ids) - 1, : model.vocab.size]
            score = token_scores(log_softmax(expected), log_softmax(actual[:, : expected.shape[-1]]), ids[1:])
            scores.append(score)
            same_words += bool(score.agree[length - 1 :].all())
    yield _judge_logits(scores)
    answers = len(scores)
    figures = {"answers": answers, "same": same_words, "tokens": _ANSWER_TOKENS}
    summary = (
        f"{same_words} of {answers} answers begin with the same {_ANSWER_TOKENS} tokens as transformers'."
    )
    if same_words >= min_same_answers(answers):
        yield Finding("behaviour.first_words", "pass", summary, figures, _FIRST_WORDS)
    else:
        yield Finding(
            "behaviour.first_words", "fail", summary, figures, _FIRST_WORDS, find_cause("first_words")
        )


def min_same_answers(answers: int) -> int:
    """Return how many answers must begin with the same tokens: nine in ten, rounded down, at least 1."""
    return max(1, answers * 9 // 10)


def _judge_logits(scores: Sequence[TokenScores]) -> Finding:
    kl = np.concatenate([score.kl for score in scores])
    mean, agreement = float(kl.mean()), float(np.concatenate([score.agree for score in scores]).mean())
    figures = {
        "tokens": len(kl),
        "mean_kl": mean,
        "kl_p99": float(np.quantile(kl, 0.99)),
        "top1_agreement": agreement,
    }
    summary = (
        f"On {len(kl)} tokens the GGUF is {mean:.1e} nats from transformers and finds the same next "
        f"token in {agreement:.1%} of places."
    )
    if mean <= _MAX_KL and agreement >= _MIN_AGREEMENT:
        return Finding("logits", "pass", summary, figures, _RULE)
    return Finding("logits", "fail", summary, figures, _RULE, find_cause("logits"))
