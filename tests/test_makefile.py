"""The commands of `make chat`, as `make -n` prints them."""

from __future__ import annotations

import os
import shlex
import subprocess
from itertools import pairwise

import pytest

from tests.ui.app_process import ROOT


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ([], []),  # so that GGUF_CHAT_PORT and GGUF_CHAT_MODEL have an effect
        (["MODEL=models/my model"], ["models/my model"]),
        (["MODEL=mine", "PORT=8000"], ["mine", "--port", "8000"]),
    ],
)
def test_make_chat_passes_on_what_was_given_and_no_more(given: list[str], arguments: list[str]) -> None:
    words = ["make", "--no-print-directory", "-n", "chat", "MODEL=", "PORT=", *given]
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    printed = subprocess.run(words, cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout
    assert shlex.split(printed.splitlines()[-1])[1:] == ["app.py", *arguments]


def test_the_demo_makes_the_types_that_the_readme_names() -> None:
    """The first model that anybody sees: on this base Q5_K_M is worse than Q4_K_M (docs/survival.md)."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    words = ["make", "--no-print-directory", "-n", "demo"]
    printed = subprocess.run(words, cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout
    given = shlex.split(printed.replace("\\\n", " "))
    types = [value for option, value in pairwise(given) if option == "--quant"]
    assert types == ["Q4_K_M", "Q6_K"]
    assert f"quantizes to {' and '.join(types)}" in (ROOT / "README.md").read_text(encoding="utf-8")
