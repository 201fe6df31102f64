"""The message about another export names the differing option or input, without hashing files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.exporter.config import ExportConfig
from pipeline.exporter.resume import config_diff
from pipeline.manifest import Record, versions
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source

BASE = Source("models/base", Path("/home/me/models/base"), None)
CONFIG = ExportConfig("models/base", Path("out"))
RECORD = Record("", versions=versions(), options={"outtype": "f16"}, inputs={"base": {"source": "base"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outtype": "f32"}, "--outtype was f16 and is f32"),
        ({"split_max_size": "1M"}, "--split-max-size was not given and is 1000000"),
        ({"tensor_type": ("a=q6_k", "b=f16")}, "--tensor-type was not given and is a=Q6_K, b=F16"),
        ({}, "a file of the base or of an adapter was changed since"),
    ],
)
def test_an_option_that_differs_is_named(change: dict[str, Any], message: str) -> None:
    assert config_diff(replace(CONFIG, **change), BASE, (), RECORD) == message


def test_an_input_that_differs_is_named() -> None:
    hub = Source("you/base", Path("snapshots/c0ffee"), "c0ffee")
    bob = Adapter(Source("bob", Path("/home/me/bob"), None), {}, {}, 0.5)
    assert config_diff(CONFIG, hub, (), RECORD) == "--base was base and is you/base at c0ffee"
    assert config_diff(CONFIG, BASE, (bob,), RECORD) == "--adapter was not given and is bob=0.5"
    older = replace(RECORD, versions={"llama-cpp-python": "0.1"})
    assert config_diff(CONFIG, BASE, (), older).startswith("llama-cpp-python was 0.1 and is ")
