"""Markdown as the scripts draw it, in a browser without a server; test_hostile.py has hostile texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from ui.static import scripts

Draw = Callable[..., str]
CLEAN = """([text, done]) => {
  const box = document.createElement('div');
  document.body.append(box);
  ggufChat.fill(box, text, done);
  return [...box.children].map((block) => block.innerHTML).join('');
}"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.set_content("<main></main>")
    page.evaluate(
        "window.ggufChat = { libraries: { katex: {script: 'data:,'}, highlight: {script: 'data:,'} } }"
    )
    page.add_script_tag(content=scripts.bundle()[1].decode())
    yield page
    page.close()


def drawn(page: Page, text: str, *, done: bool = True) -> str:
    return str(page.evaluate(CLEAN, [text, done])).replace(' dir="auto"', "").replace("\n", "")


def formulas(page: Page, text: str) -> list[tuple[str, bool]]:
    script = """([text]) => {
      const box = document.createElement('div');
      ggufChat.fill(box, text);
      const found = [...box.querySelectorAll('.math')];
      return found.map((one) => [one.textContent.trim(), one.matches('.display')]);
    }"""
    return [(tex, display) for tex, display in page.evaluate(script, [text])]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$x^2$ and $y$, $n$-th", [("x^2", False), ("y", False), ("n", False)]),
        (r"f($x$) = $\alpha$.", [("x", False), (r"\alpha", False)]),
        ("$100$ and $2x+1$", [("100", False), ("2x+1", False)]),
        (r"$$a$$ \[b\] \(c\)", [("a", True), ("b", True), ("c", False)]),
        ("$$a \\\\[4pt] b$$", [("a \\\\[4pt] b", True)]),
        ("\\[\na\n= b\n- c\n\\]\nafter", [("a\n= b\n- c", True)]),
        ("\\begin{align}\na &= b\n\\end{align}", [("\\begin{align}\na &= b\n\\end{align}", True)]),
        ("- one\n\n  $$x$$\n", [("x", True)]),
        ("**Price $a$** and *$b$*", [("a", False), ("b", False)]),
    ],
)
def test_what_is_mathematics_is_a_formula(page: Page, text: str, found: list[tuple[str, bool]]) -> None:
    assert formulas(page, text) == found


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "$1,000-$2,000, or US$20 to HK$30",
        "between $5 and 10$ more",
        r"\$5 and \$6",
        "`$a` and `$b`",
        "```sh\necho $HOME $PATH$\n```",
        "$ a $ and $\n\nb$",
        "`$$` and `$$`",
        "```\nsed 's/\\(a\\)/b/'\n```",
        r"\( `<img src=x>` \[ never closed",
        "\\begin{document}\n\\end{document}",
        "$$\n\nno formula$$",
    ],
)
def test_prices_and_code_are_no_mathematics(page: Page, text: str) -> None:
    assert formulas(page, text) == []


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a\nb", "<p>a<br>b</p>"),
        ("say <b> and ![x](http://y/z.png)", "say &lt;b&gt; and <a href="),
        ("[l](javascript:x) [m](JaVaScRiPt:x)", "<p>[l](javascript:x) [m](JaVaScRiPt:x)</p>"),
        ("- [x] done\n- [ ] open", '<ul><li class="task done">done</li><li class="task">open</li></ul>'),
        ("| a |\n|--:|\n| 1 |", '<th align="right">a</th>'),
        ("### three", "<h3>three</h3>"),
        ("see https://x.example/a.", 'href="https://x.example/a"'),
        ("```py\nx\n```", '<span class="">py</span>'),
    ],
)
def test_blocks(page: Page, text: str, html: str) -> None:
    assert html in drawn(page, text)


def test_a_growing_text_draws_only_its_last_block_again(page: Page) -> None:
    script = """() => {
      const box = document.createElement('div');
      ggufChat.fill(box, 'one\\n\\ntwo', false);
      const first = box.children[0], second = box.children[1];
      ggufChat.fill(box, 'one\\n\\ntwo three\\n\\n- four', false);
      const same = [box.children[0] === first, box.children[1] === second, box.children.length];
      ggufChat.fill(box, 'one', true);
      return [...same, box.children.length, box.textContent.trim()];
    }"""
    assert page.evaluate(script) == [True, False, 3, 1, "one"]


HOSTILE = (
    *(r"\(a", r"\[a", "\\\\[", r"\(\[", "$$x ", "$a ", "\\begin{align}\n"),
    *("[", "![", "**a ", "`a", "> ", "- "),
)


@pytest.mark.parametrize("hostile", HOSTILE, ids=json.dumps)
def test_what_is_never_closed_costs_no_more_than_its_length(page: Page, hostile: str) -> None:
    script = """([text]) => {
      const box = document.createElement('div'), begin = performance.now();
      ggufChat.fill(box, text);
      return performance.now() - begin;
    }"""
    page.evaluate(script, [hostile * 1000])
    short = page.evaluate(script, [hostile * 2_000])
    assert (
        page.evaluate(script, [hostile * 20_000]) < 40 * short + 500
    )  # ms; ten times the text, never 100 times
