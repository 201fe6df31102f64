"""The base that an adapter's training.json names, against --qlora-base and other adapters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.sources.trained_base import Nf4Rounding, rounding_notes, trained_rounding

NF4 = {"quant_type": "nf4", "double_quant": True, "dtype": "bfloat16"}
UNKNOWN = object()


def adapter(folder: Path, qlora: Any = UNKNOWN) -> Adapter:
    """Return an adapter with that record, or without one."""
    folder.mkdir()
    if qlora is not UNKNOWN:
        (folder / "training.json").write_text(json.dumps({"options": {"qlora": qlora}}))
    return Adapter(Source(folder.name, folder, None), {}, {})


def test_the_record_decides_and_the_option_speaks_for_adapters_without_one(tmp_path: Path) -> None:
    one, two = adapter(tmp_path / "one", NF4), adapter(tmp_path / "two", {**NF4, "double_quant": False})
    plain, unknown = adapter(tmp_path / "plain", None), adapter(tmp_path / "unknown")
    bf16 = Nf4Rounding("bfloat16")
    assert trained_rounding(None, [one]) == trained_rounding("nf4", [one]) == bf16
    assert trained_rounding(None, [two]) == Nf4Rounding("bfloat16", double_quant=False)
    assert trained_rounding(None, [unknown, one]) == trained_rounding("nf4", [one, unknown]) == bf16
    mixed = adapter(tmp_path / "mixed", {**NF4, "compute_dtype": "float32"})
    found = trained_rounding(None, [mixed])
    assert (found, str(found)) == (replace(bf16, compute_dtype="float32"), "nf4 from bfloat16 to float32")
    assert trained_rounding(None, [plain]) is trained_rounding(None, [unknown, plain]) is None
    assert trained_rounding("nf4", [unknown]) == Nf4Rounding()
    assert trained_rounding(None, []) is None
    assert list(rounding_notes([one, plain, unknown])) == [
        "the adapter one was trained by QLoRA on the base rounded to nf4 from bfloat16, "
        "and is merged into that"
    ]
    assert [str(one) for one in (Nf4Rounding(), Nf4Rounding("float32", double_quant=False))] == [
        "nf4",
        "nf4 from float32 without double quantization",
    ]


def test_contradictions_are_one_line(tmp_path: Path) -> None:
    one, plain = adapter(tmp_path / "one", NF4), adapter(tmp_path / "plain", None)
    with pytest.raises(InputError, match=r"^--qlora-base nf4 contradicts the adapter 'plain', .*: leave the"):
        trained_rounding("nf4", [plain])
    two = adapter(tmp_path / "two", {**NF4, "dtype": "float32"})
    with pytest.raises(
        InputError, match=r"'one' was trained on the base rounded to nf4 from bfloat16, and 'two'"
    ):
        trained_rounding(None, [one, two])
    with pytest.raises(
        InputError, match=r"'plain' was trained on the base as it is, and 'one' on the base round"
    ):
        trained_rounding(None, [plain, one])


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({**NF4, "quant_type": "fp4"}, "options.qlora.quant_type = 'fp4'"),
        ({**NF4, "dtype": "float64"}, "options.qlora.dtype = 'float64'"),
        ({**NF4, "dtype": ["float32"]}, "options.qlora.dtype = "),
        ({**NF4, "double_quant": 1}, "options.qlora.double_quant = '1'"),
        ({**NF4, "double_quant": None}, "options.qlora.double_quant = 'None'"),
        ({**NF4, "compute_dtype": "int8"}, "options.qlora.compute_dtype = 'int8'"),
        ({**NF4, "blocksize": 128}, "options.qlora.blocksize = '128'"),
        ({"quant_type": "nf4"}, "options.qlora = "),
        (True, "options.qlora = 'True'"),
        ("nf4", "options.qlora = 'nf4'"),
        ([], r"options.qlora = '\[\]'"),
    ],
)
def test_a_base_that_is_not_made_here_is_refused_by_name(record: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^the adapter 'odd' has {named}.*merge_and_unload") as refused:
        trained_rounding(None, [adapter(tmp_path / "odd", record)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["{}", '{"options": 1}', '{"options": {"rank": 8}}'])
def test_a_file_of_that_name_by_other_programs_says_nothing(content: str, tmp_path: Path) -> None:
    other = adapter(tmp_path / "other")
    (other.folder / "training.json").write_text(content)
    assert trained_rounding(None, [other]) is None
    assert trained_rounding("nf4", [other]) == Nf4Rounding()


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    other = adapter(tmp_path / "other")
    (other.folder / "training.json").write_text("{")
    with pytest.raises(InputError, match=r"training\.json cannot be read"):
        trained_rounding(None, [other])
