"""Limits of this process."""

from __future__ import annotations

import subprocess

import pytest

RAISE = """
import resource
from common.system import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1024))
print(raise_file_limit({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("wanted", "limit"), [(65_536, 1024), (500, 500), (200, 300)])
def test_the_limit_of_open_files_is_raised_as_far_as_it_may(wanted: int, limit: int, python: str) -> None:
    code = RAISE.format(wanted=wanted)
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == f"{limit} ({limit}, 1024)\n"
