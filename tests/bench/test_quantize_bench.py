"""bench.py quantize: both roundings run, their bytes are compared, and the ratio is printed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from scripts.bench import app


def test_types_are_compared_with_and_without_a_matrix() -> None:
    result = CliRunner().invoke(app, ["quantize", "--quant", "Q4_K", "--quant", "Q3_K", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output.splitlines()[-1])
    assert found["ratios"].keys() == {"Q4_K", "Q4_K with a matrix", "Q3_K with a matrix"}
    assert all(one["same"] and one["ours"] > 0 < one["ggml"] for one in found["figures"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--shape", "huge"], "--shape 'huge' is unknown"), (["--quant", "Q8_0"], "--quant Q8_0: there is no")],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["quantize", *arguments])
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True), result.output
