"""--format base+adapter: the quantized base, and beside it the adapter, certified and served together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from ggufio.ggml_reader import GgufTensors
from pipeline.cli.export import app
from pipeline.errors import InputError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.gguf_files import GgufModel, find_gguf_models
from pipeline.exporter.config import APART, ExportConfig
from pipeline.exporter.run import ExportResult, export
from pipeline.manifest import RECOVERY
from pipeline.training.recovery_config import RecoveryOptions
from tests.pipeline.recovering import RANK, write_folders
from ui.models.catalog import resolve_entry
from ui.models.files import find_entries

pytestmark = pytest.mark.slow
BASE, LORA = "bob-base-Q4_0.gguf", "bob-Q4_0-LoRA-F16.gguf"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apart")
    write_folders(folder)
    return folder


def config(folders: Path, out: Path, **values: Any) -> ExportConfig:
    defaults: dict[str, Any] = {
        "adapters": (str(folders / "adapter"),),
        "quants": ("Q4_0",),
        "verify": "off",
        "format": APART,
    }
    return ExportConfig(str(folders / "base"), out, **{**defaults, **values})


@pytest.fixture(scope="module")
def plain(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """The adapter as it is beside the quantized base, with a certificate."""
    out = tmp_path_factory.mktemp("plain") / "bob"
    return export(config(folders, out, verify="fast", evaluation=folders / "chats.jsonl"))


@pytest.fixture(scope="module")
def recovered(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """The adapter recovered beside the quantized base, with four more dimensions."""
    data = str(folders / "chats.jsonl")
    options = RecoveryOptions(
        data=data, steps=16, precision="float32", device="cpu", learning_rate=1e-3, rank=4
    )
    return export(config(folders, tmp_path_factory.mktemp("recovered") / "bob", recover=options))


def test_the_file_is_the_base_alone(plain: ExportResult, folders: Path, tmp_path: Path) -> None:
    assert [output.file for output in plain.outputs] == [LORA, BASE]
    alone = export(config(folders, tmp_path / "base", adapters=(), format="model"))
    files = GgufTensors(plain.folder / BASE), GgufTensors(alone.paths[0])
    assert files[0].tensors.keys() == files[1].tensors.keys()
    assert all((files[0].raw(name) == files[1].raw(name)).all() for name in files[0].tensors)


def test_both_are_certified_as_one_model(plain: ExportResult) -> None:
    assert plain.certificate is not None
    about = {one.file: one for one in plain.certificate.findings if one.name == "quantization"}
    assert about.keys() == {BASE}
    assert about[BASE].figures["mean_kl"] < 0.1
    assert plain.model_sizes == {BASE: sum(output.bytes for output in plain.outputs)}
    card = (plain.folder / "README.md").read_text()
    assert f"python app.py {BASE}::{LORA}" in card
    assert f"llama-server -m {BASE} --lora {LORA} --jinja" in card
    report = (plain.folder / "report.html").read_text()
    assert f"{BASE}::{LORA}" in report
    assert f"with {LORA}" in report


def test_evaluated_together_they_are_the_tuned_model(
    plain: ExportResult, folders: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(plain.folder / BASE, alone / "alone.gguf")
    pair = Path(f"{plain.folder / BASE}::{plain.folder / LORA}")
    assert find_gguf_models([pair, plain.folder]) == [GgufModel(plain.folder / BASE, plain.folder / LORA)]
    found = evaluate(
        EvaluateConfig(
            data=folders / "chats.jsonl",
            out=tmp_path / "out",
            base=str(folders / "base"),
            adapters=(str(folders / "adapter"),),
            gguf=(alone / "alone.gguf", plain.folder),
            questions=0,
            threads=1,
        )
    )
    loss = {model.name: sum(row.nats for row in model.losses) for model in found.models}
    assert loss[f"{BASE} + {LORA}"] == pytest.approx(loss["tuned"], rel=0.02)
    assert abs(loss["alone.gguf"] - loss["tuned"]) > 2 * abs(loss[f"{BASE} + {LORA}"] - loss["tuned"])


def test_recovered_it_is_nearer(recovered: ExportResult, plain: ExportResult) -> None:
    found = json.loads(recovered.manifest.read_text())["options"][RECOVERY]["Q4_0"]
    assert found["recovery"]["after"] < 0.7 * found["recovery"]["before"]
    assert (found["tensors"], found["differ"]) == (16, 0)
    hashes = {output.file: output.sha256 for output in recovered.outputs}
    assert hashes[BASE] == {output.file: output.sha256 for output in plain.outputs}[BASE]
    tensors = GgufTensors(recovered.folder / LORA).tensors
    ranks = {tensor.rows for name, tensor in tensors.items() if name.endswith("lora_a")}
    assert ranks == {RANK + 4}


def test_trained_adapter_is_exported_to_the_same_files(
    recovered: ExportResult, folders: Path, tmp_path: Path
) -> None:
    trained = recovered.folder.with_name("bob-recovery") / "Q4_0"
    with safe_open(trained / "before" / "adapter_model.safetensors", "np") as file:
        assert {file.get_slice(name).get_shape()[0] for name in list(file.keys()) if "lora_A" in name} == {
            RANK
        }
    again = export(config(folders, tmp_path / "bob", adapters=(str(trained),)))
    hashes = [{output.file: output.sha256 for output in one.outputs} for one in (recovered, again)]
    assert hashes[0] == hashes[1]
    merged = export(config(folders, tmp_path / "merged" / "bob", adapters=(str(trained),), format="model"))
    assert any("trained beside the base's file, and Q4_0 is made of the" in note for note in merged.notes)


def test_same_call_does_nothing(plain: ExportResult, folders: Path) -> None:
    wanted = config(folders, plain.folder, verify="fast", evaluation=folders / "chats.jsonl")
    assert export(wanted).made == ()
    with pytest.raises(InputError, match=r"--format was base\+adapter and is model"):
        export(config(folders, plain.folder, format="model"))


def test_the_app_loads_both(plain: ExportResult) -> None:
    entry = resolve_entry(str(plain.folder))
    assert (entry.source, entry.adapter) == (str(plain.folder / BASE), plain.folder / LORA)
    assert resolve_entry(str(plain.folder / BASE)).adapter is None


def test_each_adapter_is_offered_on_its_own_base(plain: ExportResult, tmp_path: Path) -> None:
    manifest = json.loads(plain.manifest.read_text())
    loras = {BASE: LORA, "bob-base-Q5_0.gguf": "bob-Q5_0-LoRA-F16.gguf"}
    manifest["options"]["loras"] = loras
    for old, new in ((BASE, "bob-base-Q5_0.gguf"), (LORA, "bob-Q5_0-LoRA-F16.gguf")):
        shutil.copy(plain.folder / old, tmp_path / old)
        shutil.copy(plain.folder / old, tmp_path / new)
        manifest["outputs"].append({**manifest["outputs"][0], "file": new})
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    pairs = {Path(entry.source).name: entry.adapter.name for entry in find_entries(tmp_path) if entry.adapter}
    assert pairs == loras


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quant", "auto"], "--format base+adapter takes no --quant auto"),
        (["--keep-f16"], "--format base+adapter takes no --keep-f16"),
        (["--adapter", "again"], "writes one --adapter as it is: there are 2"),
        (["--format", "both"], "--format 'both' is unknown: use one of model, adapter, base+adapter"),
    ],
)
def test_wrong_options(folders: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    given = [
        *("--base", str(folders / "base"), "--adapter", str(folders / "adapter")),
        *("--out", str(tmp_path / "bob"), "--format", APART),
    ]
    result = CliRunner().invoke(app, [*given, *arguments])
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True), result.output
    assert not any(tmp_path.iterdir())


def test_a_part_of_an_adapter_is_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="as it is: leave =W out"):
        config(folders, tmp_path / "bob", adapters=(f"{folders / 'adapter'}=0.5",))


def test_dora_cannot_stay_apart(folders: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(folders / "adapter", adapter)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    with pytest.raises(InputError, match="cannot be a GGUF LoRA file: DoRA"):
        export(config(folders, tmp_path / "bob", adapters=(str(adapter),)))
    assert not (tmp_path / "bob").exists()
