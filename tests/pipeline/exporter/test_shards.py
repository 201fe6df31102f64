"""Split GGUF files: llama.cpp reads them as one model, and an export keeps all shards or none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.files import publish_files, sha256
from common.paths import embedded_gguf
from engine.config import EngineConfig, SamplingParams
from engine.serving.backend import LlamaBackend
from ggufio.ggml_reader import GgufTensors
from ggufio.shards import split_names, whole_name
from pipeline.certificate.runner.external import ExternalCheck
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.progress import NoProgress
from pipeline.quantize.job import Quantizer
from pipeline.quantize.types import group, parse_size
from tests.engine.helpers import ask, user
from tests.pipeline.tiny import make_base
from ui.models.files import choose_gguf

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExportConfig:
    folder = tmp_path_factory.mktemp("shards")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": 3200}
    base = make_base(folder / "base", **sizes)
    return ExportConfig(
        str(base), folder / "bob", quants=("Q8_0",), keep_f16=True, split_max_size="1M", threads=2
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.gguf"))


def test_sizes_are_llama_cpps() -> None:
    assert (parse_size("2G"), parse_size("500m")) == (2_000_000_000, 500_000_000)
    sizes = {"a": 2, "b": 2, "huge": 9, "c": 4, "d": 1}
    assert group(sizes, 4) == [["a", "b"], ["huge"], ["c"], ["d"]]
    assert group(sizes, None) == [[*sizes]]


def test_shards_answer_as_the_whole_does(tmp_path: Path) -> None:
    whole = embedded_gguf()
    assert whole is not None
    folder = tmp_path / "smol"
    folder.mkdir()
    with Quantizer(folder / "log") as quantizer:
        written = quantizer.split(whole, folder / "smol-Q4_1.gguf", 30_000_000, NoProgress())
    assert len(written) >= 3
    assert GgufTensors(written[1]).tensors.keys() == GgufTensors(whole).tensors.keys()
    texts = []
    for model in (whole, choose_gguf(folder)):
        with LlamaBackend.open(model, EngineConfig(context=256, slots=1, threads=2)) as backend:
            greedy = SamplingParams(temperature=0, repeat_penalty=1.0, max_tokens=16)
            assert backend.info.size >= whole.stat().st_size, "of all files"
            texts.append(ask(backend, user("Tell me about the sea."), greedy)[0])
    assert texts[0] == texts[1] != ""
    last = "blk.29.ffn_down.weight"
    assert (GgufTensors(written[0]).read(last, 3, 2) == GgufTensors(whole).read(last, 3, 2)).all()
    written[1].unlink()
    with pytest.raises(InputError, match=rf"{written[1].name} is missing"):
        ExternalCheck(written[0], "reference")


def test_the_manifest_knows_all_shards_and_a_lost_one_makes_the_set_anew(config: ExportConfig) -> None:
    result = export(config)
    manifest = json.loads(result.manifest.read_text())
    assert manifest["options"]["split_max_size"] == 1_000_000
    assert sorted(item["file"] for item in manifest["outputs"]) == names(config.out) == sorted(result.made)
    assert {whole_name(file) for file in result.made} == {"bob-Q8_0.gguf", "bob-F16.gguf"}
    assert not {"bob-Q8_0.gguf", "bob-F16.gguf"} & set(result.made)
    digests = {item["file"]: item["sha256"] for item in manifest["outputs"]}
    assert all(sha256(config.out / file) == digest for file, digest in digests.items())
    assert choose_gguf(config.out).name.startswith("bob-Q8_0-00001-of-")
    assert export(config).made == ()
    (config.out / next(file for file in result.made if "Q8_0-00002-of" in file)).unlink()
    assert set(export(config).made) == {file for file in digests if "Q8_0" in file}  # not the others
    assert {file: sha256(config.out / file) for file in names(config.out)} == digests
    whole = export(replace(config, split_max_size="1G", force=True))
    assert sorted(whole.made) == names(config.out) == ["bob-F16.gguf", "bob-Q8_0.gguf"]  # no shard is left


def test_a_set_that_is_cut_short_cannot_be_taken_for_a_whole_one(tmp_path: Path) -> None:
    files = split_names("bob.gguf", 3)
    for file in files:
        (tmp_path / file).write_text("old")
    partials = [tmp_path / f"{file}.partial" for file in files]
    partials[0].write_text("new")
    partials[2].write_text("new")
    with pytest.raises(FileNotFoundError):  # as a crash would, the missing second one ends it midway
        publish_files(partials, [tmp_path / file for file in files])
    assert not (tmp_path / files[0]).exists()
    assert (tmp_path / files[2]).read_text() == "new"
