"""A merged checkpoint has the bytes that PEFT's merge_and_unload and save_pretrained would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.chat_templates import read_template
from pipeline.convert.merged import FILES, INDEX, MergedCheckpoint, MergeJob, shard_names, write_checkpoint
from pipeline.convert.model_folder import write_model_files
from pipeline.errors import InputError
from pipeline.merge.checkpoint import Checkpoint
from pipeline.merge.safetensors_writer import DTYPES, PlannedTensor, write_safetensors
from pipeline.merge.stored_types import plan_tensors
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import Source, adapter_source, base_source
from pipeline.sources.trained_base import Nf4Rounding
from tests.pipeline.chatml import CHATML
from tests.pipeline.conftest import Bases
from tests.pipeline.merge.test_nf4 import rounded
from tests.pipeline.merge.test_sequence import merged_in_turn
from tests.pipeline.merge.test_vocabulary import merged_resized, untied
from tests.pipeline.tiny import make_adapter, make_base, resized

WEIGHTS = "model.safetensors"


def merged(folder: Path, base: Path, *adapters: tuple[Path, float], **options: Any) -> MergedCheckpoint:
    """Write the merged checkpoint, with the files beside the weights, to `folder`."""
    folder.mkdir(exist_ok=True)
    read = tuple(read_adapter(adapter_source(str(path)), weight) for path, weight in adapters)
    given = {"outtype": "auto", "shard_bytes": 5 * 10**9, "threads": 1, **options}
    with torch.inference_mode():
        written = write_checkpoint(MergeJob(base_source(str(base)), read, folder=folder, **given))
    for file in written.files:
        (folder / FILES / file).replace(folder / file)
    return written


def pefts(folder: Path, model: Any) -> bytes:
    """Save a model as transformers does, and return its file of weights."""
    model.save_pretrained(folder)
    return (folder / WEIGHTS).read_bytes()


def peft_merge(base: Path, adapter: Path, **options: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def loaded(folder: Path) -> Any:
    """Load the checkpoint with transformers, which must find each tensor and no other."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma2", "qwen2", "mixtral", "gpt2"])
def test_the_file_equals_pefts_byte_for_byte(
    architecture: str, dtype: torch.dtype, bases: Bases, tmp_path: Path
) -> None:
    base = bases(architecture, dtype=dtype)
    targets = {"gpt2": ["c_attn", "c_proj"], "phi3": ["qkv_proj", "down_proj"]}.get(architecture, ["q_proj"])
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=targets)
    written = merged(tmp_path / "ours", base, (adapter, 1.0))
    assert written.merged and written.shards == (WEIGHTS,)
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", peft_merge(base, adapter))
    assert loaded(tmp_path / "ours").dtype == dtype


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "the head whole": {"modules_to_save": ["lm_head"]},
    "biases": {"bias": "all"},
    "some tokens": {"trainable_token_indices": [1, 7, 300]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_adapter(kind: str, bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen2", tie_word_embeddings=False)
    adapter = make_adapter(tmp_path / "adapter", base, **KINDS[kind])
    merged(tmp_path / "ours", base, (adapter, 1.0))
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", peft_merge(base, adapter))


def test_tied_embeddings_stay_one_tensor_unless_they_differ(bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen2", tie_word_embeddings=True)
    plain = make_adapter(tmp_path / "plain", base)
    merged(tmp_path / "tied", base, (plain, 1.0))
    assert (tmp_path / "tied" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", peft_merge(base, plain))
    head = make_adapter(tmp_path / "head", base, modules_to_save=["lm_head"])
    assert merged(tmp_path / "apart", base, (head, 1.0)).settings == {"tie_word_embeddings": False}
    expected = PeftModel.from_pretrained(untied(base), str(head)).merge_and_unload()
    assert (tmp_path / "apart" / WEIGHTS).read_bytes() == pefts(tmp_path / "untied", expected)
    assert not loaded(tmp_path / "apart").config.tie_word_embeddings


def test_a_resized_vocabulary(bases: Bases, tmp_path: Path) -> None:
    base = bases(tie_word_embeddings=False)
    adapter = resized(base, tmp_path / "adapter", 323)
    merged(tmp_path / "ours", base, (adapter, 1.0))
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(
        tmp_path / "pefts", merged_resized(base, adapter, 323)
    )
    assert loaded(tmp_path / "ours").config.vocab_size == 323


def test_several_adapters_with_their_weights_are_rounded_once(bases: Bases, tmp_path: Path) -> None:
    base = bases(dtype=torch.bfloat16)
    pair = tuple((make_adapter(tmp_path / str(seed), base, seed=seed), 0.7 * seed) for seed in (1, 2))
    merged(tmp_path / "ours", base, *pair)
    expected = merged_in_turn(base, *pair).to(torch.bfloat16)
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", expected)


def test_experts_are_rounded_once(bases: Bases, tmp_path: Path) -> None:
    base = bases("mixtral", dtype=torch.bfloat16)
    experts = {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}
    adapter = make_adapter(tmp_path / "adapter", base, **experts)
    merged(tmp_path / "ours", base, (adapter, 1.0))
    expected = peft_merge(base, adapter, dtype=torch.float32).to(torch.bfloat16)
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", expected)


def test_what_transformers_does_not_load_is_kept(bases: Bases, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in bases().iterdir():
        (base / path.name).symlink_to(path)
    (base / WEIGHTS).unlink()
    tables = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.rand(8) for layer in (0, 1)}
    save_file({**load_file(bases() / WEIGHTS), **tables}, base / WEIGHTS)
    adapter = make_adapter(tmp_path / "adapter", base)
    merged(tmp_path / "ours", base, (adapter, 1.0))
    ours = load_file(tmp_path / "ours" / WEIGHTS)
    assert all(torch.equal(ours[name], value) for name, value in tables.items())
    assert torch.equal(loaded(tmp_path / "ours").lm_head.weight, ours["lm_head.weight"])


def test_a_base_rounded_as_qlora_saw_it(bases: Bases, tmp_path: Path) -> None:
    base = bases(dtype=torch.bfloat16)
    adapter = make_adapter(tmp_path / "adapter", base)
    merged(tmp_path / "ours", base, (adapter, 1.0), rounding=Nf4Rounding())
    expected = PeftModel.from_pretrained(rounded(base), str(adapter)).merge_and_unload().to(torch.bfloat16)
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", expected)
    assert "quantization_config" not in json.loads((tmp_path / "ours" / "config.json").read_text())


@pytest.mark.parametrize("outtype", ["f32", "f16"])
def test_another_type_is_the_one_rounding_of_the_merge_in_float32(
    outtype: str, bases: Bases, tmp_path: Path
) -> None:
    base = bases(dtype=torch.bfloat16)
    adapter = make_adapter(tmp_path / "adapter", base)
    merged(tmp_path / "ours", base, (adapter, 1.0), outtype=outtype)
    dtype = {"f32": torch.float32, "f16": torch.float16}[outtype]
    expected = peft_merge(base, adapter, dtype=torch.float32).to(dtype)
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", expected)
    assert loaded(tmp_path / "ours").dtype == dtype


def test_shards_hold_what_one_file_would(bases: Bases, tmp_path: Path) -> None:
    base = bases(dtype=torch.bfloat16)
    adapter = make_adapter(tmp_path / "adapter", base)
    merged(tmp_path / "one", base, (adapter, 1.0))
    shards = merged(tmp_path / "some", base, (adapter, 1.0), shard_bytes=60_000).shards
    assert shards == tuple(shard_names(len(shards))) and len(shards) > 2
    parts = [load_file(tmp_path / "some" / shard) for shard in shards]
    sizes = [sum(tensor.nbytes for tensor in part.values()) for part in parts]
    assert all(size <= 60_000 for size in sizes)
    one = load_file(tmp_path / "one" / WEIGHTS)
    index = json.loads((tmp_path / "some" / INDEX).read_text())
    total = sum(tensor.numel() for tensor in one.values())
    assert index["metadata"] == {"total_parameters": total, "total_size": sum(sizes)}
    for name, value in one.items():
        assert torch.equal(parts[shards.index(index["weight_map"][name])][name], value), name
    assert loaded(tmp_path / "some").dtype == torch.bfloat16


def test_a_finished_shard_is_not_written_again(bases: Bases, tmp_path: Path) -> None:
    base = bases(dtype=torch.bfloat16)
    adapter = make_adapter(tmp_path / "adapter", base)
    shards = merged(tmp_path / "out", base, (adapter, 1.0), shard_bytes=60_000).shards
    before = (tmp_path / "out" / shards[1]).read_bytes()
    for shard in shards[:2]:
        (tmp_path / "out" / shard).write_bytes(b"as it is")
    merged(tmp_path / "out", base, (adapter, 1.0), shard_bytes=60_000, finished=(shards[0],))
    assert (tmp_path / "out" / shards[0]).read_bytes() == b"as it is"
    assert (tmp_path / "out" / shards[1]).read_bytes() == before


def test_what_a_class_keeps_in_float32_stays_so(tmp_path: Path) -> None:
    base = make_base(
        tmp_path / "base",
        "glm4_moe",
        torch.bfloat16,
        vocab_size=320,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    )
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    merged(tmp_path / "ours", base, (adapter, 1.0))
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == pefts(tmp_path / "pefts", peft_merge(base, adapter))
    types = {value.dtype for value in load_file(tmp_path / "ours" / WEIGHTS).values()}
    assert types == {torch.float32, torch.bfloat16}


def test_the_type_is_config_jsons_else_the_files(bases: Bases, tmp_path: Path) -> None:
    config = json.loads((bases(dtype=torch.float16) / "config.json").read_text())

    def model_type(**changed: Any) -> str:
        folder = tmp_path / "base"
        folder.mkdir(exist_ok=True)
        content = {key: value for key, value in {**config, **changed}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(content))
        save_file(load_file(bases(dtype=torch.float16) / WEIGHTS), folder / WEIGHTS)
        source = base_source(str(folder))
        return plan_tensors(source, Checkpoint(source.weight_files()), "auto")[1]

    assert model_type() == "F16"
    assert model_type(dtype=None) == "F16"
    assert model_type(dtype=None, torch_dtype="bfloat16") == "BF16"
    assert model_type(dtype="float32") == "F32"
    with pytest.raises(InputError, match="is of the type float64: give --outtype f16, bf16, f32"):
        model_type(dtype="float64")


def test_a_number_beyond_float16_is_refused(bases: Bases, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in bases(dtype=torch.bfloat16).iterdir():
        (base / path.name).symlink_to(path)
    tensors = load_file(base / WEIGHTS)
    tensors["model.norm.weight"][3] = 70_000
    (base / WEIGHTS).unlink()
    save_file(tensors, base / WEIGHTS)
    adapter = make_adapter(tmp_path / "adapter", base)
    with pytest.raises(InputError, match=r"^model\.norm\.weight has 70144, and float16 ends at 65504"):
        merged(tmp_path / "out", base, (adapter, 1.0), outtype="f16")
    merged(tmp_path / "out", base, (adapter, 1.0))


def test_the_files_beside_the_weights(bases: Bases, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in bases().iterdir():
        (base / path.name).symlink_to(path)
    (base / "LICENSE").write_text("as it is")
    (base / "README.md").write_text("the base's card")
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    adapter = make_adapter(tmp_path / "adapter", base)
    (adapter / "chat_template.jinja").write_text(CHATML)
    written = merged(tmp_path / "out", base, (adapter, 1.0))
    names = {"config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "LICENSE"}
    assert set(written.files) == names and written.template == "the adapter's"
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == CHATML
    alpaca = read_template("alpaca")
    merged(tmp_path / "out", base, (adapter, 1.0), chat_template=alpaca)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == alpaca.source


def test_generation_ends_at_the_templates_end_of_turn_too(bases: Bases, tmp_path: Path) -> None:
    base = Source("base", bases(), None)
    names = write_model_files(base.folder, base, "float32", 7, tmp_path)
    assert "generation_config.json" in names
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [2, 7]
    write_model_files(base.folder, base, "float32", 2, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2


def test_code_of_a_repository_is_named_by_its_place(tmp_path: Path) -> None:
    folder, out = tmp_path / "base", tmp_path / "out"
    folder.mkdir()
    config = {
        "auto_map": {"AutoConfig": "configuration_x.X", "AutoTokenizer": ["a.B", None]},
        "torch_dtype": "float32",
        "text_config": {"dtype": "float32"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_model_files(folder, Source("me/x", folder, "c0ffee"), "bfloat16", None, out)
    assert json.loads((out / "config.json").read_text()) == {
        "auto_map": {"AutoConfig": "me/x--configuration_x.X", "AutoTokenizer": ["me/x--a.B", None]},
        "torch_dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16"},
    }


def test_a_file_of_all_types_equals_the_librarys(tmp_path: Path) -> None:
    tensors = {
        f"{place % 3}.{name}": torch.ones(place % 4, 3).to(dtype)
        for place, (name, dtype) in enumerate(DTYPES.items())
    }
    tensors["scalar"] = torch.tensor(2.5)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    names = {dtype: name for name, dtype in DTYPES.items()}
    planned = {name: PlannedTensor(names[value.dtype], tuple(value.shape)) for name, value in tensors.items()}
    write_safetensors(tmp_path / "ours", planned, tensors.__getitem__)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
