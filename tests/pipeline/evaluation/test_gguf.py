"""GGUF files beside the models that they were made of: the same losses and answers, through llama.cpp."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from common.worker_process import WorkerDied
from engine.probe.cpu_backend import CpuChoice
from pipeline.data.dataset import IGNORED, Example
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation import evaluate as module
from pipeline.evaluation import gguf_files, gguf_worker
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.gguf_files import ScoreJob, check_vocabulary, find_gguf_models, job_rows, score_file
from pipeline.evaluation.models import find_models, load_tokenizer, vocabulary
from pipeline.exporter.run import ExportResult
from pipeline.progress import NoProgress
from tests.conftest import ROOT

EXAMPLE = Example([5, 6, 7, 8, 9], [IGNORED, IGNORED, 7, IGNORED, 9], truncated=False)


def test_files_of_a_model_have_its_losses_and_answers(
    captain_bob: ExportResult,
    real_base: Path,
    demo_adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = (ROOT / "examples" / "captain_bob.jsonl").read_text("utf-8").splitlines()[:5]
    (tmp_path / "held.jsonl").write_text("\n".join(rows), encoding="utf-8")
    broken = tmp_path / "broken.gguf"
    f16 = captain_bob.folder / "captain-bob-F16.gguf"
    broken.symlink_to(f16)

    def backend_for(path: Path, threads: int) -> CpuChoice:
        if path == broken:
            raise PipelineError("no backend runs it")
        return gguf_files.backend_for(path, threads)

    monkeypatch.setattr(module, "backend_for", backend_for)
    config = EvaluateConfig(
        tmp_path / "held.jsonl",
        tmp_path / "out",
        str(real_base),
        (str(demo_adapter),),
        gguf=(f16, captain_bob.folder / "captain-bob-Q4_K_M.gguf", broken),
        questions=1,
        max_tokens=4,
        threads=1,
    )
    found = evaluate(config)
    assert find_gguf_models([captain_bob.folder])[0].path == f16  # the largest first
    names = [f"captain-bob-{name}.gguf" for name in ("F16", "Q4_K_M")]
    assert [model.name for model in found.models] == ["base", "tuned", *names, "broken.gguf"]
    tuned, full = found.model("tuned"), found.model(names[0])
    assert [row.nats for row in full.losses] == pytest.approx([row.nats for row in tuned.losses], rel=5e-3)
    losses = [model.summary.loss for model in found.models if model.summary]
    assert losses[0] > losses[-1] + 0.3  # even Q4 is nearer to the tuned model
    assert full.paired is not None and full.paired.better == 5
    answers = found.answers[0].answers
    assert answers[names[0]] == answers["tuned"] != answers["base"]
    assert [(one.name, one.failure) for one in found.failed] == [("broken.gguf", "no backend runs it")]

    (tmp_path / "tokenizer").mkdir()
    tokens = vocabulary(load_tokenizer(find_models(config), config, tmp_path / "tokenizer"))
    tokens[300], tokens[301] = tokens[301], tokens[300]
    with pytest.raises(
        InputError,
        match=r"captain-bob-F16\.gguf has another vocabulary than the tokenizer: token 300 .*2 differ",
    ):
        check_vocabulary(f16, tokens, tmp_path / "log")
    with pytest.raises(InputError, match=r"token 49152 is no token in it"):
        check_vocabulary(f16, [*[None] * 49152, "<more>"], tmp_path / "log")


def test_a_row_is_scored_at_its_trained_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two answers in one row: the logits between them are computed, and not counted."""
    logits = np.zeros((3, 16), np.float32)  # they predict the ids 7, 8 and 9
    logits[0, 7], logits[1, 8], logits[2, 9] = 2.0, 50.0, 1.0
    asked = []

    def logits_of(_: object, samples: list[gguf_worker.Sample], *__: object) -> list[np.ndarray]:
        asked.extend((sample.prompt, sample.answer) for sample in samples)
        return [logits]

    monkeypatch.setattr(gguf_worker, "logits_of", logits_of)
    job = ScoreJob(Path("x"), CpuChoice("", None, True), job_rows([EXAMPLE]), (), 1, 1)
    assert job.rows == (((5, 6, 7, 8, 9), (2, 4)),)
    [nats] = gguf_worker._nats(None, job, None)  # type: ignore[arg-type]
    assert asked == [((5, 6), (7, 8, 9))]
    wanted = math.log(15 + math.exp(2)) - 2 + math.log(15 + math.exp(1)) - 1
    assert nats == pytest.approx(wanted, rel=1e-6)


def test_the_first_token_of_a_text_is_not_predicted() -> None:
    text = Example([5, 6, 7], [5, 6, 7], truncated=False)
    assert job_rows([text]) == (((5, 6, 7), (1, 2)),)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (WorkerDied("it was ended by signal 6"), "it was ended by signal 6"),
        (InputError("x.gguf lacks a tensor"), "x.gguf lacks a tensor"),
        ({"nats": [None], "answers": []}, "its numbers are not finite"),
    ],
)
def test_a_file_that_kills_its_process_fails_alone(
    answer: object, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_worker(*_: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(gguf_files, "run_worker", run_worker)
    job = ScoreJob(Path("x"), CpuChoice("", None, True), job_rows([EXAMPLE]), (), 1, 1)
    with pytest.raises(PipelineError, match=message):
        score_file(job, [EXAMPLE], tmp_path / "log", NoProgress())


def test_what_is_no_model_is_left_out_of_a_folder_and_refused_alone(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    for name, kind in (("lora.gguf", "adapter"), ("imatrix.gguf", "imatrix")):
        writer = GGUFWriter(tmp_path / name, "llama")
        writer.add_type(kind)
        writer.add_tensor("x", np.zeros((2, 2), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with pytest.raises(InputError, match=r"lora\.gguf is a LoRA adapter: give the GGUF of a whole model"):
        find_gguf_models([tmp_path / "lora.gguf"])
    with pytest.raises(InputError, match="there is no model in GGUF in this folder"):
        find_gguf_models([tmp_path])


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    shard = tmp_path / "m-00001-of-00002.gguf"
    shard.write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"--gguf .*m-00002-of-00002\.gguf is missing"):
        find_gguf_models([shard])
