"""The web application below a path of a proxy, by whatever way it learns the path."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.ui.fake_backend import FakeBackend
from ui.auth.access import Access
from ui.auth.identity import COOKIE
from ui.models.registry import one_model
from ui.server.app import create_app
from ui.server.root_path import HEADER, RootPathMiddleware

HTML = {"Accept": "text/html"}
ASK = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def inner() -> ASGIApp:
    models = one_model(FakeBackend("Aye."))
    models.pool.load()
    return create_app(models, 4, access=Access({"anna": "secret"}, "key"))


def client(app: ASGIApp, root_path: str = "", proxy: str = "testclient", **headers: str) -> TestClient:
    served = RootPathMiddleware(app, root_path, [proxy])
    return TestClient(served, headers=headers, follow_redirects=False)


@pytest.fixture(params=["option", "URL", "header", "headers"])
def site(inner: ASGIApp, request: pytest.FixtureRequest) -> TestClient:
    """The application at /a/chat, which it knows from an option or from one or two proxies."""
    if request.param == "option":
        return client(inner, "/a/chat")
    if request.param == "URL":
        return client(inner, "http://testserver/a/chat")
    return client(inner, **{HEADER: "/a/chat/" if request.param == "header" else "/a, /chat"})


@pytest.mark.parametrize("seen", ["/a/chat", ""])  # by the application: whether the proxy strips the path
def test_all_is_below_the_path(site: TestClient, seen: str) -> None:
    assert site.get(f"{seen}/health").json()["status"] == "ok"
    key = {"Authorization": "Bearer key"}
    assert site.get(f"{seen}/metrics", headers=key).status_code == 200
    said = site.post(f"{seen}/v1/chat/completions", json=ASK, headers=key).json()
    assert said["choices"][0]["message"]["content"] == "Aye."
    assert site.post(f"{seen}/v1/chat/completions", json=ASK).status_code == 401
    form = site.get(f"{seen}/compare", headers=HTML)
    assert 'fetch("' in form.text and '/a/chat/login"' in form.text
    assert f"{COOKIE}=" in form.headers["set-cookie"] and "Path=/a/chat;" in form.headers["set-cookie"]

    login = site.post(f"{seen}/login", data={"username": "anna", "password": "secret"})
    assert login.status_code == 200
    cookies = login.headers.get_list("set-cookie")
    assert len(cookies) == 2 and all("; Path=/a/chat;" in f"{one};" for one in cookies), cookies
    site.cookies.clear()
    token = {"Cookie": "; ".join(one.partition(";")[0] for one in cookies)}
    for page in ("/", "/compare", "/quality"):
        shown = site.get(f"{seen}{page}", headers=HTML | token)
        assert shown.status_code == 200 and '"root":"http://testserver/a/chat"' in shown.text, page
    assert site.get(f"{seen}/theme.css", headers=token).headers["content-type"].startswith("text/css")
    config = site.get(f"{seen}/config", headers=token).json()
    assert config["root"] == "http://testserver/a/chat"
    moved = site.get(f"{seen}/compare/", headers=token)
    assert (moved.status_code, moved.headers["location"]) == (301, "/a/chat/compare")
    left = site.get(f"{seen}/logout", headers=token)
    assert left.headers["location"] == "http://testserver/a/chat"
    assert all("Path=/a/chat;" in one for one in left.headers.get_list("set-cookie"))


def test_the_path_itself_leads_to_its_folder(inner: ASGIApp) -> None:
    moved = client(inner, "/chat").get("/chat?__theme=dark")
    assert (moved.status_code, moved.headers["location"]) == (307, "/chat/?__theme=dark")
    assert client(inner, "/chat").get("/chatter").status_code == 401  # another path, of this server


def test_without_a_root_path_nothing_changes(inner: ASGIApp) -> None:
    for plain in (client(inner), client(inner, **{HEADER: "/"}), client(inner, **{HEADER: ""})):
        form = plain.get("/", headers=HTML)
        assert 'fetch("/login"' in form.text and "Path=/;" in form.headers["set-cookie"]


def test_only_a_trusted_proxy_names_the_path(inner: ASGIApp) -> None:
    stranger = client(inner, proxy="10.0.0.1", **{HEADER: "/evil"})
    assert 'fetch("/login"' in stranger.get("/", headers=HTML).text
    fixed = client(inner, "/chat", **{HEADER: "/evil"})
    assert 'fetch("/chat/login"' in fixed.get("/", headers=HTML).text


@pytest.mark.parametrize(
    "prefix", ["chat", "//evil.org", "https://evil.org/x", "/a/../b", '/"><script>', "/a b", "/v1"]
)
def test_a_forwarded_path_that_is_none_is_refused(inner: ASGIApp, prefix: str) -> None:
    refused = client(inner, **{HEADER: prefix}).get("/", headers=HTML)
    assert refused.status_code == 400 and refused.text.startswith(f"{HEADER}: ")


def test_addresses_are_forwarded_by_the_same_proxy() -> None:
    seen: list[object] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["client"][0], scope["scheme"], scope["path"], scope["raw_path"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    forwarded = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    client(application, "/chat", **forwarded).get("/chat/caf%C3%A9")
    client(application, "/chat", "10.0.0.1", **forwarded).get("/caf%C3%A9")
    assert seen == [
        ("1.2.3.4", "https", "/café", b"/caf%C3%A9"),
        ("testclient", "http", "/café", b"/caf%C3%A9"),
    ]
