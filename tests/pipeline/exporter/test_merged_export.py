"""`--format merged`: its options, its folder, what it goes on from, and what it refuses to replace."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from common.dataclass_json import from_json, to_json
from pipeline.convert import merged as merging
from pipeline.convert.merged import INDEX, MergeJob, write_checkpoint
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.manifest import load_record
from tests.pipeline.conftest import Bases
from tests.pipeline.tiny import make_adapter

WEIGHTS = "model.safetensors"


class Killed(Exception):
    """The export was killed."""


class Worker:
    """Merges in this process; with `dies_after`, it is killed after that many shards."""

    def __init__(self) -> None:
        self.jobs: list[MergeJob] = []
        self.dies_after: int | None = None

    def __call__(
        self, _: str, request: Mapping[str, Any], log: Path, on_message: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        import torch

        self.jobs.append(from_json(MergeJob, dict(request)))
        shards = 0

        def send(message: dict[str, Any]) -> None:
            nonlocal shards
            on_message(message)
            shards += "shard" in message
            if self.dies_after is not None and shards == self.dies_after:
                raise Killed

        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(merging, "send", send)
            return to_json(write_checkpoint(self.jobs[-1]))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(merging, "run_worker", worker)
    return worker


@pytest.fixture
def config(bases: Bases, tmp_path: Path) -> ExportConfig:
    adapter = make_adapter(tmp_path / "adapter", bases(), use_dora=True)  # no GGUF LoRA can hold it
    return ExportConfig(str(bases()), tmp_path / "bob", (str(adapter),), format="merged")


@pytest.fixture
def sharded(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> ExportConfig:
    """Return an export to several shards; a size of less than a megabyte cannot be given."""
    monkeypatch.setattr(ExportConfig, "split_bytes", property(lambda self: 100_000))
    return config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"adapters": ()}, "--format merged needs --adapter"),
        ({"quants": ("q8_0",)}, "--format merged takes no --quant q8_0: it writes safetensors"),
        ({"keep_f16": True}, "takes no --keep-f16"),
        ({"tensor_type": ("a=q6_k",)}, "takes no --tensor-type"),
        ({"output_type": "q6_k"}, "takes no --output-type q6_k"),
        ({"embedding_type": "q6_k"}, "takes no --embedding-type q6_k"),
        ({"pure": True}, "takes no --pure"),
        ({"calibrate": Path("a")}, "takes no --calibrate"),
        ({"imatrix": Path("a")}, "takes no --imatrix"),
        ({"prefer": "speed"}, "takes no --prefer speed"),
        ({"max_size": "1G"}, "takes no --max-size 1G"),
        ({"max_bpw": "4.5"}, "takes no --max-bpw 4.5"),
        ({"verify": "full"}, "takes no --verify full"),
        ({"evaluation": Path("a")}, "takes no --eval"),
        ({"outtype": "q8"}, "--outtype 'q8' is unknown: use one of f16, bf16, f32"),
        ({"split_max_size": "5"}, "--split-max-size '5' is no size"),
        ({"qlora_base": "int8"}, "--qlora-base 'int8' is unknown"),
    ],
)
def test_an_option_without_effect_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    options = {"base": "base", "out": Path("bob"), "adapters": ("a",), "format": "merged", **change}
    with pytest.raises(InputError, match=says):
        ExportConfig(**options)


def test_types_and_shards_by_default() -> None:
    merged = ExportConfig("base", Path("bob"), ("a",), format="merged", verify="fast")
    assert (merged.outtype, merged.split_bytes, merged.quants) == ("auto", 5 * 10**9, ())
    gguf = ExportConfig("base", Path("bob"), ("a",))
    assert (gguf.outtype, gguf.split_bytes) == ("f16", None)


def test_the_folder_and_its_manifest(config: ExportConfig, worker: Worker) -> None:
    result = export(config)
    assert [output.file for output in result.outputs] == [WEIGHTS] == list(result.made)
    (output,) = result.outputs
    assert (output.type, output.bytes) == ("F32", (config.out / WEIGHTS).stat().st_size)
    assert 32 < output.bits_per_weight < 34  # the header of a tiny model counts
    record = load_record(config.out / "manifest.json")
    assert record is not None and record.complete
    assert record.options == {"format": "merged", "outtype": "auto", "split_max_size": 5 * 10**9}
    assert record.model["weights"] == [WEIGHTS]
    assert {path.name for path in config.out.iterdir()} == {WEIGHTS, "manifest.json", *record.model["files"]}
    assert export(config).made == () and len(worker.jobs) == 1  # all is there


def test_a_killed_export_goes_on_after_its_last_shard(sharded: ExportConfig, worker: Worker) -> None:
    worker.dies_after = 2
    with pytest.raises(Killed):
        export(sharded)
    assert [path.name for path in sharded.out.iterdir()] == [".work"]  # nothing half published
    worker.dies_after = None
    result = export(sharded)
    assert len(worker.jobs[1].finished) == 2
    files = [output.file for output in result.outputs]
    assert files[-1] == INDEX and len(files) > 3
    assert {path.name for path in sharded.out.glob("model*")} == set(files)
    fresh = export(replace(sharded, out=sharded.out.with_name("fresh")))
    assert [one.sha256 for one in result.outputs] == [one.sha256 for one in fresh.outputs]


def test_a_kill_between_renaming_and_recording_loses_nothing(
    sharded: ExportConfig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipeline.exporter.base.sha256", publish)
        export(sharded)
    work = sharded.out / ".work"
    for shard in list(work.glob("model-*.safetensors"))[:2]:
        shard.rename(sharded.out / shard.name)
    result = export(sharded)
    index = json.loads((sharded.out / INDEX).read_text())
    assert {output.file for output in result.outputs} == {*index["weight_map"].values(), INDEX}
    assert len(worker.jobs[1].finished) == len(result.outputs) - 1
    assert not (sharded.out / ".work").exists()


def test_a_missing_shard_or_file_is_made_again(sharded: ExportConfig, worker: Worker) -> None:
    first = export(sharded)
    lost = first.outputs[1]
    (sharded.out / lost.file).unlink()
    (sharded.out / "config.json").unlink()
    second = export(sharded)
    assert second.made == (lost.file,)
    assert len(worker.jobs[1].finished) == len(first.outputs) - 2  # all shards but one
    assert second.outputs[1].sha256 == lost.sha256 and (sharded.out / "config.json").is_file()


def test_force_leaves_no_shard_of_before(
    config: ExportConfig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ExportConfig, "split_bytes", property(lambda self: 100_000))
        export(config)
    with pytest.raises(InputError, match="--split-max-size was 100000 and is 5000000000"):
        export(config)
    export(replace(config, force=True))
    assert [path.name for path in config.out.glob("model*")] == [WEIGHTS]


@pytest.mark.parametrize("force", [False, True])
def test_neither_an_input_nor_another_checkpoint_is_replaced(
    force: bool, config: ExportConfig, worker: Worker, bases: Bases
) -> None:
    before = (bases() / WEIGHTS).read_bytes()
    config = replace(config, force=force)
    with pytest.raises(InputError, match=r"is the folder of .*: choose another --out"):
        export(replace(config, out=bases()))
    assert (bases() / WEIGHTS).read_bytes() == before and not (bases() / ".work").exists()
    config.out.mkdir()
    (config.out / "model-00001-of-00002.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"has a model-00001-of-00002\.safetensors that no export wrote"):
        export(config)
    assert [path.name for path in config.out.iterdir()] == ["model-00001-of-00002.safetensors"]
    assert not worker.jobs


def test_a_full_disk_is_noticed_before_anything_is_written(
    config: ExportConfig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**6}))
    with pytest.raises(InputError, match=r"merging bob needs 9 MiB in .*, and 0 MiB are free"):
        export(config)
    assert not worker.jobs and not config.out.exists()


def test_a_base_of_another_type_than_it_says_is_noted(
    config: ExportConfig, worker: Worker, bases: Bases, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in bases().iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    said = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**said, "dtype": "bfloat16"}))
    result = export(replace(config, base=str(base)))
    assert any("names bfloat16 and its files have float32" in note for note in result.notes)
    assert {str(value.dtype) for value in load_file(config.out / WEIGHTS).values()} == {"torch.bfloat16"}


@pytest.mark.slow
def test_the_worker_process(config: ExportConfig) -> None:
    export(config)
    assert len(load_file(config.out / WEIGHTS)) == 21
