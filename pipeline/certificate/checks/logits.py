"""Check 3, full: the transformers model, base and adapters through PEFT, beside the full-precision GGUF.

The only check that runs both models: it sees what no comparison of tensors can, such as a norm or a rope that
the runtime computes otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from common.system import free_memory
from engine.probe.cpu_backend import probe_model
from ggufio.file import UNQUANTIZED, GgufTensors
from pipeline.certificate.finding import Finding
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.scoring.metrics import TokenScores, log_softmax, token_scores
from pipeline.certificate.scoring.teacher_forcing import Logits, Sample, logits_of, open_model
from pipeline.certificate.subject import Subject
from pipeline.errors import InputError
from pipeline.progress import Advance, StepProgress
from pipeline.sources.model_source import tensors_of
from pipeline.tokenizers.reference import load_tokenizer_reference

_CHATS = 12
_WORDS = 12  # tokens that transformers answers with
_LONGEST = 512
_MOST_KL = 1e-2
_LEAST_AGREEMENT = 0.97
_RULE = (
    "A mean KL divergence of at most 0.01 nats, and the same likeliest token in 97 % of places: f16 and "
    "other kernels cost SmolLM2 five millionths of a nat, and a model that is computed otherwise far more."
)
_FIRST = (
    "The first words of nine in ten answers are the same, rounded down, and of one at least: a tie in the "
    "logits is enough for one of a few to differ."
)
Asked = tuple[list[int], int, Logits]
"""A prompt's ids with an answer's first words, the prompt's length, and the logits behind each id."""


def check_logits(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare logits on prompts and on transformers' own first words; only with `--verify full`."""
    if subject.depth != "full" or subject.base is None:
        return
    if (reason := _refusal(subject)) is not None:
        yield Finding("logits", "skipped", reason)
        return
    reference = load_tokenizer_reference(subject.tokenizer_reference, subject.reference, subject.evaluation)
    prompts = [chat.ids for chat in reference.chats if chat.ids and len(chat.ids) <= _LONGEST][:_CHATS]
    if not prompts:
        yield Finding("logits", "skipped", "The model has no chat template, so there is no prompt to try.")
        return
    with progress.step("Run the transformers model", len(prompts)) as advance:
        asked = _told(ask_transformers(subject, prompts), advance)
        yield from compare_logits(subject, asked)


def _told(asked: Iterable[Asked], advance: Advance) -> Iterator[Asked]:
    for done, one in enumerate(asked, 1):
        yield one
        advance(done)


def _refusal(subject: Subject) -> str | None:
    """Why the transformers model cannot be run here, None where it can."""
    assert subject.base is not None
    if any(tensor.type not in UNQUANTIZED for tensor in GgufTensors(subject.full).tensors.values()):
        return "The GGUF is quantized, so its logits differ; how much is lost is told against its full one."
    if subject.qlora_base:
        return "The base in 4 bits was not run through transformers: its logits need a GPU's kernels."
    # float32, and the adapter's
    needed = 6 * sum(info.elements for info in tensors_of(subject.base).values())
    free = free_memory()
    if free is not None and needed > free:
        return (
            f"The transformers model needs {needed / 2**30:.1f} GiB in float32, and {free / 2**30:.1f} GiB "
            "are free: nothing was compared."
        )
    return None


def tuned_model(subject: Subject) -> Any:
    """The base in float32 with its adapters merged by PEFT, one after another. Raises InputError."""
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import AutoModelForCausalLM

    assert subject.base is not None
    torch.set_num_threads(subject.threads)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            subject.base.folder, dtype=torch.float32, local_files_only=True
        )
        for adapter in subject.adapters:
            tuned = PeftModel.from_pretrained(model, str(adapter.folder))
            for module in tuned.modules():
                if isinstance(module, BaseTunerLayer) and adapter.weight != 1.0:
                    module.scale_layer(adapter.weight)
            model = tuned.merge_and_unload()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"transformers cannot run the tuned model ({str(error).splitlines()[0]})") from None
    return model.eval()


def ask_transformers(subject: Subject, prompts: Sequence[list[int]]) -> Iterator[Asked]:
    """Run the tuned model: of each prompt, its ids with an answer's first words, its length, all logits."""
    import torch

    model = tuned_model(subject)
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            whole = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=_WORDS, do_sample=False
            )
            yield whole[0].tolist(), len(prompt), model(input_ids=whole).logits[0].float().numpy()


def compare_logits(subject: Subject, asked: Iterable[Asked]) -> Iterator[Finding]:
    """The findings on logits that transformers gives for (ids, length of the prompt), one after another.

    Logits are forgotten once they are compared: of 500 tokens and a vocabulary of
    150,000 they take 300 MB.
    """
    probe = probe_model(subject.full, threads=subject.threads)
    scores: list[TokenScores] = []
    same_words = 0
    with open_model(subject.full, probe.choice) as model:
        for ids, length, logits in asked:
            text = Sample(0, "", tuple(ids[:1]), tuple(ids[1:]), own=True)
            [ours] = logits_of(model, [text], subject.threads)
            theirs = logits[: len(ids) - 1, : model.vocab.size]
            score = token_scores(log_softmax(theirs), log_softmax(ours[:, : theirs.shape[-1]]), ids[1:])
            scores.append(score)
            same_words += bool(score.agree[length - 1 :].all())
    yield _finding(scores)
    answers = len(scores)
    figures = {"answers": answers, "same": same_words, "tokens": _WORDS}
    words = f"{same_words} of {answers} answers begin with the same {_WORDS} tokens as transformers'."
    if same_words >= least_same(answers):
        yield Finding("behaviour.first_words", "pass", words, figures, _FIRST)
    else:
        yield Finding("behaviour.first_words", "fail", words, figures, _FIRST, find_cause("first_words"))


def least_same(answers: int) -> int:
    """How many of so many answers must begin with the same words: all but one in ten, or one of a few."""
    return max(1, answers * 9 // 10)


def _finding(scores: Sequence[TokenScores]) -> Finding:
    kl = np.concatenate([score.kl for score in scores])
    mean, agreement = float(kl.mean()), float(np.concatenate([score.agree for score in scores]).mean())
    figures = {
        "tokens": len(kl),
        "mean_kl": mean,
        "kl_p99": float(np.quantile(kl, 0.99)),
        "top1_agreement": agreement,
    }
    words = (
        f"On {len(kl)} tokens the GGUF is {mean:.1e} nats from transformers and finds the same next "
        f"token in {agreement:.1%} of places."
    )
    if mean <= _MOST_KL and agreement >= _LEAST_AGREEMENT:
        return Finding("logits", "pass", words, figures, _RULE)
    return Finding("logits", "fail", words, figures, _RULE, find_cause("logits"))
