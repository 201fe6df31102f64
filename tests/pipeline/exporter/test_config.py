from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.resume import describe_template
from pipeline.sources.adapter import parse_adapter


def test_quantization_types_go_by_their_usual_names_in_any_case() -> None:
    config = ExportConfig("base", Path("models/bob"), quants=("q4_k_m", "Q8_0", "Q4_K_M"))
    assert config.quants == ("Q4_K_M", "Q8_0")
    assert config.quantized_name("Q8_0") == "bob-Q8_0.gguf"
    assert config.full_precision_name == "bob-F16.gguf"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quants": ("Q4_K_X",)}, "'Q4_K_X' is unknown: did you mean Q4_K"),
        ({"quants": ("IQ2_XS",)}, "importance matrix"),
        ({"calibrate": Path("a"), "imatrix": Path("b")}, "give one of them"),
        ({"calibrate": Path("a"), "quants": (), "keep_f16": True}, "--calibrate is for quantizing"),
        ({"imatrix": Path("a"), "format": "adapter", "adapters": ("a",)}, "--imatrix is for quantizing"),
        ({"quants": ("F16",)}, "--keep-f16"),
        ({"quants": ()}, "nothing to export"),
        ({"tensor_type": ("blk.*.attn_v",)}, r"--tensor-type 'blk\.\*\.attn_v' is not PATTERN=TYPE"),
        ({"tensor_type": ("=q6_k",)}, "'=q6_k' is not PATTERN=TYPE"),
        ({"tensor_type": (r"blk\.(0|1)=q6_k",)}, "is not PATTERN=TYPE: use a tensor's name"),
        ({"tensor_type": ("blk.[9-0].ffn=q6_k",)}, "is no pattern: bad character range"),
        ({"tensor_type": ("attn_v=Q4_K_M",)}, "'Q4_K_M' is no type of a tensor: did you mean Q4_K"),
        ({"tensor_type": ("attn_v=iq2_xs",)}, "iq2_xs needs an importance matrix"),
        ({"split_max_size": "2"}, "--split-max-size '2' is no size: use a number and M or G"),
        ({"split_max_size": "0G"}, "--split-max-size '0G' is no size"),
        ({"split_max_size": "1.5G"}, "--split-max-size '1.5G' is no size"),
        ({"format": "adapter", "adapters": ("a",), "split_max_size": "2G"}, "takes no --split-max-size"),
        ({"output_type": "q9"}, "--output-type 'q9' is no type of a tensor"),
        ({"embedding_type": "IQ3_XXS"}, "--embedding-type IQ3_XXS needs an importance matrix"),
        ({"format": "adapter", "adapters": ("a",), "pure": True}, "--format adapter takes no --pure"),
        ({"chat_template": "lama3"}, "--template 'lama3' is neither .* llama3,"),
        ({"chat_template": "chatml", "format": "adapter", "adapters": ("a",)}, "takes no --template"),
        ({"outtype": "q8"}, "f16, bf16, f32"),
        ({"threads": 0}, "--threads 0"),
        ({"base": " "}, "--base is empty"),
        ({"adapters": ("a", "b"), "adapter_revision": "main"}, "goes with one --adapter, and there are 2"),
        ({"format": "lora"}, "--format 'lora' is unknown: use one of model, adapter"),
        ({"format": "adapter"}, "--format adapter writes one --adapter, and there are 0"),
        ({"format": "adapter", "adapters": ("a",), "qlora_base": "nf4"}, "takes no --qlora-base"),
        ({"format": "adapter", "adapters": ("a",), "quants": ("q8_0",)}, "takes no --quant Q8_0"),
        ({"format": "adapter", "adapters": ("a",), "keep_f16": True}, "takes no --keep-f16"),
        ({"qlora_base": "nf4"}, "--qlora-base needs --adapter"),
        ({"qlora_base": "int8", "adapters": ("a",)}, "--qlora-base 'int8' is unknown: use nf4"),
        ({"adapters": ("me/lora=much",)}, "'much' is no weight: use a number, as in me/lora=0.7"),
        ({"adapters": ("me/lora=0",)}, "weight other than 0"),
        ({"adapters": ("me/lora=nan",)}, "weight other than 0"),
        ({"out": Path("models/my model")}, "cannot name the files"),
        ({"adapter_revision": "main"}, "goes with one --adapter, and there are 0"),
        ({"quants": ("auto",), "max_size": "900"}, "--max-size '900' is no size"),
        ({"quants": ("auto",), "max_bpw": "x"}, "--max-bpw 'x' is no number of bits"),
        ({"quants": ("auto",), "max_size": "1G", "max_bpw": "4"}, "both limit the size"),
        ({"quants": ("AUTO-900M",)}, "--quant 'AUTO-900M' is unknown"),
        ({"quants": ("AUTO-900M",), "max_size": "800M"}, "--quant 'AUTO-900M' is unknown"),
    ],
)
def test_a_bad_option_is_refused_by_name(change: dict[str, object], says: str) -> None:
    options: dict[str, object] = {"base": "base", "out": Path("models/bob"), **change}
    with pytest.raises(InputError, match=says):
        ExportConfig(**options)  # type: ignore[arg-type]


def test_a_size_names_its_file_like_none_of_llama_cpps_types() -> None:
    config = ExportConfig("base", Path("models/bob"), quants=("auto", "Q4_K_M"), max_size="0.9G")
    assert config.quants == ("AUTO", "Q4_K_M") and config.goal is not None
    chosen = replace(config, quants=(config.goal.name, "Q4_K_M"))
    assert chosen.quants == ("AUTO-900M", "Q4_K_M")
    assert chosen.quantized_name("AUTO-900M") == "bob-AUTO-900M.gguf"


def test_a_chat_template_is_read_at_once(tmp_path: Path) -> None:
    (path := tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    config = ExportConfig("base", Path("bob"), chat_template=str(path))
    path.unlink()
    assert config.given_template is not None
    assert describe_template(config)["from"] == "the file mine.jinja"
    assert describe_template(ExportConfig("base", Path("bob"))) == {}
    path.write_text("{{ messages[0].content }}")
    with pytest.raises(InputError, match=r"^--template '.*mine\.jinja': what the user says"):
        ExportConfig("base", Path("bob"), chat_template=str(path))


def test_an_option_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "Hi"}]}')
    whole = ExportConfig("base", Path("bob"), ("lora",), evaluation=chats, verify="fast")
    for fine in (whole, replace(whole, quants=("auto",), prefer="speed", verify="off")):
        fine.reject_unused_options()
    for idle, says in (
        (replace(whole, prefer="speed"), "--prefer speed goes with --quant auto"),
        (replace(whole, verify="off"), "--eval is for the checks, and there are none with --verify off"),
        (replace(whole, format="adapter"), "--format adapter takes no --eval"),
        (replace(whole, max_size="900M"), "--max-size 900M goes with --quant auto"),
        (replace(whole, max_bpw="4.5"), "--max-bpw 4.5 goes with --quant auto"),
        (replace(whole, max_bpw="4.5", format="adapter"), "--max-bpw 4.5 goes with --quant auto"),
        (
            replace(whole, quants=("auto",), max_size="1.20G", prefer="speed"),
            "--max-size 1.2G asks for the best of that size, and --prefer speed for another",
        ),
        (replace(whole, quants=("auto",), max_size="1G", pure=True), "--pure gives all the same"),
    ):
        with pytest.raises(InputError, match=says):
            idle.reject_unused_options()


def test_an_adapter_with_its_weight(tmp_path: Path) -> None:
    assert parse_adapter("me/lora") == ("me/lora", 1.0)
    assert parse_adapter("me/lora=0.7") == ("me/lora", 0.7)
    assert parse_adapter("a=b=-1.5") == ("a=b", -1.5)
    odd = tmp_path / "rank=8"
    odd.mkdir()
    assert parse_adapter(str(odd)) == (str(odd), 1.0)
    assert parse_adapter(f"{odd}=0.5") == (str(odd), 0.5)


def test_the_types_are_llama_cpps() -> None:
    import llama_cpp

    from pipeline.quantize import types as quant_types

    for quant in quant_types._TYPES.values():
        assert getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant.name}") == quant.ftype
