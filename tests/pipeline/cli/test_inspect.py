"""`gguf-chat inspect`: types, errors and single blocks of a file's tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from typer.testing import CliRunner, Result

from ggufio.ggml import ggml_type_named
from pipeline.cli.inspect import app
from pipeline.quantize.imatrix_file import Imatrix, Sums, write_imatrix
from pipeline.quantize.inspection import Weights, block_view, float_bits, measure

_NAME = "blk.0.ffn_down.weight"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = (np.random.default_rng(0).standard_normal((64, 256)) * 0.02).astype(np.float32)
    writer = GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor(_NAME, rows)
    data = quants.quantize(rows, GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=GGMLQuantizationType.Q4_0)
    writer.add_tensor("output_norm.weight", rows[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "one.gguf"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def cells(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_the_types_of_a_file_and_their_bits(file: Path) -> None:
    found = cells(run(file))
    assert ["F32", "2", "16,640", "32"] in found and ["Q4_0", "1", "16,384", "4.5"] in found


def test_the_error_of_each_type_and_the_grid(file: Path) -> None:
    errors = {one[0]: float(one[3][:-1]) for one in cells(run(file, "--tensor", _NAME))[3:]}
    assert errors["F16"] < errors["BF16"] < errors["Q8_0"] < errors["Q6_K"] < errors["Q4_K"] < errors["Q2_K"]
    assert 7 < errors["Q4_0"] < 11
    own = run(file, "--tensor", "blk.0.ffn_up.weight")
    assert "lie on Q4_0's grid" in own.stdout
    assert ["Q4_0", "4.5", "32", "0.000%"] in cells(own)


def test_a_block_has_its_scale_zero_and_codes(file: Path) -> None:
    rows = Weights(file).sample(_NAME)
    shown = cells(run(file, "--tensor", _NAME, "--block", 3, "--type", "q4_1"))
    view = block_view(rows, ggml_type_named("Q4_1"), 3)
    assert view.blocks is not None and view.codes is not None
    step, low = float(view.blocks.step[0]), float(view.blocks.minimum[0])
    assert [f"{step:.6f}", f"{low:.6f}", f"{-low / step:.3g}"] in shown
    assert shown[-8] == [f"{view.numbers[0]:.5f}", str(view.codes[0]), *shown[-8][2:]]
    assert np.allclose(step * view.codes + low, view.rounded, atol=1e-7) and view.codes.max() == 15
    assert "8 x 32 numbers of 16 codes" in run(file, "--tensor", _NAME, "--block", 0, "--type", "Q4_K").stdout


def test_the_bits_of_a_number() -> None:
    assert float_bits(-1.5, "F32") == ("1", "01111111", "1" + "0" * 22)
    assert float_bits(-1.5, "F16") == ("1", "01111", "1" + "0" * 9)
    assert float_bits(0.1, "BF16") == ("0", "01111011", "1001101")


def test_an_importance_matrix_lowers_the_weighted_error(file: Path, tmp_path: Path) -> None:
    sums = np.random.default_rng(1).lognormal(0, 2, (1, 256)).astype(np.float32)
    write_imatrix(tmp_path / "m.gguf", Imatrix({_NAME: Sums(sums, np.array([1], np.int64))}, ("x",), 1, 1))
    found = cells(run(file, "--tensor", _NAME, "--imatrix", tmp_path / "m.gguf"))
    row = next(one for one in found if one[0] == "Q4_0")
    assert float(row[5][:-1]) < 0.95 * float(row[4][:-1])


def test_what_it_cannot_show_is_refused_in_one_line(file: Path) -> None:
    for wrong, said in (
        (("--tensor", "blk.0.ffn_dwn.weight"), f"did you mean {_NAME}"),
        (("--tensor", "output_norm.weight"), "single row"),
        (("--tensor", _NAME, "--block", 0, "--type", "Q9"), "--type 'Q9' is not shown"),
        (("--tensor", _NAME, "--block", 10**9), "--block 1000000000 is too large"),
        (("--block", 0), "add --tensor NAME"),
    ):
        result = run(file, *wrong)
        assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert run(file.with_name("none.gguf")).exit_code == 2
    assert len(measure(Weights(file).sample(_NAME)[:, :32])) == 8
