"""The page that asks for a login. Gradio's own form knows neither our style sheet nor our languages.

What is typed goes to Gradio's /login, which answers with two cookies for the session: for https and for http.
"""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from string import Template

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse
from starlette.types import Message, Send

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


def kept_in_frames(send: Send) -> Send:
    """Makes Gradio's cookie for https a partitioned one: a Space is a frame, where browsers drop others."""

    async def with_partition(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            cookies = headers.getlist("set-cookie")
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", f"{cookie}; Partitioned" if "; Secure" in cookie else cookie)
        await send(message)

    return with_partition
