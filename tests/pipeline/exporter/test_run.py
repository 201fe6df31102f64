from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common.files import sha256
from pipeline.errors import InputError
from pipeline.exporter import model_export as model_run
from pipeline.exporter import workspace
from pipeline.exporter.auto_quant import CANDIDATES_DIR
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.progress import Advance
from tests.pipeline.tiny import make_adapter, make_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    base = make_base(folder / "base", hidden_size=256, intermediate_size=512, head_dim=64)
    return base, make_adapter(folder / "adapter", base)


@pytest.fixture(scope="module")
def reference(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete export, which tests copy instead of making their own."""
    out = tmp_path_factory.mktemp("reference") / "bob"
    export(config_for(inputs, out, keep_f16=True))
    return out


@pytest.fixture
def exported(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "bob"))


def config_for(inputs: tuple[Path, Path], out: Path, **changes: object) -> ExportConfig:
    options: dict[str, object] = {
        "base": str(inputs[0]),
        "adapters": (str(inputs[1]),),
        "out": out,
        "quants": ("Q4_K_M", "Q8_0"),
        **changes,
    }
    return ExportConfig(**options)  # type: ignore[arg-type]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class Steps:
    """Records the steps of an export, and can interrupt one."""

    def __init__(self, break_at: str = "") -> None:
        self.titles: list[str] = []
        self._break_at = break_at

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        self.titles.append(title)
        if self._break_at and self._break_at in title:
            raise KeyboardInterrupt
        yield lambda done, note="": None


def test_an_export_writes_what_its_manifest_says(inputs: tuple[Path, Path], reference: Path) -> None:
    out = reference
    assert files_in(out) == {"bob-Q4_K_M.gguf", "bob-Q8_0.gguf", "bob-F16.gguf", "manifest.json"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"]
    for output in manifest["outputs"]:
        path = out / output["file"]
        assert (output["bytes"], output["sha256"]) == (path.stat().st_size, sha256(path))
    bits = {output["type"]: output["bits_per_weight"] for output in manifest["outputs"]}
    assert bits["Q8_0"] == 8.5
    assert 16 <= bits["F16"] < 17
    weights = manifest["inputs"]["base"]["files"]["model.safetensors"]
    assert weights == sha256(inputs[0] / "model.safetensors")
    assert manifest["inputs"]["adapters"][0]["kind"] == "LoRA"
    assert str(out.parent) not in (out / "manifest.json").read_text()


def test_two_adapters_are_told_with_their_weights(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_adapter(tmp_path / "other", inputs[0], seed=2, use_rslora=True)
    both = (str(inputs[1]), f"{other}=0.5")
    result = export(config_for(inputs, tmp_path / "bob", adapters=both, quants=("Q8_0",), qlora_base="nf4"))
    manifest = json.loads(result.manifest.read_text())
    assert manifest["inputs"]["merged_into"] == "the base rounded to nf4, as QLoRA saw it"
    assert manifest["model"]["merged_tensors"] == 14
    adapters = manifest["inputs"]["adapters"]
    assert [(item["source"], item["kind"], item["weight"]) for item in adapters] == [
        ("adapter", "LoRA", 1.0),
        ("other", "rsLoRA", 0.5),
    ]
    with pytest.raises(InputError, match=r"\(--adapter was adapter, other=0.5 and is other=0.5, adapter\)"):
        export(config_for(inputs, tmp_path / "bob", adapters=both[::-1], quants=("Q8_0",)))


def test_the_types_are_those_that_were_asked_for(reference: Path) -> None:
    from gguf import GGUFReader

    types = {tensor.tensor_type.name for tensor in GGUFReader(reference / "bob-Q4_K_M.gguf").tensors}
    assert types == {"F32", "Q4_K", "Q6_K"}


def test_types_of_single_tensors_are_told_and_never_mixed(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    from gguf import GGUFReader

    chosen = config_for(inputs, tmp_path / "bob", quants=("Q8_0",), tensor_type=("blk.*.attn_v=f16",))
    result = export(chosen)
    types = {
        tensor.name: tensor.tensor_type.name for tensor in GGUFReader(result.folder / "bob-Q8_0.gguf").tensors
    }
    assert (types["blk.1.attn_v.weight"], types["blk.1.attn_k.weight"]) == ("F16", "Q8_0")
    assert json.loads(result.manifest.read_text())["options"]["tensor_type"] == ["blk.*.attn_v=F16"]
    assert export(chosen).made == ()
    with pytest.raises(InputError, match=r"\(--tensor-type was blk.*=F16 and is not given\): --force"):
        export(replace(chosen, tensor_type=()))


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_written(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'attn_v=Q6_K' matches no tensor .*blk\..\.attn_v\.weight"):
        export(config_for(inputs, tmp_path / "models" / "bob", tensor_type=("attn_v=q6_k",)))
    assert not (tmp_path / "models").exists()


def test_what_peft_refuses_leaves_nothing_behind(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = inputs
    broken = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((broken / "adapter_config.json").read_text())
    for field, value in (
        ("alpha_pattern", {"(": 1}),
        ("init_lora_weights", 5),
        ("rank_pattern", {"q_proj": "x"}),
    ):
        (broken / "adapter_config.json").write_text(json.dumps(config | {field: value}))
        with pytest.raises(InputError, match="the adapter '"):
            export(config_for((base, broken), tmp_path / "models" / "bob"))
        assert not (tmp_path / "models").exists()


def test_a_second_run_has_nothing_to_do(inputs: tuple[Path, Path], exported: Path) -> None:
    steps = Steps()
    again = export(config_for(inputs, exported), steps)
    assert (len(again.outputs), again.made, steps.titles) == (3, (), [])


def test_another_type_is_added_to_what_is_there(inputs: tuple[Path, Path], exported: Path) -> None:
    steps = Steps()
    result = export(config_for(inputs, exported, quants=("Q8_0", "Q5_0")), steps)
    assert result.made == ("bob-Q5_0.gguf",)
    assert not any("Merge" in title for title in steps.titles)  # the kept f16 file is the source
    assert len(result.outputs) == 4


def test_an_export_that_is_interrupted_while_it_converts_leaves_no_file(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(config_for(inputs, tmp_path / "bob"), Steps("Merge"))
    assert not [file for file in files_in(tmp_path) if not file.startswith("bob/.work/")]


def test_an_interrupted_export_goes_on_from_its_last_finished_step(
    inputs: tuple[Path, Path], reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bob"
    with pytest.raises(KeyboardInterrupt):
        export(config_for(inputs, out), Steps("Q8_0"))
    assert not (out / "manifest.json").exists()
    leave_half_a_candidate(reference / "bob-Q8_0.gguf", out / ".work")
    steps = Steps()
    export(config_for(inputs, out), steps)
    assert not any("Merge" in title for title in steps.titles)
    assert any("Q8_0" in title for title in steps.titles)
    assert files_in(out) == {"bob-Q4_K_M.gguf", "bob-Q8_0.gguf", "manifest.json"}
    assert_same_as(reference, out)


def leave_half_a_candidate(whole: Path, work: Path) -> None:
    """Leave a file as an interrupted `--quant auto` does: a header, and zeros instead of tensors."""
    from ggufio.ggml_reader import read_tensors

    begin = min(tensor.offset for tensor in read_tensors(whole).values())
    content = whole.read_bytes()
    (work / CANDIDATES_DIR).mkdir()
    (work / CANDIDATES_DIR / whole.name).write_bytes(content[:begin] + bytes(len(content) - begin))


def assert_same_as(reference: Path, out: Path) -> None:
    for path in out.glob("*.gguf"):
        assert sha256(path) == sha256(reference / path.name)


@pytest.mark.parametrize("wait_for", ["*.partial", "*Q4_K_M.gguf.partial"])
def test_a_killed_export_leaves_no_half_written_file(
    wait_for: str, inputs: tuple[Path, Path], reference: Path, tmp_path: Path, root: Path, python: str
) -> None:
    out = tmp_path / "bob"
    command = [python, "scripts/export_gguf.py", "--base", inputs[0], "--adapter", inputs[1], "--out", out]
    command += ["--quant", "Q4_K_M", "--quant", "Q8_0"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until(lambda: any((out / ".work").glob(wait_for)) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    recorded = {path.name for path in out.glob("*.gguf")}
    assert recorded <= {"bob-Q4_K_M.gguf", "bob-Q8_0.gguf"}
    export(config_for(inputs, out))
    assert files_in(out) == {"bob-Q4_K_M.gguf", "bob-Q8_0.gguf", "manifest.json"}
    assert_same_as(reference, out)


def wait_until(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_parent_takes_its_child_along(
    inputs: tuple[Path, Path], tmp_path: Path, root: Path, python: str
) -> None:
    import psutil

    command = [python, "scripts/export_gguf.py", "--base", inputs[0], "--out", tmp_path / "bob"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    wait_until(
        lambda: any("pipeline.convert.worker" in " ".join(child.cmdline()) for child in parent.children())
    )
    children = parent.children()
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_another_export_in_the_same_folder_is_refused(inputs: tuple[Path, Path], exported: Path) -> None:
    plain = config_for(inputs, exported, adapters=(), quants=("Q8_0",))
    with pytest.raises(InputError, match=r"options \(--adapter was adapter and is not given\): --force"):
        export(plain)
    export(replace(plain, force=True))
    assert files_in(exported) == {"bob-Q8_0.gguf", "manifest.json"}  # the other model's are gone
    assert json.loads((exported / "manifest.json").read_text())["inputs"].keys() == {"base"}


def test_no_resume_makes_all_anew(inputs: tuple[Path, Path], exported: Path, reference: Path) -> None:
    result = export(config_for(inputs, exported, resume=False))
    assert set(result.made) == {"bob-Q4_K_M.gguf", "bob-Q8_0.gguf"} == files_in(exported) - {"manifest.json"}
    assert_same_as(reference, exported)


def test_a_file_that_was_tampered_with_is_made_again(
    inputs: tuple[Path, Path], exported: Path, reference: Path
) -> None:
    damaged = exported / "bob-Q8_0.gguf"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert export(config_for(inputs, exported)).made == ("bob-Q8_0.gguf",)
    assert_same_as(reference, exported)


def test_two_exports_at_once_are_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with (
        workspace.Workspace(tmp_path / "bob"),
        pytest.raises(InputError, match="another export is writing"),
    ):
        export(config_for(inputs, tmp_path / "bob"))


def test_too_little_disk_is_seen_before_anything_is_written(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda path: real._replace(free=1_000_000))
    monkeypatch.setattr(model_run, "convert", None)  # reaching it would be the failure
    out = tmp_path / "bob"
    with pytest.raises(InputError, match=r"needs \d+ MiB .* 0 MiB are free"):
        export(config_for(inputs, out))
    assert not out.exists()


def test_a_refused_input_leaves_nothing_behind(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden_size=64)
    with pytest.raises(InputError, match="another base"):
        export(config_for((other, inputs[1]), tmp_path / "models" / "bob"))
    assert not (tmp_path / "models").exists()


def test_an_unwritable_folder_is_named(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written|is a file"):
        export(config_for(inputs, tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        export(config_for(inputs, Path(os.devnull) / "bob"))
