"""docs/python.md and examples/quickstart.ipynb run unchanged, and the packages export their public names."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from common.paths import embedded_gguf

DOOR_IMPORTS = ("torch", "numba", "gradio", "llama_cpp", "transformers", "numpy")


def code_of(path: Path) -> str:
    """Return the Python code of a Markdown page's blocks, or of a notebook's cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/python.md", "examples/quickstart.ipynb"])
def test_the_page_runs_as_it_is(
    page: str, root: Path, python: str, real_base: Path, demo_adapter: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "smollm2-base").symlink_to(real_base)
    (models / "captain-bob-lora").symlink_to(demo_adapter)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [python, "-c", code_of(root / page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\b(pass|warn)\b", done.stdout)
    assert "captain" in done.stdout.lower()  # the tuned model's answer


def test_llama_of_llama_cpp_python_finds_a_backend_in_a_fresh_process(root: Path, python: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs/python.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "import Llama\n" in block)
    paths = f"[{str(embedded_gguf())!r}]"
    model = f"from types import SimpleNamespace; result = SimpleNamespace(paths={paths})\n"
    done = subprocess.run(
        [python, "-c", model + block], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 2


@pytest.mark.parametrize("package", ["engine", "ggufio", "pipeline", "ui"])
def test_public_names_are_there_and_lazy(package: str, python: str, root: Path) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
    heavy = f"import sys, {package}; print([name for name in {DOOR_IMPORTS!r} if name in sys.modules])"
    found = subprocess.run([python, "-c", heavy], cwd=root, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
