"""The scripts of the list of messages and the libraries that they load: their markup, and the files to serve.

The scripts are served as one file, whose name changes with its content, as those of the libraries do with
their versions: browsers keep them. ui/static/vendor/README.md says where the libraries are from.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from ui.static import STATIC

PREFIX = "page/"  # Gradio has /static
_VENDOR = STATIC / "vendor"
_BUNDLED = (
    *(_VENDOR / name for name in ("markdown-it-15.0.3.min.js", "dompurify-3.5.0.min.js")),
    *(
        STATIC / name
        for name in ("markdown.js", "message_list.js", "message.js", "probabilities.js", "composer.js")
    ),
)
_LIBRARIES = {
    "highlight": {"script": "highlight-11.12.0.min.js"},
    "katex": {"script": "katex/katex-0.19.1.min.js", "style": "katex/katex-0.19.1.min.css"},
}
_TYPES = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2"}


@cache
def bundle() -> tuple[str, bytes]:
    """Return the name and the content of the file of all scripts."""
    content = "\n;".join(path.read_text(encoding="utf-8") for path in _BUNDLED).encode()
    return f"chat-{hashlib.sha256(content).hexdigest()[:12]}.js", content


def markup() -> str:
    """Return the markup for a page's head. Addresses are relative: a page has a <base>."""
    libraries = {
        name: {kind: f"{PREFIX}{path}" for kind, path in files.items()} for name, files in _LIBRARIES.items()
    }
    return (
        f"<script>window.ggufChat.libraries = {json.dumps(libraries)};</script>"
        f'<script src="{PREFIX}{bundle()[0]}" defer></script>'
    )


def media_type(path: Path) -> str:
    """Return a served file's media type."""
    return _TYPES[path.suffix]


@cache
def served() -> dict[str, Path]:
    """Return the files of the libraries by the names under which they are served."""
    return {
        path.relative_to(_VENDOR).as_posix(): path for path in _VENDOR.rglob("*") if path.suffix in _TYPES
    }
