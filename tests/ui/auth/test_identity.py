"""The owner of a request, Gradio's or Starlette's."""

from __future__ import annotations

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ui.auth.identity import COOKIE, VisitorMiddleware, owner_of

PAGE = {"Accept": "text/html,*/*"}


def show_owner(request: Request) -> PlainTextResponse:
    assert owner_of(gr.Request(request)) == owner_of(request)
    return PlainTextResponse(owner_of(request))


def browser(url: str = "http://here", local: bool = False) -> TestClient:
    app = Starlette(routes=[Route("/", show_owner)], middleware=[Middleware(VisitorMiddleware, local=local)])
    return TestClient(app, base_url=url)


def test_a_browser_keeps_its_id_and_no_two_have_the_same() -> None:
    one, two = browser(), browser()
    first = one.get("/", headers=PAGE)
    assert first.text.startswith("visitor:") and first.headers["Cache-Control"] == "private, no-store"
    again = one.get("/", headers=PAGE)
    assert again.text == first.text and "Set-Cookie" not in again.headers
    assert two.get("/", headers=PAGE).text != first.text


@pytest.mark.parametrize(
    ("url", "kept"), [("http://here", "SameSite=Lax"), ("https://here", "SameSite=None; Secure; Partitioned")]
)
def test_no_script_reads_the_cookie_and_a_frame_on_https_keeps_it(url: str, kept: str) -> None:
    cookie = browser(url).get("/", headers=PAGE).headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=") and "HttpOnly" in cookie and cookie.endswith(kept)


def test_what_a_cache_may_keep_carries_no_cookie() -> None:
    assert "Set-Cookie" not in browser().get("/", headers={"Accept": "*/*"}).headers


@pytest.mark.parametrize("forged", ["local", "user:anna", "short", "a" * 22 + "/", ""])
def test_an_id_that_was_not_made_here_is_not_taken(forged: str) -> None:
    owner = browser().get("/", headers={"Cookie": f"{COOKIE}={forged}"}).text
    assert owner.startswith("visitor:") and owner != f"visitor:{forged}"


def test_a_machine_that_serves_itself_has_one_person_and_a_proxy_brings_others() -> None:
    here = browser(local=True)
    assert here.get("/", headers=PAGE).text == "local" and not here.cookies
    for header in ("X-Forwarded-For", "X-Real-IP", "Via"):
        assert here.get("/", headers={header: "203.0.113.9"}).text.startswith("visitor:")


def test_a_login_goes_before_the_cookie() -> None:
    request = Request({"type": "http", "state": {"visitor": "visitor:x"}})
    assert owner_of(gr.Request(request, username="anna")) == "user:anna"
    request.state.user = "bert"
    assert owner_of(request) == "user:bert"


def test_without_the_middleware_nobody_is_taken_for_someone() -> None:
    with pytest.raises(AttributeError):
        owner_of(Request({"type": "http"}))
