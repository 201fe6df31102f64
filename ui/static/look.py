"""What the head of every page has: the design tokens, the face, the icons, the choice of light or dark."""

from __future__ import annotations

import base64
import re
from functools import cache

from common.design import TOKENS
from common.scatter import STYLE
from ui.static import STATIC

FACE = "fonts/inter-5.3.woff2"
"""The face's path, on the server and below ui/static: Inter's Latin letters in the weights 400 to 700."""
SHEETS = (
    *(STATIC / name for name in ("style.css", "shell.css", "messages.css", "figures.css", "access.css")),
    STATIC / "chat_list.css",
    STYLE,
)
ICONS = (STATIC / "icons.css").read_text(encoding="utf-8")
SCRIPTS = tuple(
    STATIC / name for name in ("frames.js", "dom.js", "chat_list.js", "chat_menus.js", "palette.js")
)
"""What all scripts and Gradio share, and those of the rail, which is on every page but the login."""
MARK = (STATIC / "mark.svg").read_text(encoding="utf-8")


@cache
def head(base: str = "", *, sheets: bool = True) -> str:
    """Return the markup for a page's head, with the style sheets of the Gradio pages unless without `sheets`.

    `base` is put before the face's path: "" for a page with a <base>. The sheets are here, since Gradio
    would add them after the first paint, and with a prefix after every comma of a selector, also in :is().
    """
    icon = base64.b64encode(MARK.encode()).decode()
    source = f'src: url("{base}{FACE}") format("woff2")'
    face = f"@font-face {{ font-family: Inter; {source}; font-weight: 400 700; font-display: swap; }}"
    css = "".join(sheet.read_text(encoding="utf-8") for sheet in (TOKENS, *(SHEETS if sheets else ())))
    css = re.sub(r"/\*.*?\*/|(?<=\n)\s+", "", css, flags=re.DOTALL)
    scripts = (STATIC / "theme.js", *(SCRIPTS if sheets else ()))
    return (
        f'<link rel="preload" href="{base}{FACE}" as="font" type="font/woff2" crossorigin>'
        f'<link rel="icon" href="data:image/svg+xml;base64,{icon}">'
        f"<style>{face}{ICONS}{css}</style>"
        f"<script>{''.join(script.read_text(encoding='utf-8') for script in scripts)}</script>"
    )
