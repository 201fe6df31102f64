"""Hostile Markdown in the real page, in one load: it runs no code, sends no request and stays visible."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Dialog, Page, expect

from tests.ui.conftest import FakeSite, Spy, until
from tests.ui.fake_backend import FakeBackend
from tests.ui.pages.hostile import CLOSED, UNCLOSED, armed

ALLOWED = (
    "p a b strong em del ul ol li code pre blockquote table thead tbody tr th td h1 h2 h3 br hr span div"
)
OFFENDERS = """(allowed) => {
  const wrong = [];
  const KNOWN = 'class href target rel title align start dir tabindex data-coloured'.split(' ');
  for (const element of document.querySelectorAll('#conversation .message .markdown *')) {
    if (element.closest('.math, .copy-code')) continue;
    const name = element.tagName.toLowerCase();
    if (!allowed.includes(name)) wrong.push('<' + name + '>');
    for (const { name: attribute, value } of element.attributes) {
      if (!KNOWN.includes(attribute))
        wrong.push(name + ' ' + attribute + '=' + value);
    }
  }
  for (const link of document.querySelectorAll('#conversation .message .markdown a')) {
    if (!link.hasAttribute('href')) continue;
    const safe = ['http:', 'https:', 'mailto:'].includes(link.protocol);
    if (!safe) wrong.push('link to ' + link.getAttribute('href'));
    if (link.target !== '_blank' || !link.rel.includes('noopener')) wrong.push('same window: ' + link.href);
  }
  for (const element of document.querySelectorAll('#conversation .message *'))
    for (const { name, value } of element.attributes)
      if (name.startsWith('on')) wrong.push(name + value);
  for (const tag of ['base:not([href="./"])', 'meta[http-equiv=refresh]', 'iframe', 'object', 'embed'])
    if (document.querySelector(tag)) wrong.push('a ' + tag + ' in the page');
  return wrong;
}"""


def ask(page: Page, text: str) -> None:
    page.locator("#question textarea").fill(text)
    page.keyboard.press("Enter")


def test_hostile_markdown_runs_nothing_and_asks_nobody(
    open_page: Callable[..., Page], fake_site: Callable[[FakeBackend], FakeSite], spy: Spy
) -> None:
    site = fake_site(FakeBackend())
    page = open_page(site.url)
    dialogs: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    numbered = (f"{payload}\n\nend{n}.\n\n" for n, payload in enumerate(CLOSED))
    for number, payload in enumerate(["".join(numbered), *UNCLOSED]):
        site.backend.answer = text = armed(payload, spy.url)
        ask(page, f"{text[:2000]} asked")  # users' messages are rendered the same way
        expect(page.locator("#conversation .message.bot")).to_have_count(number + 1)
        expect(page.locator("#question .submit-button")).to_be_visible()

    first = page.locator("#conversation .message.bot").first
    first.scroll_into_view_if_needed()  # what is out of sight is not laid out
    until(first.inner_text)
    shown = first.inner_text()
    assert [n for n in range(len(CLOSED)) if not re.search(rf"^end{n}\.$", shown, re.MULTILINE)] == []
    assert "<script>window.hacked=1</script>" in shown  # the reader sees all of it
    page.wait_for_timeout(500)
    assert page.evaluate(OFFENDERS, ALLOWED.split()) == []
    assert page.evaluate("window.hacked") is None
    place = re.sub(r"\?chat=[\w-]+$", "", page.url)  # the chat's own address
    assert (dialogs, spy.visits, place.rstrip("/")) == ([], [], site.url)
    assert page.locator("#question textarea").is_visible()

    with page.expect_popup() as opened:  # a remote image becomes a link, and is loaded only on a click
        page.get_by_role("link", name="pixel").first.click()
    opened.value.wait_for_load_state()
    assert "/image.png" in spy.visits
    assert opened.value.evaluate("window.opener") is None
