from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from bench.config_mutations import write_good_folders
from pipeline.errors import InputError
from pipeline.sources.model_source import adapter_source, base_source, tensors_of
from pipeline.tokenizers.select import stage_checkpoint
from tests.pipeline.conftest import Bases
from tests.pipeline.tiny import make_base


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no/such/folder", "no such folder"),
        ("/nowhere", "no such folder"),
        ("nobody/nothing", "no such folder here, and the Hub cannot be reached"),
    ],
)
def test_a_base_that_is_not_there(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        base_source(spec)
    assert spec in str(refused.value)


def test_an_empty_folder_has_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model\*\.safetensors"):
        base_source(str(tmp_path))


def test_an_adapter_is_no_base_and_a_model_no_adapter(tmp_path: Path) -> None:
    adapter, model = tmp_path / "lora", tmp_path / "base"
    for folder, file in ((adapter, "adapter_config.json"), (model, "config.json")):
        folder.mkdir()
        (folder / file).write_text('{"base_model_name_or_path": "you/base"}')
    with pytest.raises(InputError, match=r"lora' is an adapter: .* trained on \(you/base\) as --base"):
        base_source(str(adapter))
    with pytest.raises(InputError, match="base' is a whole model: give it as --base"):
        adapter_source(str(model))


def test_a_pickle_base_is_refused_with_a_command(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"pickle.*save_pretrained"):
        base_source(str(tmp_path))


def test_the_command_holds_for_a_folder_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"my model' '.*my model-safetensors'`$"):
        base_source(str(folder))


def test_a_pickle_on_the_hub_is_told_though_it_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "c0ffee"
    snapshot.mkdir()
    names = ["README.md", "adapter_config.json", "old/rng.pt", "adapter_model.bin"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: names)
    with pytest.raises(InputError, match=r"pickle \(adapter_model\.bin\).*`hf download you/lora ") as refused:
        adapter_source("you/lora")
    assert str(tmp_path) not in str(refused.value)
    names.pop()
    with pytest.raises(InputError, match=r"'you/lora' has no adapter_model\.safetensors on the Hub"):
        adapter_source("you/lora")


def test_a_gguf_base_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="already a GGUF"):
        base_source(str(tmp_path))


def test_a_folder_takes_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="revision goes with a Hub id"):
        base_source(str(tmp_path), "main")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="3MB")
    (base / "model.safetensors").unlink(missing_ok=True)
    lost = sorted(base.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(InputError, match=f"1 of 3 weight files is missing.*{lost.name}"):
        base_source(str(base))


def test_a_truncated_weight_file_is_named(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged or incomplete"):
        tensors_of(base_source(str(base)))


def test_weights_that_lie_there_twice_are_read_once(bases: Bases, tmp_path: Path) -> None:
    base = bases()
    for path in base.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "consolidated.safetensors").symlink_to(base / "model.safetensors")
    assert [path.name for path in base_source(str(tmp_path)).weight_files()] == ["model.safetensors"]
    weights = {name: "model.safetensors" for name in tensors_of(base_source(str(base)))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (tmp_path / "model-00001-of-00009.safetensors").symlink_to(base / "model.safetensors")
    assert [path.name for path in base_source(str(tmp_path)).weight_files()] == ["model.safetensors"]


def test_the_hubs_cache_layout_of_links_is_read(tmp_path: Path) -> None:
    base = make_base(tmp_path / "blobs")
    snapshot = tmp_path / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for path in base.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert tensors_of(base_source(str(snapshot))) == tensors_of(base_source(str(base)))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.safetensors.index.json", {"weight_map": "x"}, "weight_map does not name a file for each"),
        ("model.safetensors.index.json", {"weight_map": {"a": 1}}, "weight_map does not name a file"),
        ("model.safetensors.index.json", {"weight_map": {"a": "x" * 300}}, "weight_map does not name a file"),
        (
            "config.json",
            {"num_hidden_layers": 10**9},
            "has num_hidden_layers = 1000000000, and the weights are",
        ),
        ("config.json", {"num_hidden_layers": "2"}, "has num_hidden_layers = '2', which transformers never"),
        ("config.json", {"text_config": {"n_layer": 2**70}}, "has n_layer = 1180591620717411303424, and"),
        ("config.json", {"text_config": [1]}, r"has text_config = '\[1\]', which transformers never writes"),
        ("config.json", {"vocab_size": 1.5}, "has vocab_size = '1.5', which transformers never writes"),
    ],
)
def test_a_base_whose_files_are_malformed_is_refused(
    tmp_path: Path, name: str, content: dict[str, object], says: str
) -> None:
    write_good_folders(tmp_path)
    path = tmp_path / "base" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    with pytest.raises(InputError, match=says) as refused:
        base_source(str(tmp_path / "base"))
    assert str(path) in str(refused.value)


def test_null_is_absent(tmp_path: Path) -> None:
    write_good_folders(tmp_path)
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_config": None, "n_layer": None}))
    (tmp_path / "scratch").mkdir()
    staged = stage_checkpoint(
        base_source(str(tmp_path / "base")), (), {"vocab_size": 9}, tmp_path / "scratch"
    )
    assert json.loads((staged.folder / "config.json").read_text())["vocab_size"] == 9
