"""The page that asks for a login. Gradio's own form knows neither our style sheet nor our languages.

What is typed goes to Gradio's /login, which answers with the session's cookie.
"""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from string import Template

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse

from ui.texts import words

_GAPS = ("name", "password", "enter", "wrong", "wait")


@cache
def _template() -> Template:
    return Template(Path(__file__).with_name("login_page.html").read_text(encoding="utf-8"))


def login_page(request: HTTPConnection) -> HTMLResponse:
    """The form in the visitor's language, in place of whatever page was asked for."""
    say = words(request)
    texts = {gap: escape(say(f"login.{gap}")) for gap in _GAPS}
    page = _template().substitute(texts, language=say.language)
    return HTMLResponse(page, headers={"Cache-Control": "private, no-store"})
