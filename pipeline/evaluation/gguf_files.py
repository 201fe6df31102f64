"""GGUF files to evaluate: find them, check their vocabulary, and score them in processes that may die."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.dataclass_json import to_json
from common.paths import expanded
from common.shard_names import ADAPTER_SEPARATOR
from common.worker_process import WorkerDied, run_worker
from engine.errors import EngineError
from engine.probe.cpu_backend import CpuChoice, probe_model
from ggufio.errors import GgufError
from ggufio.shards import shard_paths, size, whole_name
from ggufio.summary import summarize
from pipeline.data.dataset import IGNORED, Example
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation.statistics import RowLoss
from pipeline.manifest import LORAS, load_record
from pipeline.manifest import NAME as MANIFEST
from pipeline.progress import StepProgress

_WORKER = "pipeline.evaluation.gguf_worker"


@dataclass(frozen=True)
class VocabularyJob:
    """Whether the GGUF `model` has the tokens of `vocabulary` at their ids; None is an id without one."""

    model: Path
    vocabulary: tuple[str | None, ...]


@dataclass(frozen=True)
class GgufModel:
    """A model to evaluate: its file, of several shards the first, and a GGUF LoRA that is loaded on it."""

    path: Path
    lora: Path | None = None

    @property
    def name(self) -> str:
        """Its name in the report: the file's, with the adapter's."""
        return f"{self.path.name} + {self.lora.name}" if self.lora else self.path.name

    @property
    def spec(self) -> str:
        """What the app is started with."""
        return f"{self.path}{ADAPTER_SEPARATOR}{self.lora}" if self.lora else str(self.path)

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return size(self.path) + (size(self.lora) if self.lora else 0)


@dataclass(frozen=True)
class ScoreJob:
    """Score rows, and answer prompts with up to `max_tokens` tokens, by the GGUF `model` with its `lora`.

    A row is the ids, and the places of the trained ones in them, from 1.
    """

    model: Path
    choice: CpuChoice
    rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    threads: int
    lora: Path | None = None


@dataclass(frozen=True)
class FileScores:
    """The losses of the rows and the answers' tokens, of one file."""

    losses: tuple[RowLoss, ...]
    answers: tuple[tuple[int, ...], ...]


def find_gguf_models(paths: Sequence[Path]) -> list[GgufModel]:
    """Return the models among the files, folders and BASE.gguf::ADAPTER.gguf given.

    Folders are sorted from large to small, and what is no model in them is left out; where an export wrote an
    adapter beside its base's files, they go together. Raises InputError for a missing file, and for one that
    is no model.
    """
    found = [model for path in paths for model in _models_at(expanded(path))]
    return list(dict.fromkeys(found))


def _models_at(path: Path) -> list[GgufModel]:
    base, separator, adapter = str(path).partition(ADAPTER_SEPARATOR)
    if separator and not path.exists():
        return [GgufModel(_file_at(Path(base)), _lora_at(Path(adapter)))]
    if not path.is_dir():
        return [GgufModel(_file_at(path))]
    loras = _loras_of(path)
    inside = {_first(file) for file in path.glob("*.gguf")}
    models = [file for file in inside if _no_model(file) is None]
    if not models:
        raise InputError(f"--gguf {path}: there is no model in GGUF in this folder")
    return [
        GgufModel(file, loras.get(whole_name(file.name)))
        for file in sorted(models, key=lambda file: (-size(file), file.name))
    ]


def _loras_of(folder: Path) -> dict[str, Path]:
    """Return the adapters that an export wrote for its base's files, by the names of those."""
    record = load_record(folder / MANIFEST)
    loras = record.options.get(LORAS, {}) if record else {}
    return {base: _lora_at(folder / Path(lora).name) for base, lora in loras.items()}


def _lora_at(path: Path) -> Path:
    """Return the path of a GGUF LoRA. Raises InputError for any other file, and for none."""
    summary = summarize(path) if path.is_file() else None
    if summary is None or summary.no_model != "a LoRA adapter":
        raise InputError(f"--gguf: {path} is no GGUF LoRA file: give BASE.gguf::ADAPTER.gguf")
    return path


def _file_at(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"--gguf {path} does not exist: give a GGUF file, or a folder of them")
    with path.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise InputError(f"--gguf {path} is not a GGUF file")
    first = _first(path)
    if what := _no_model(first):
        raise InputError(f"--gguf {path} is {what}: give the GGUF of a whole model that writes text")
    return first


def _first(path: Path) -> Path:
    try:
        return shard_paths(path)[0]
    except GgufError as error:
        raise InputError(f"--gguf {error}") from None


def _no_model(path: Path) -> str | None:
    summary = summarize(path)
    return (summary.no_model or summary.no_chat) if summary else None


def check_vocabulary(path: Path, vocabulary: Sequence[str | None], log: Path) -> bool:
    """Return whether the GGUF puts a BOS before a text.

    Raises InputError for one whose tokens are not the tokenizer's, so that ids mean other words.
    """
    try:
        found = run_worker(_WORKER, to_json(VocabularyJob(path, tuple(vocabulary))), log)
    except (WorkerDied, InputError) as error:
        why = getattr(error, "reason", str(error))
        raise InputError(f"{path} cannot be read ({why}): export it again") from None
    if found["differ"]:
        number, theirs = found["first"]
        named = "no token" if theirs is None else repr(theirs)
        raise InputError(
            f"{path} has another vocabulary than the tokenizer: token {number} is {named} in it and "
            f"{vocabulary[number]!r} there ({found['differ']} differ): give files of one model"
        )
    return bool(found["adds_bos"])


def score_file(job: ScoreJob, examples: Sequence[Example], log: Path, progress: StepProgress) -> FileScores:
    """Score a file. Raises PipelineError when llama.cpp refuses it or dies of it."""
    try:
        title = f"{'Score' if job.rows else 'Answer with'} {job.model.name}"
        with progress.step(title, len(job.rows) + len(job.prompts)) as advance:
            found = run_worker(_WORKER, to_json(job), log, lambda message: advance(int(message["done"])))
    except (WorkerDied, InputError) as error:
        raise PipelineError(str(getattr(error, "reason", error))) from None
    pairs = zip(found["nats"], examples, strict=True)
    # JSON has no infinity: None is a token that the file holds for impossible, or a number that is none.
    if any(nats is None for nats in found["nats"]):
        raise PipelineError("its numbers are not finite")
    losses = tuple(RowLoss(nats, example.answer_tokens, example.category) for nats, example in pairs)
    return FileScores(losses, tuple(tuple(answer) for answer in found["answers"]))


def backend_for(path: Path, threads: int) -> CpuChoice:
    """Return the CPU backend that runs the file, tried in child processes. Raises PipelineError."""
    try:
        return probe_model(path, threads=threads).choice
    except EngineError as error:
        raise PipelineError(str(error)) from None


def job_rows(examples: Sequence[Example]) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Return examples as the rows of a ScoreJob."""
    return tuple((tuple(example.input_ids), tuple(_trained(example))) for example in examples)


def _trained(example: Example) -> Iterator[int]:
    return (place for place, label in enumerate(example.labels) if place and label != IGNORED)
