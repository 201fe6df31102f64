"""Remove from a virtual environment what a server never reads. Usage: shrink.py VENV"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

UNUSED = (
    *(
        "pip",
        "pip-*",
        "setuptools",
        "setuptools-*",
        "pkg_resources",
        "_distutils_hack",
        "distutils-precedence.pth",
    ),
    *("pandas/tests", "numpy/*/tests", "numpy/tests"),
    *("llama_cpp/include", "llama_cpp/lib/cmake", "llama_cpp/lib/pkgconfig", "llama_cpp/lib/*.a"),
)
"""Patterns below site-packages."""


def shrink(packages: Path) -> None:
    """Remove `UNUSED` from site-packages, and the symbols of llama.cpp's libraries."""
    for pattern in UNUSED:
        for path in packages.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    libraries = [path for path in packages.glob("llama_cpp/lib/*.so*") if not path.is_symlink()]
    if libraries and (strip := shutil.which("strip")):
        subprocess.run([strip, "--strip-unneeded", *libraries], check=True)


if __name__ == "__main__":
    (found,) = Path(sys.argv[1]).glob("lib/python*/site-packages")
    shrink(found)
