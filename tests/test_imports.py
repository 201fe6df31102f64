"""Imports follow the layers (import-linter), and heavy packages are imported only where allowed."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "ggufio", "engine", "ui", "pipeline", "publish", "bench")
# Which files may import a heavy or dangerous package; a folder covers all of its files.
ONLY = {
    "gradio": {"ui"},
    "fastapi": {"ui"},
    "llama_cpp": {
        "engine/llama/embedder.py",
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
    "llguidance": {"engine/llama/constraint.py"},
    "torch": {"pipeline", "bench"},
    "transformers": {"pipeline", "bench"},
}


def python_files() -> Iterator[Path]:
    for folder in (*PACKAGES, "scripts"):
        yield from (ROOT / folder).rglob("*.py")
    yield from (ROOT / "app.py", ROOT / "gguf_chat.py")


def imports(path: Path) -> set[str]:
    """Return the top-level names of all modules that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which package it enters"
            names.add((node.module or "").partition(".")[0])
    return names


def test_imports_point_one_way(python: str) -> None:
    command = [str(Path(python).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_only_doors_import_scripts_and_nothing_imports_tests(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imports(path) & {"app", "gguf_chat", "scripts", "tests"}, path


@pytest.mark.parametrize("package", ONLY)
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    seen = False
    for path in python_files():
        if package not in imports(path):
            continue
        seen = True
        place = str(path.relative_to(ROOT))
        top = place.partition("/")[0]
        assert {place, top} & ONLY[package], f"{place} imports {package}"
    assert seen


def test_nothing_opens_a_pickle_or_trusts_remote_code() -> None:
    for path in python_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
        assert not imports(path) & {"pickle", "diskcache", "shelve"}, path


def test_the_package_needs_what_requirements_txt_pins() -> None:
    """pyproject.toml cannot hold llama.cpp's build flags, so the pins are written twice."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition(" ")[0] for line in lines if line and not line.startswith("#")}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = (\[.*?^\])", project, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert set(ast.literal_eval(listed[1])) == pinned
