"""recover: an adapter trained for the file that ships, judged against the model before, and its record."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from common.files import sha256
from ggufio.ggml_reader import GgufTensors
from pipeline.cli.recover import app
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import ExportResult, export
from pipeline.manifest import RECOVERY
from pipeline.training.callbacks import RunCallback
from pipeline.training.recovery_config import RecoveryOptions
from tests.pipeline.recovering import adapter_tensors, write_folders

pytestmark = pytest.mark.slow
QUANT = "Q4_0"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recover")
    write_folders(folder)
    return folder


def options(folders: Path, **values: Any) -> RecoveryOptions:
    defaults = {"data": str(folders / "chats.jsonl"), "steps": 16, "precision": "float32", "device": "cpu"}
    return RecoveryOptions(**{**defaults, "learning_rate": 1e-3, **values})


def config(folders: Path, out: Path, **values: Any) -> ExportConfig:
    defaults: dict[str, Any] = {"adapters": (str(folders / "adapter"),), "quants": (QUANT,), "verify": "off"}
    return ExportConfig(str(folders / "base"), out, **{**defaults, **values})


@pytest.fixture(scope="module")
def recovered(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """An export with a recovery and its certificate."""
    out = tmp_path_factory.mktemp("out") / "bob"
    return export(config(folders, out, recover=options(folders), **checked(folders)))


def checked(folders: Path) -> dict[str, Any]:
    return {"verify": "fast", "evaluation": folders / "chats.jsonl"}


def manifest(result: ExportResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.manifest.read_text())
    return found


def recovery_of(result: ExportResult, quant: str = QUANT) -> dict[str, Any]:
    found: dict[str, Any] = manifest(result)["options"][RECOVERY][quant]
    return found


def test_file_is_nearer_to_the_model_before(recovered: ExportResult, folders: Path, tmp_path: Path) -> None:
    found = recovery_of(recovered)
    assert found["recovery"]["after"] < 0.7 * found["recovery"]["before"]
    assert (found["tensors"], found["differ"]) == (16, 0)
    assert recovered.paths[0].name == "bob-Q4_0.gguf"
    assert any("Q4_0 was recovered on 43 chats" in note for note in recovered.notes)
    plain = export(config(folders, tmp_path / "bob", **checked(folders)))
    assert _divergence(recovered) < 0.7 * _divergence(plain)
    assert recovered.paths[0].stat().st_size == plain.paths[0].stat().st_size


def _divergence(result: ExportResult) -> float:
    assert result.certificate is not None
    figures = {one.name: one.figures for one in result.certificate.findings}
    return float(figures["quantization"]["mean_kl"])


def test_adapter_tells_what_it_was_trained_for(recovered: ExportResult, folders: Path) -> None:
    folder = recovered.folder.with_name("bob-recovery") / QUANT
    record = json.loads((folder / "trained_for.json").read_text())
    assert (record["quant"], record["full_type"], record["imatrix_sha256"]) == (QUANT, "F16", None)
    assert record["types"] == {"Q4_0": 15, "Q6_K": 1, "F32": 5}
    before = folders / "adapter" / "adapter_model.safetensors"
    assert sha256(folder / "before" / "adapter_model.safetensors") == sha256(before)
    old, new = load_file(before), load_file(folder / "adapter_model.safetensors")
    assert old.keys() == new.keys()
    assert {value.dtype for value in new.values()} == {np.dtype(np.float16)}
    assert any((old[name] != new[name]).any() for name in old)


def test_same_call_does_nothing(recovered: ExportResult, folders: Path) -> None:
    again = export(config(folders, recovered.folder, recover=options(folders), **checked(folders)))
    assert again.made == ()
    assert again.notes == recovered.notes
    with pytest.raises(InputError, match=r"--recover was .* and is not given"):
        export(config(folders, recovered.folder))


class _Killed(BaseException):
    pass


def test_interrupted_it_goes_on_to_the_same_bytes(
    recovered: ExportResult, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter(range(100))
    original = RunCallback.on_step_end

    def die(self: RunCallback, *args: Any, **kwargs: Any) -> None:
        if next(ends) == 10:  # after the checkpoint of step 8
            raise _Killed
        original(self, *args, **kwargs)

    monkeypatch.setattr(RunCallback, "on_step_end", die)
    wanted = config(folders, tmp_path / "bob", recover=options(folders))
    with pytest.raises(_Killed):
        export(wanted)
    monkeypatch.undo()
    assert (tmp_path / "bob-recovery" / f".{QUANT}.training" / "checkpoint-8").is_dir()
    result = export(wanted)
    assert result.outputs[0].sha256 == recovered.outputs[0].sha256
    name = f"bob-recovery/{QUANT}/metrics.jsonl"
    lines = [
        [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
        for path in (tmp_path / name, recovered.folder.parent / name)
    ]
    assert lines[0] == lines[1]
    assert not any((tmp_path / "bob-recovery").glob(".*"))


def test_trained_adapter_is_exported_to_the_same_file(
    recovered: ExportResult, folders: Path, tmp_path: Path
) -> None:
    trained = recovered.folder.with_name("bob-recovery") / QUANT
    result = export(config(folders, tmp_path / "bob", adapters=(str(trained),), quants=(QUANT, "Q5_K_M")))
    made = {output.type: output.sha256 for output in result.outputs}
    assert made[QUANT] == recovered.outputs[0].sha256
    assert any("trained for Q4_0, and Q5_K_M is made of the adapter as it was" in one for one in result.notes)
    plain = export(config(folders, tmp_path / "plain" / "bob", quants=("Q5_K_M",)))
    assert made["Q5_K_M"] == plain.outputs[0].sha256
    with pytest.raises(InputError, match="was trained for Q4_0 already"):
        export(config(folders, tmp_path / "again", adapters=(str(trained),), recover=options(folders)))
    shutil.rmtree(tmp_path / "bob")
    halved = export(config(folders, tmp_path / "bob", adapters=(f"{trained}=0.5",)))
    assert any("it is taken as it was before" in note for note in halved.notes)


def test_another_full_precision_type_is_said(recovered: ExportResult, folders: Path, tmp_path: Path) -> None:
    trained = recovered.folder.with_name("bob-recovery") / QUANT
    result = export(config(folders, tmp_path / "bob", adapters=(str(trained),), outtype="f32"))
    assert any("trained for --outtype f16" in note for note in result.notes)


def test_importance_matrix_goes_with_the_adapter(folders: Path, tmp_path: Path) -> None:
    chats = tmp_path / "many.jsonl"
    chats.write_text((folders / "chats.jsonl").read_text() * 3)
    result = export(
        config(folders, tmp_path / "bob", quants=("Q2_K",), calibrate=chats, recover=options(folders))
    )
    found = recovery_of(result, "Q2_K")
    assert found["recovery"]["after"] < found["recovery"]["before"]
    assert found["differ"] == 0
    trained = str(tmp_path / "bob-recovery" / "Q2_K")
    again = export(config(folders, tmp_path / "again" / "bob", adapters=(trained,), quants=("Q2_K",)))
    first, second = (GgufTensors(one.paths[0]) for one in (result, again))
    assert all((first.raw(name) == second.raw(name)).all() for name in first.tensors)
    other = tmp_path / "bob" / "bob-imatrix.gguf"
    assert sha256(tmp_path / "bob-recovery" / "Q2_K" / "imatrix.gguf") == sha256(other)


def test_own_answers_where_there_are_no_chats(folders: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Say {n}.\n" for n in range(20)))
    result = export(
        config(folders, tmp_path / "bob", recover=options(folders, data=None, prompts=prompts, steps=4))
    )
    found = recovery_of(result)["recovery"]
    assert (found["own_answers"], found["chats"], found["held_out_chats"]) == (True, 16, 4)
    assert found["after"] < found["before"]


def test_labels_through_the_rounded_base(folders: Path, tmp_path: Path) -> None:
    result = export(config(folders, tmp_path / "bob", recover=options(folders, labels=True)))
    found = recovery_of(result)
    assert found["recovery"]["labels"] is True
    assert found["recovery"]["after"] < found["recovery"]["before"] - 0.5, (
        "the answers repeat, so they are learned"
    )
    assert found["differ"] == 0
    assert any("the loss on 5 held-out ones went from" in note for note in result.notes)


def test_where_nothing_is_gained_the_plain_file_stays(folders: Path, tmp_path: Path) -> None:
    weak = tmp_path / "weak"
    shutil.copytree(folders / "adapter", weak)
    save_file(
        {n: v * np.float16(0) for n, v in adapter_tensors().items()}, weak / "adapter_model.safetensors"
    )
    wanted = config(folders, tmp_path / "bob", adapters=(str(weak),), quants=("Q8_0",))
    result = export(replace(wanted, recover=options(folders, learning_rate=0.1, steps=4)))
    assert any("Q8_0 was not recovered" in note for note in result.notes)
    assert not (tmp_path / "bob-recovery" / "Q8_0").exists()
    plain = export(replace(wanted, out=tmp_path / "plain" / "bob"))
    assert result.outputs[0].sha256 == plain.outputs[0].sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "DoRA rescales"),
        ({"bias": "all"}, "trained biases"),
        ({"peft_type": "LOHA"}, "LoHa"),
    ],
)
def test_other_adapters_are_refused(
    folders: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(folders / "adapter", adapter)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        export(config(folders, tmp_path / "bob", adapters=(str(adapter),), recover=options(folders)))
    assert not (tmp_path / "bob").exists()


def test_qlora_adapter_is_refused(folders: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(folders / "adapter", adapter)
    record = {"quant_type": "nf4", "double_quant": True, "dtype": "bfloat16"}
    (adapter / "training.json").write_text(json.dumps({"options": {"qlora": record}}))
    with pytest.raises(InputError, match="trained by QLoRA, on a base that is rounded already"):
        export(config(folders, tmp_path / "bob", adapters=(str(adapter),), recover=options(folders)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps 0 is out of range"),
        (["--lr", "3"], "--lr 3.0 is out of range"),
        (["--held-out", "0"], "--held-out 0.0 is out of range"),
        (["--prompts", "p.txt"], "--chats and --prompts are two ways"),
        (["--labels", "--prompts", "p.txt"], "--chats and --prompts are two ways"),
        (["--chats", "none.jsonl"], "the data set none.jsonl does not exist"),
        (["--quant", "Q4"], "--quant 'Q4' is unknown"),
        (["--adapter", "a", "--precision", "half"], "--precision 'half' is out of range"),
    ],
)
def test_wrong_options(folders: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    given = {
        "--base": str(folders / "base"),
        "--adapter": str(folders / "adapter"),
        "--chats": str(folders / "chats.jsonl"),
        "--out": str(tmp_path / "bob"),
    }
    words = [word for pair in given.items() for word in pair]
    result = CliRunner().invoke(app, [*words, *arguments])
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True), result.output
    assert not any(tmp_path.iterdir())


def test_too_few_chats(folders: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join((folders / "chats.jsonl").read_text().splitlines(keepends=True)[:6]))
    with pytest.raises(InputError, match="needs at least 8 chats with answers and one to hold out"):
        export(config(folders, tmp_path / "bob", recover=options(folders, data=str(few))))
