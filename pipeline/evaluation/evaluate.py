"""Evaluate a base, its tuned model and GGUF files of it on held-out rows, and write the report."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import sha256
from common.paths import expanded
from pipeline.data.dataset import Row, TrainOn, read_data, split_rows
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation.config import (
    EvaluateConfig,
    Evaluation,
    Kind,
    ModelResult,
    SideBySide,
    model_result,
)
from pipeline.evaluation.gguf_files import (
    GgufModel,
    ScoreJob,
    backend_for,
    check_vocabulary,
    find_gguf_models,
    job_rows,
    score_file,
)
from pipeline.evaluation.page import describe, write_report
from pipeline.evaluation.rows import (
    HeldOut,
    Question,
    encode_rows,
    make_questions,
    plain_texts,
    read_questions,
)
from pipeline.evaluation.statistics import RowLoss
from pipeline.progress import NoProgress, StepProgress

if TYPE_CHECKING:
    from pipeline.evaluation.models import Models, TorchModel


@dataclass(frozen=True)
class _Scored:
    """What one model gave: a loss for each row, and a text for each question; or why it does not run."""

    name: str
    kind: Kind
    losses: Sequence[RowLoss] = ()
    answers: Sequence[str] = ()
    size: int | None = None
    failure: str = ""


@dataclass(frozen=True)
class _Run:
    """An evaluation under way, with everything checked."""

    config: EvaluateConfig
    models: Models
    files: Sequence[GgufModel]
    tokenizer: Any
    held: HeldOut
    questions: Sequence[Question]
    scratch: Path
    progress: StepProgress

    def checkpoint(self, model: TorchModel) -> _Scored:
        """Load a checkpoint, and score it."""
        import torch

        from pipeline.evaluation.token_losses import row_losses
        from pipeline.evaluation.torch_scores import greedy_answers, stop_tokens

        torch.set_num_threads(self.config.threads)
        examples, prompts = self.held.examples, [question.ids for question in self.questions]
        with self.progress.step(f"Score the {model.kind} model", len(examples) + len(prompts)) as advance:
            loaded = model.load()
            losses = row_losses(loaded, examples, 1, advance)  # alone: a bfloat16 base would round otherwise
            stops = stop_tokens(self.tokenizer, loaded, examples)
            answers = greedy_answers(
                loaded,
                prompts,
                stops,
                self.config.max_tokens,
                lambda done, note="": advance(len(examples) + done, note),
            )
        if not all(math.isfinite(row.nats) for row in losses):
            raise PipelineError(f"the loss of the {model.kind} model is no number: its weights are damaged")
        return _Scored(model.name, model.kind, losses, [self._text(answer) for answer in answers])

    def file(self, model: GgufModel) -> _Scored:
        """Score a GGUF model; one that does not run has its `failure`."""
        examples = self.held.examples
        try:
            job = ScoreJob(
                model.path,
                backend_for(model.path, self.config.threads),
                job_rows(examples),
                tuple(question.ids for question in self.questions),
                self.config.max_tokens,
                self.config.threads,
                model.lora,
            )
            found = score_file(job, examples, self.scratch / "gguf.log", self.progress)
        except PipelineError as error:
            return _Scored(model.name, "gguf", size=model.size, failure=str(error))
        texts = [self._text(answer) for answer in found.answers]
        return _Scored(model.name, "gguf", found.losses, texts, model.size)

    def _text(self, answer: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()


def evaluate(config: EvaluateConfig, progress: StepProgress | None = None) -> Evaluation:
    """Score the models on the held-out rows, ask them the questions, and write evaluation.html to `out`.

    All models see the same token ids, those of the tuned model's tokenizer; the loss is over the trained
    tokens. Raises InputError for wrong input, before any weights are loaded, and PipelineError for a
    checkpoint whose numbers are not finite. A GGUF that does not run is a row that says why.
    """
    progress = progress or NoProgress()
    files = find_gguf_models(config.gguf)
    _reject_same_names(files)
    rows: Sequence[Row] = read_data(config.data, config.data_options)
    asked = read_questions(config)
    from pipeline.evaluation.models import find_models, load_tokenizer, vocabulary

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evaluate-")))
        (staged := folder / "tokenizer").mkdir()
        models = find_models(config)
        rows, split_note = held_out_part(rows, config, models.training)
        tokenizer = load_tokenizer(models, config, staged)
        held = encode_rows(tokenizer, rows, config.max_length, _train_on(config, models.training))
        count = config.questions if isinstance(config.questions, int) else 0
        questions = make_questions(tokenizer, rows, asked, count)
        for model in files:
            check_vocabulary(model.path, vocabulary(tokenizer), folder / "vocabulary.log")
        run = _Run(config, models, files, tokenizer, held, questions, folder, progress)
        scored = [run.checkpoint(model) for model in models.checkpoints]
        scored += [run.file(model) for model in files]
    notes = [*models.notes, *split_note, *held.notes()]
    if count and plain_texts(rows):
        notes.append("plain texts ask nothing: give --questions FILE for answers side by side")
    evaluation = _evaluation(config, scored, held, questions, notes)
    write_report(evaluation, describe(config, models))
    return evaluation


def held_out_part(
    rows: Sequence[Row], config: EvaluateConfig, training: dict[str, Any]
) -> tuple[Sequence[Row], list[str]]:
    """Return the rows that the training did not see, and a note if that is not all of them.

    A training of ours records the SHA-256 of its data, and the share and the seed of the rows that it held
    out. If this is the same file, read in the same way, these are the rows to measure; but a training with
    held-out rows of another file (--valid) held out none of this one.
    """
    path = expanded(config.data)
    if not path.is_file() or training.get("data_sha256") != sha256(path):
        return rows, []
    share, seed = training.get("held_out"), training.get("seed")
    was_split = training.get("valid") is None and _reads_alike(config, training)
    if not was_split or not isinstance(share, int | float) or not isinstance(seed, int) or not share:
        return rows, ["the adapter was trained on these very rows: the losses say little about new ones"]
    held = split_rows(rows, share, seed)[1]
    return held, [f"the data is the adapter's own: only the {len(held)} rows that were held out are measured"]


def _reads_alike(config: EvaluateConfig, training: dict[str, Any]) -> bool:
    """Return whether the rows have the contents that the training's had, which its split goes by."""
    recorded = training.get("data_options") or {}
    options = config.data_options
    return (recorded.get("columns"), recorded.get("text")) == (options.columns, options.text)


def _train_on(config: EvaluateConfig, training: dict[str, Any]) -> TrainOn:
    recorded = training.get("train_on")
    if config.train_on is not None:
        return config.train_on
    return "last" if recorded == "last" else "all"


def _reject_same_names(files: Sequence[GgufModel]) -> None:
    names = [model.name for model in files]
    for model in files:
        if names.count(model.name) > 1:
            raise InputError(f"--gguf {model.spec}: two have the name {model.name}: rename one of them")


def _evaluation(
    config: EvaluateConfig,
    scored: Sequence[_Scored],
    held: HeldOut,
    questions: Sequence[Question],
    notes: Sequence[str],
) -> Evaluation:
    base = scored[0].losses if scored[0].kind == "base" else None
    answers = [
        SideBySide(
            question.text,
            question.wanted,
            {one.name: one.answers[place] for one in scored if not one.failure},
        )
        for place, question in enumerate(questions)
    ]
    return Evaluation(
        expanded(config.out),
        tuple(_result(one, base) for one in scored),
        tuple(answers),
        len(held.examples),
        held.cut,
        held.left_out,
        tuple(notes),
    )


def _result(scored: _Scored, base: Sequence[RowLoss] | None) -> ModelResult:
    if scored.failure:
        return ModelResult(scored.name, scored.kind, size=scored.size, failure=scored.failure)
    return model_result(scored.name, scored.kind, scored.losses, base, scored.size)
