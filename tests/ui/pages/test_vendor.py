"""The libraries of the page are those that were published, and all are served."""

from __future__ import annotations

import hashlib

import pytest

from ui.static import STATIC, scripts

FILES = {
    "dompurify-3.5.0.min.js": "1bb69dcd35ac61a515cd876d",
    "highlight-11.12.0.min.js": "8ab71eb09c51f501e5e25157",
    "katex/katex-0.19.1.min.css": "00e0b094171b07f58422075f",
    "katex/katex-0.19.1.min.js": "fa140498b8cfc8302cbe5e7c",
    "markdown-it-15.0.3.min.js": "b06c85174d2b1bb6339dfa1f",
}
"""The first characters of each file's SHA-256; the .woff2 files are those of the package katex 0.19.1."""


@pytest.mark.parametrize(("name", "sha256"), FILES.items())
def test_a_library_is_the_published_one(name: str, sha256: str) -> None:
    assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest().startswith(sha256)


def test_all_files_are_served_and_licensed() -> None:
    served = {name for name in scripts.served() if not name.endswith(".woff2")}
    assert served == set(FILES)
    for library in ("markdown-it", "dompurify", "highlight", "katex"):
        assert (STATIC / "vendor" / f"{library}.LICENSE").stat().st_size > 500
