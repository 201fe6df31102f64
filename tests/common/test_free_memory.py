from __future__ import annotations

from pathlib import Path

import pytest

from common.system import free_memory
from engine.errors import QueueFull
from engine.serving.model_pool import check_room


def machine(folder: Path, limit: str | None) -> tuple[Path, Path]:
    proc = folder / "meminfo"
    proc.write_text("MemTotal:  9000 kB\nMemAvailable:  1000 kB\n")
    if limit is not None:
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("500000\n")
        (folder / "memory.stat").write_text("anon 300000\ninactive_file 100000\nactive_file 50000\n")
    return proc, folder


def test_what_does_not_fit_is_refused_and_what_is_not_known_passes(tmp_path: Path) -> None:
    (file := tmp_path / "big.gguf").write_bytes(bytes(1000))
    with pytest.raises(QueueFull, match=r"big\.gguf"):
        check_room(file, 999)
    check_room(file, 1000)
    check_room(file, None)


def test_the_containers_limit_counts_when_it_is_lower(tmp_path: Path) -> None:
    assert free_memory(*machine(tmp_path, None)) == 1_024_000
    assert free_memory(*machine(tmp_path, "max")) == 1_024_000
    assert free_memory(*machine(tmp_path, "700000")) == 300_000
    assert free_memory(*machine(tmp_path, "700000"), whole_cache=True) == 350_000
    assert free_memory(*machine(tmp_path, "300000")) == 0
    assert free_memory(*machine(tmp_path, "90000000")) == 1_024_000
    assert free_memory(tmp_path / "nothing", tmp_path / "nothing") is None
