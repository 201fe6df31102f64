"""Imports point one way, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = {"common", "ggufio"}
ROOMS = {
    "common": {"common"},
    "ggufio": GROUND,
    "engine": {"engine", *GROUND},
    "ui": {"engine", "ui", *GROUND},
    "pipeline": {"pipeline", *GROUND},
    "bench": {"bench", "engine", "pipeline", "ui", *GROUND},
}
# What measures an export runs it, so these alone of the pipeline may enter the engine.
MORE = {
    "pipeline/certificate": {"engine"},
    "pipeline/quantize/imatrix": {"engine"},
    "pipeline/report": {"engine"},  # the chat template, as the engine renders it
}
OURS = {*(room.removesuffix(".py") for room in ROOMS), "app", "scripts", "tests"}
# Who may touch what is heavy or dangerous. A room stands for all of its files.
ONLY = {
    "gradio": {"ui"},
    "fastapi": {"ui"},
    "llama_cpp": {
        "engine/llama/grammar.py",
        "engine/llama/library.py",
        "engine/llama/model.py",
        "engine/llama/runner.py",
        "engine/llama/sampler.py",
        "engine/llama/tokenizer.py",
        "ggufio/ggml.py",
        "pipeline/quantize/imatrix_worker.py",
        "pipeline/quantize/worker.py",
        "bench",
    },
    "torch": {"pipeline", "bench"},
    "transformers": {"pipeline", "bench"},
}


def python_files() -> Iterator[Path]:
    for room in (*ROOMS, "scripts"):
        yield from files_of(room)
    yield ROOT / "app.py"


def files_of(room: str) -> list[Path]:
    place = ROOT / room
    return [place] if place.is_file() else list(place.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, at its head or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which room it enters"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_the_rooms_behind_it(room: str) -> None:
    files = files_of(room)
    assert files
    for path in files:
        place = path.relative_to(ROOT).as_posix()
        more = {name for start, names in MORE.items() if place.startswith(start) for name in names}
        wrong = (imports(path) & OURS) - ROOMS[room] - more
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("package", ONLY)
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    seen = False
    for path in python_files():
        if package not in imports(path):
            continue
        seen = True
        place = str(path.relative_to(ROOT))
        room = place.partition("/")[0]
        assert {place, room} & ONLY[package], f"{place} imports {package}"
    assert seen


def test_nothing_opens_a_pickle_or_trusts_remote_code() -> None:
    for path in python_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
        assert not imports(path) & {"pickle", "diskcache", "shelve"}, path
