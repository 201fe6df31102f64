"""The web page, its APIs and the terminal chat; the only package that imports gradio.

    from ui import AppSettings, create_app, serve

The names below are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.lazy import lazy_exports
from ui.gradio_patches import skip_stubs

if TYPE_CHECKING:
    from ui.server.app import create_app as create_app
    from ui.server.app import serve as serve
    from ui.settings import AppSettings as AppSettings

skip_stubs()  # before the first import of gradio

_MODULES = {
    "AppSettings": "ui.settings",
    "create_app": "ui.server.app",
    "serve": "ui.server.app",
}
__all__ = ["AppSettings", "create_app", "serve"]
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
