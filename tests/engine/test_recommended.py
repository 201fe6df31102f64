"""Recommended sampling settings: read from the metadata of a real GGUF, and validated."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from engine.config import recommended
from engine.probe.client import run_probe

_STRING, _FLOAT32, _INT32, _HEAD, _ALIGNMENT = 8, 6, 5, 24, 32


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def _with_entries(source: Path, target: Path, entries: list[bytes]) -> None:
    """Write the GGUF with more metadata entries; a filler entry keeps the tensors aligned."""
    data = source.read_bytes()
    added = b"".join(entries)
    filler = _entry("test.filler", _STRING, struct.pack("<Q", 0))
    gap = -(len(added) + len(filler)) % _ALIGNMENT
    added += _entry("test.filler", _STRING, struct.pack("<Q", gap) + b" " * gap)
    (count,) = struct.unpack_from("<Q", data, 16)
    target.write_bytes(data[:16] + struct.pack("<Q", count + len(entries) + 1) + added + data[_HEAD:])


def test_a_real_files_recommendations_are_facts_of_it(smollm2: Path, tmp_path: Path) -> None:
    file = tmp_path / "recommends.gguf"
    entries = [
        _entry("general.sampling.temp", _FLOAT32, struct.pack("<f", 0.6)),
        _entry("general.sampling.top_k", _INT32, struct.pack("<i", 20)),
        _entry("general.sampling.top_p", _FLOAT32, struct.pack("<f", 95.0)),  # not a probability: left out
    ]
    _with_entries(smollm2, file, entries)
    answer = run_probe({"job": "inspect", "model": str(file), "chat_template": ""}, seconds=60).answer
    assert answer is not None
    facts = answer["facts"]
    assert facts["recommended"] == {"temperature": 0.6, "top_k": 20}


@pytest.mark.parametrize("text", ["", "warm", "nan", "inf", "-1", "1e9", "[0.5]"])
def test_nonsense_is_left_out(text: str) -> None:
    assert recommended(lambda key: text) == {}
