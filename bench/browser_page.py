"""The page as its user sees it: what Chromium measures of loads, of questions and of long chats.

Times of a page are those of its own clock, taken in the frame that shows what is waited for.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench.browser import chromium
from bench.browser_site import Site, last_words, serve_site, title
from bench.llama_server import chunks_of, response
from bench.serve import ServeConfig
from bench.systems import Setup
from common.system import physical_cores
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

QUICK_LENGTHS, QUICK_TOKENS = (4, 80), 16
_TIMEOUT = 300_000.0  # ms
_CAN_ASK = (
    "() => document.querySelector('#question textarea')?.disabled === false && !!window.ggufChat?.composer"
)
# The sum of the shifts that no input caused: web.dev's cumulative layout shift, in one session.
_SHIFTS = """() => {
  window.shift = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
    if (!entry.hadRecentInput) window.shift += entry.value;
  })).observe({ type: 'layout-shift', buffered: true });
}"""
# Notes when Enter is pressed, and when the question, the mark, the first word and the end are there: with
# `frames` in the first frame that has them, else at the change, which does not make the browser draw more.
_WATCH_ANSWER = """(frames) => {
  const box = document.querySelector('#conversation');
  const times = (window.times = { origin: performance.timeOrigin });
  const count = () => box.querySelectorAll('.message.user').length, before = count();
  const next = {
    bubble: () => count() > before,
    waiting: () => box.querySelector('.growing .waiting'),
    word: () => box.querySelector('.growing .markdown')?.textContent.trim(),
    end: () => !box.classList.contains('busy'),
  };
  const look = () => {
    const now = performance.now();
    for (const name of ['bubble', 'waiting', 'word'])
      if (times[name] === undefined && next[name]()) times[name] = now;
    if (times.bubble !== undefined && next.end()) {
      times.word ??= now; // the whole answer came in one frame
      times.end = now;
    }
    return times.end === undefined;
  };
  document.addEventListener('keydown', (event) => {
    times.sent = event.timeStamp;
    if (frames) { const frame = () => look() && requestAnimationFrame(frame); requestAnimationFrame(frame); }
    else {
      const seen = new MutationObserver(() => look() || seen.disconnect());
      seen.observe(box, { subtree: true, childList: true, characterData: true, attributes: true });
    }
  }, { capture: true, once: true });
}"""
# Notes when a chat is clicked, and the first frame whose last message has these words.
_WATCH_OPENING = """(words) => {
  const times = (window.times = {});
  document.addEventListener('click', (event) => {
    times.sent = event.timeStamp;
    const frame = () => {
      const last = [...document.querySelectorAll('#conversation .message')].at(-1);
      if (last?.textContent.includes(words)) times.end = performance.now(); else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }, { capture: true, once: true });
}"""


@dataclass(frozen=True)
class Row:
    """One figure of the page, once for each repeat."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of the repeats."""
        return statistics.median(self.values)


OnRow = Callable[[Row], None]


@dataclass(frozen=True)
class BrowserOptions:
    """Repeats, the messages of a short and of a long chat, users at once, and an answer's tokens."""

    repeats: int = 5
    lengths: tuple[int, int] = (10, 600)
    users: tuple[int, ...] = (1, 8)
    tokens: int = 128
    settled: int = 1200  # ms after a load's end, in which the first events' answers arrive


def measure_page_in_browser(config: ServeConfig, on_row: OnRow) -> list[Row]:
    """Serve the model and measure its page. Raises NoBrowser, PipelineError."""
    options = BrowserOptions(config.repeat, users=config.users)
    if config.quick:
        options = replace(options, lengths=QUICK_LENGTHS, tokens=QUICK_TOKENS)
    threads = config.threads or physical_cores()
    setup = Setup(config.model, max(config.users), config.context, threads)
    with chromium() as browser, serve_site(setup, options.tokens, options.lengths) as site:
        return measure_in_browser(browser, site, options, on_row)


def measure_in_browser(browser: Browser, site: Site, options: BrowserOptions, on_row: OnRow) -> list[Row]:
    """Measure all rows and return them; pass each to `on_row` at once. Raises PipelineError."""
    measurement = _Measurement(browser, site, options, on_row)
    measurement.run()
    return measurement.rows


class _Measurement:
    def __init__(self, browser: Browser, site: Site, options: BrowserOptions, on_row: OnRow) -> None:
        self._browser, self._site, self._options, self._on_row = browser, site, options, on_row
        self._asked = 0
        self.rows: list[Row] = []

    def run(self) -> None:
        self._loads()
        with self._pages(1) as [page]:
            self._questions(page)
            self._long_chats(page)
        for users in self._options.users:
            self._streams(users)

    def _row(self, name: str, unit: str, values: list[float]) -> None:
        self.rows.append(Row(name, unit, tuple(values)))
        self._on_row(self.rows[-1])

    @property
    def _repeats(self) -> range:
        return range(self._options.repeats)

    def _loads(self) -> None:
        cold, warm = [], []
        for _ in self._repeats:
            context = self._browser.new_context(viewport={"width": 1440, "height": 900})
            cold.append(_load(context, self._site.url, self._options.settled))
            warm.append(_load(context, self._site.url, self._options.settled))
            context.close()
        for kind, loads in (("cold", cold), ("warm", warm)):
            self._row(f"Layout shift, {kind}", "", [load.shift for load in loads])
            self._row(f"Requests, {kind}", "", [load.requests for load in loads])
            self._row(f"Weight, {kind}", "kB", [load.encoded_bytes / 1000 for load in loads])
            self._row(f"Main thread's CPU, {kind}", "ms", [1000 * load.cpu_seconds for load in loads])

    def _questions(self, page: Page) -> None:
        self._ask(page, frames=True)  # the engine's first answer, and the scripts' first run
        asked = [self._ask_anew(page) for _ in self._repeats]
        self._row("Send to the bubble", "ms", [one.bubble for one in asked])
        self._row("Send to the waiting mark", "ms", [one.waiting for one in asked])
        self._row("Send to the first word", "ms", [one.word for one in asked])
        self._row("The engine's time to the first token", "ms", [one.engine_first for one in asked])
        self._row("The page's share of it", "ms", [one.word - one.engine_first for one in asked])

    def _ask_anew(self, page: Page) -> _Asked:
        _new_chat(page)
        return self._ask(page, frames=True)

    def _ask(self, page: Page, *, frames: bool) -> _Asked:
        self._send(page, frames=frames)
        times = _ended(page)
        [made] = self._site.made()
        first, decode = made.first_text_seconds or 0.0, made.decode_seconds or 0.0
        times.setdefault("waiting", times["word"])  # a word came in the mark's frame
        at = {name: times[name] - times["sent"] for name in ("bubble", "waiting", "word", "end")}
        return _Asked(**at, engine_first=1000 * first, engine=1000 * (first + decode))

    def _send(self, page: Page, *, frames: bool) -> None:
        page.locator("#question textarea").fill(self._question())
        page.evaluate(_WATCH_ANSWER, frames)
        page.keyboard.press("Enter")

    def _question(self) -> str:
        self._asked += 1
        return f"Question {100 + self._asked}: what is there to see in a harbour in the morning?"

    def _long_chats(self, page: Page) -> None:
        short, long = self._options.lengths
        opening: dict[int, list[float]] = {short: [], long: []}
        asked: dict[int, list[_Asked]] = {short: [], long: []}
        for _ in self._repeats:
            for length, times in opening.items():
                times.append(_open_chat(page, length))
        for length, times in opening.items():
            self._row(f"Opening a chat of {length} messages", "ms", times)
        self._ratio(f"The same, {long} over {short}", opening[long], opening[short])
        for _ in self._repeats:
            for length, answers in asked.items():
                page.locator(".chats-title", has_text=title(length)).click()
                page.get_by_text(last_words(length)).wait_for()
                answers.append(self._ask(page, frames=False))
        ends = {length: [one.end for one in answers] for length, answers in asked.items()}
        for length, answers in asked.items():
            self._row(f"An answer in a chat of {length}, to its end", "ms", ends[length])
            self._row("The page's share of it", "ms", [one.end - one.engine for one in answers])
        self._ratio(f"To its end, {long} over {short}", ends[long], ends[short])

    def _ratio(self, name: str, over: list[float], under: list[float]) -> None:
        self._row(name, "x", [a / b for a, b in zip(over, under, strict=True)])

    def _streams(self, users: int) -> None:
        engine, seen = list[float](), list[float]()
        with self._pages(users) as pages:
            for number in self._repeats:
                if number % 2:
                    seen.append(self._rate(pages))
                engine.append(self._rate_of_engine(users))
                if number % 2 == 0:
                    seen.append(self._rate(pages))
        who = f"{users} user{'s' * (users > 1)}"
        self._row(f"{who}: the engine without a page", "tokens/s", engine)
        self._row(f"{who}: on the page", "tokens/s", seen)
        self._ratio(f"{who}: the page over the engine", seen, engine)

    def _rate(self, pages: list[Page]) -> float:
        for page in pages:
            _new_chat(page)
        for page in pages:
            self._send(page, frames=False)
        all_times = [_ended(page) for page in pages]
        tokens = sum(made.generated_tokens for made in self._site.made(len(pages)))
        began = min(times["origin"] + times["sent"] for times in all_times)
        return 1000 * tokens / (max(times["origin"] + times["end"] for times in all_times) - began)

    def _rate_of_engine(self, users: int) -> float:
        questions = [self._question() for _ in range(users)]
        with ThreadPoolExecutor(users) as pool:
            began = perf_counter()
            tokens = sum(pool.map(self._answer_of_engine, questions))
            return tokens / (perf_counter() - began)

    def _answer_of_engine(self, question: str) -> int:
        """Ask by /v1, without a page; return the answer's tokens."""
        body = {
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        tokens = 0
        with response(urlsplit(self._site.url).port or 80, "POST", "/v1/chat/completions", body) as answer:
            for chunk in chunks_of(answer):
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        if not tokens:
            raise PipelineError("/v1 sent an answer without tokens")
        return int(tokens)

    @contextmanager
    def _pages(self, count: int) -> Iterator[list[Page]]:
        """Open pages, each in a browser of its own: one opens at most six connections to a server."""
        contexts = [self._browser.new_context(viewport={"width": 1440, "height": 900}) for _ in range(count)]
        pages = [context.new_page() for context in contexts]
        for page in pages:
            page.goto(self._site.url)
            page.wait_for_function(_CAN_ASK)
            page.wait_for_timeout(self._options.settled / 2)
        yield pages
        for context in contexts:
            context.close()


@dataclass(frozen=True)
class _Asked:
    """Milliseconds from the question's sending; `engine_first` and `engine` are the engine's own."""

    bubble: float
    waiting: float
    word: float
    end: float
    engine_first: float
    engine: float


@dataclass(frozen=True)
class _Load:
    shift: float
    requests: float
    encoded_bytes: float
    cpu_seconds: float


def _load(context: BrowserContext, url: str, settled: int) -> _Load:
    page, traffic = context.new_page(), _Traffic()
    session = context.new_cdp_session(page)
    traffic.watch(session)
    session.send("Performance.enable")
    page.add_init_script(f"({_SHIFTS})()")
    page.goto(url, wait_until="load")
    page.wait_for_function(_CAN_ASK)
    page.wait_for_timeout(settled)
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    shift = page.evaluate("window.shift")
    page.close()
    return _Load(shift, len(traffic.sizes), sum(traffic.sizes.values()), metrics["TaskDuration"])


@dataclass
class _Traffic:
    """The encoded bytes of each request that reached the server, by its id."""

    sizes: dict[str, float] = field(default_factory=dict)

    def watch(self, session: Any) -> None:
        session.send("Network.enable")
        session.on("Network.requestWillBeSent", self._sent)
        session.on("Network.requestServedFromCache", self._drop)
        session.on("Network.responseReceived", self._received)
        session.on("Network.dataReceived", self._received_data)
        session.on("Network.loadingFinished", self._finished)

    def _sent(self, event: dict[str, Any]) -> None:
        if event["request"]["url"].startswith("http"):
            self.sizes[event["requestId"]] = 0

    def _drop(self, event: dict[str, Any]) -> None:
        self.sizes.pop(event["requestId"], None)

    def _received(self, event: dict[str, Any]) -> None:
        if event["response"].get("fromDiskCache"):
            self._drop(event)

    def _received_data(self, event: dict[str, Any]) -> None:
        if event["requestId"] in self.sizes:
            self.sizes[event["requestId"]] += event["encodedDataLength"]

    def _finished(self, event: dict[str, Any]) -> None:  # with the headers
        if event["requestId"] in self.sizes:
            self.sizes[event["requestId"]] = event["encodedDataLength"]


def _new_chat(page: Page) -> None:
    page.locator("#history-new").click()
    page.wait_for_function("() => !document.querySelector('#conversation .message')")


def _open_chat(page: Page, length: int) -> float:
    """Return the milliseconds from the click to the frame that shows the chat's end."""
    page.evaluate(_WATCH_OPENING, last_words(length))
    page.locator(".chats-title", has_text=title(length)).click()
    times = _ended(page)
    return float(times["end"] - times["sent"])


def _ended(page: Page) -> dict[str, float]:
    page.wait_for_function("() => window.times.end !== undefined", polling=100, timeout=_TIMEOUT)
    times: dict[str, float] = page.evaluate("window.times")
    return times
