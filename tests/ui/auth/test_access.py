"""Logins, the API key, limits per user, and allowed hosts and origins."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tests.ui.fake_backend import FakeBackend
from ui.auth.access import Access, address_of
from ui.auth.identity import COOKIE
from ui.auth.limits import ConcurrencyLimit, RateLimitExceeded, RequestRate
from ui.models.registry import one_model
from ui.server.app import create_app
from ui.settings import SPACE_PROXIES, AppSettings, checked_origins
from ui.static.look import FACE

ASK = {"messages": [{"role": "user", "content": "Hello"}]}


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def client(access: Access | None = None, **options: object) -> TestClient:
    site = create_app(one_model(FakeBackend()), 4, access=access, **options)  # type: ignore[arg-type]
    return TestClient(site, follow_redirects=False)


@pytest.fixture(scope="module")
def closed() -> Iterator[TestClient]:
    with client(Access({"anna": "s:cret", "bert": "0"}, "key-1")) as made:
        yield made


def test_a_login_opens_all_and_the_key_the_api(closed: TestClient) -> None:
    for headers in (basic("anna", "s:cret"), {"Authorization": "Bearer key-1"}):
        assert closed.get("/v1/models", headers=headers).status_code == 200
        assert closed.get("/metrics", headers=headers).status_code != 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("anna", "s:cre"),
        basic("carl", ""),
        basic("bert", ""),
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer key-12"},
        {"Authorization": "Basic !"},
        {"Cookie": "access-token-x=1"},
    ],
)
def test_nothing_else_does(closed: TestClient, headers: Mapping[str, str]) -> None:
    refused = closed.get("/v1/models", headers=headers)
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"


def test_without_a_login_only_health_the_login_and_its_typeface_are_open(closed: TestClient) -> None:
    """The login page is drawn in the typeface: a file of the repository, the same for everybody."""
    routes = set(paths(closed.app))
    assert {"/", "/gradio_api/queue/join", "/v1/models", "/config", "/assets/x"} <= routes
    answers = {path: closed.get(path).status_code for path in routes}
    assert {path.rstrip("/") for path, status in answers.items() if status != 401} == {
        *("/health", "/login", f"/{FACE}")
    }


def test_a_browser_is_asked_for_a_login_in_its_language(closed: TestClient) -> None:
    for path in ("/", "/compare"):
        page = closed.get(path, headers={"Accept": "text/html", "Accept-Language": "de-DE,de"})
        assert "Passwort" in page.text and "fake" not in page.text.lower()


def paths(app: object) -> list[str]:
    """Return all routes of the app and of Gradio in it, with a value for their parameters."""
    found: list[str] = []
    for route in getattr(app, "routes", []):
        found += [re.sub(r"\{[^}]*\}", "x", getattr(route, "path", ""))]
        found += paths(getattr(route, "app", None)) + paths(getattr(route, "original_router", None))
    return found


def test_gradios_form_lets_in_and_no_one_may_try_many_passwords() -> None:
    with client(Access({"anna": "secret"})) as page:
        assert page.post("/login", data={"username": "anna", "password": "wrong"}).status_code == 400
        entered = page.post("/login", data={"username": "anna", "password": "secret"})
        secure, plain = entered.headers.get_list("set-cookie")
        assert secure.endswith("Partitioned") and "HttpOnly" in plain and "Partitioned" not in plain
        assert '"username":"anna"' in page.get("/").text.replace(" ", "")
        assert page.get("/v1/models").status_code == 200
        page.cookies.clear()
        answers = [page.get("/v1/models", headers=basic("anna", str(n))) for n in range(12)]
        assert [answer.status_code for answer in answers].count(429) >= 3
        assert page.get("/v1/models", headers=basic("anna", "secret")).status_code == 429


def test_a_user_who_asks_too_often_is_told_when_to_come_back() -> None:
    page = client(Access(requests_per_minute=2))

    def ask(visitor: str) -> int:
        page.cookies.set(COOKIE, visitor)
        return page.post("/v1/chat/completions", json=ASK).status_code

    assert [ask("no id") for _ in range(3)] == [
        200,
        200,
        429,
    ]  # without cookies, all are one user
    assert [ask(letter * 22) for letter in "aaabcddd"] == [200, 200, 429, 200, 200, 200, 200, 429]
    assert ask("e" * 22) == 429  # the limit of all visitors of one address
    keyed = client(Access(api_key="k", requests_per_minute=2))
    keyed.headers["Authorization"] = "Bearer k"
    answers = [keyed.post("/v1/chat/completions", json=ASK) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["Retry-After"] == "30"
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"


def test_the_rate_refills() -> None:
    now = [0.0]
    rate = RequestRate(2, lambda: now[0])
    rate.take("a"), rate.take("a"), rate.take("b")
    with pytest.raises(RateLimitExceeded, match="2 requests a minute") as refused:
        rate.take("a")
    assert refused.value.seconds == 30
    now[0] = 30
    rate.take("a")
    with pytest.raises(RateLimitExceeded):
        rate.take("a")


def test_answers_at_once_are_counted_until_they_end() -> None:
    answers = ConcurrencyLimit(1)
    with (
        answers.acquire("a"),
        answers.acquire("b"),
        pytest.raises(RateLimitExceeded, match="1 answers at once"),
        answers.acquire("a"),
    ):
        pass
    with answers.acquire("a"):
        pass


@pytest.fixture(scope="module")
def laptop() -> TestClient:
    return client(local=True, hosts=["chat.example.org"])


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:7860", None, 200),
        ("localhost:7860", "http://localhost:7860", 200),
        ("[::1]:7860", "http://[::1]:7860", 200),
        ("chat.example.org", "https://chat.example.org", 200),
        ("evil.example", None, 403),  # a name pointed at 127.0.0.1
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", 403),
        ("127.0.0.1:7860", "http://evil.example", 403),
        ("127.0.0.1:7860", "http://127.0.0.1:8000", 403),  # another program's page on this machine
        ("127.0.0.1:7860", "null", 403),
    ],
)
def test_only_its_own_page_may_use_a_laptops_server(
    laptop: TestClient, host: str, origin: str | None, status: int
) -> None:
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    for answer in (
        laptop.post("/v1/chat/completions", json=ASK, headers=headers),
        laptop.get("/", headers=headers),
    ):
        assert answer.status_code == status
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]


def test_a_laptop_with_another_name_has_no_person_of_its_own(laptop: TestClient) -> None:
    headers = {"Host": "127.0.0.1:7860", "Accept": "text/html"}  # nginx's default: no header of the proxy
    assert COOKIE in laptop.get("/", headers=headers).headers["Set-Cookie"]


@pytest.mark.parametrize(
    "forwarded", ["203.0.113.9", "1.2.3.4, 203.0.113.9", "1.2.3.4, 203.0.113.9, 10.1.1.1"]
)
def test_a_space_takes_the_address_that_its_proxy_wrote(
    forwarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "me/chat")
    assert AppSettings().trusted_proxy == SPACE_PROXIES
    site = ProxyHeadersMiddleware(show_address, list(SPACE_PROXIES))  # type: ignore[arg-type]
    for proxy, seen in (("10.16.3.80", "203.0.113.9"), ("198.51.100.7", "198.51.100.7")):
        page = TestClient(site, client=(proxy, 1))  # type: ignore[arg-type]
        assert page.get("/", headers={"X-Forwarded-For": forwarded}).text == seen


async def show_address(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(address_of(Request(scope)))(scope, receive, send)


def test_a_foreign_page_is_refused_on_a_public_server_too() -> None:
    page = client()
    ask = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for path in ("/v1/chat/completions", "/gradio_api/queue/join"):
        assert page.options(path, headers=ask).status_code == 403
    behind = {"Host": "inner:7860", "X-Forwarded-Host": "me.hf.space", "Origin": "https://me.hf.space"}
    assert page.get("/v1/models", headers=behind).status_code == 200


NOTES = "app://obsidian.md"


@pytest.fixture(scope="module")
def named() -> Iterator[TestClient]:
    access = Access({"anna": "s:cret"}, "key-1")
    with client(access, local=True, origins=[NOTES, "http://LOCALHOST:3000/"]) as made:
        made.headers["Host"] = "127.0.0.1:7860"
        yield made


def preflight(headers: str) -> dict[str, str]:
    return {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}


@pytest.mark.parametrize("origin", [NOTES, "http://localhost:3000"])
def test_a_named_page_may_use_v1_with_the_key(named: TestClient, origin: str) -> None:
    asked = preflight("authorization,content-type,x-stainless-os,x-forwarded-for")
    allowed = named.options("/v1/chat/completions", headers={"Origin": origin, **asked})
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (204, origin)
    assert allowed.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert allowed.headers["Access-Control-Allow-Headers"] == "authorization, content-type, x-stainless-os"
    key = {"Origin": origin, "Authorization": "Bearer key-1"}
    for answer, status in (
        (named.post("/v1/chat/completions", json=ASK, headers=key), 200),
        (named.get("/v1/models", headers=key), 200),
        (named.get("/v1/models", headers={"Origin": origin}), 401),  # the page can read why
    ):
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, origin)
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert (
            "Origin" in answer.headers["Vary"]
            and "X-Model" in answer.headers["Access-Control-Expose-Headers"]
        )
        assert "Set-Cookie" not in answer.headers


def test_a_named_page_gets_neither_the_page_nor_a_visitors_login(named: TestClient) -> None:
    login = named.post("/login", data={"username": "anna", "password": "s:cret"})
    cookies = "; ".join(cookie.partition(";")[0] for cookie in login.headers.get_list("set-cookie"))
    named.cookies.clear()
    assert named.get("/v1/models", headers={"Cookie": cookies}).status_code == 200
    assert named.get("/v1/models", headers={"Cookie": cookies, "Origin": NOTES}).status_code == 401
    for path in ("/", "/gradio_api/queue/join", "/v1x"):
        assert named.options(path, headers={"Origin": NOTES, **preflight("")}).status_code == 403


def test_all_other_pages_are_refused_with_advice_that_helps(named: TestClient) -> None:
    for origin in ("http://localhost:3001", "https://localhost:3000", "app://obsidian.md.evil.example"):
        refused = named.options("/v1/models", headers={"Origin": origin, **preflight("")})
        assert refused.status_code == 403 and f"--allow-origin {origin} " in refused.text
    same_name = client(local=True, hosts=["localhost"])
    asked = {"Host": "127.0.0.1:7860", "Origin": "http://localhost:5173", **preflight("")}
    assert "--allow-origin http://localhost:5173 " in same_name.options("/v1/models", headers=asked).text
    assert "--allow-origin" not in named.get("/v1/models", headers={"Origin": "null"}).text


@pytest.mark.parametrize(
    "text", ["*", "https://*.example.org", "null", "example.org", "http://a/b", "http://", ""]
)
def test_what_is_no_origin_cannot_be_named(text: str) -> None:
    with pytest.raises(ValueError, match="no origin"):
        checked_origins([text])


def test_origins_are_named_as_options_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AppSettings().allow_origin == ()
    monkeypatch.setenv("GGUF_CHAT_ALLOW_ORIGIN", f"{NOTES},HTTPS://Example.org:443/")
    assert AppSettings().allow_origin == (NOTES, "https://example.org")
