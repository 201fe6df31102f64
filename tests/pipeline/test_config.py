from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ExportConfig
from pipeline.errors import InputError


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
        ({"quants": ("F16",)}, "--keep-f16"),
        ({"quants": ()}, "nothing to export"),
        ({"outtype": "q8"}, "f16, bf16, f32"),
        ({"threads": 0}, "--threads 0"),
        ({"base": " "}, "--base is empty"),
        ({"out": Path("models/my model")}, "cannot name the files"),
        ({"adapter_revision": "main"}, "needs --adapter"),
    ],
)
def test_a_bad_option_is_refused_by_name(change: dict[str, object], says: str) -> None:
    options: dict[str, object] = {"base": "base", "out": Path("models/bob"), **change}
    with pytest.raises(InputError, match=says):
        ExportConfig(**options)  # type: ignore[arg-type]


def test_the_types_are_llama_cpps() -> None:
    import llama_cpp

    from pipeline import quant_types

    for quant in quant_types._TYPES.values():
        assert getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant.name}") == quant.ftype
