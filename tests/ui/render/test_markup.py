"""Formulas in a model's Markdown; test_messages.py has the hostile ones."""

import re
import time

import pytest

from ui.render.messages import LATEX, neutralize_markdown, restore_markdown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("$x^2$ and $y$, $n$-th", r"\(x^2\) and \(y\), \(n\)-th"),
        (r"f($x$) = $\alpha$.", r"f(\(x\)) = \(\alpha\)."),
        ("$100$ and $2x+1$", r"\(100\) and \(2x+1\)"),
        (r"$$a$$ \[b\] \(c\)", r"$$a$$ \[b\] \(c\)"),
        (r"$$a \\[4pt] b$$ \[c \\[1em] d\]", r"$$a \\[4pt] b$$ \[c \\[1em] d\]"),
    ],
)
def test_what_is_mathematics_is_shown_as_such(text: str, seen: str) -> None:
    assert neutralize_markdown(text, dollars=True) == seen


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
    ],
)
def test_prices_and_code_are_no_mathematics(text: str) -> None:
    assert neutralize_markdown(text, dollars=True) == text


@pytest.mark.parametrize(
    "text",
    [
        "`$$` and `$$`",
        "```\nsed 's/\\(a\\)/b/'\n```",
        r"\( `<img src=x>` \[ never closed",
        r"\(a <img src=x> b\)",
        r"$a <b$ and $$ <i> $$",
    ],
)
def test_nothing_else_opens_or_closes_a_formula(text: str) -> None:
    shown = neutralize_markdown(text)
    assert restore_markdown(shown) == text
    for pair in LATEX:  # as Gradio finds formulas, which ignores code
        left, right = re.escape(str(pair["left"])), re.escape(str(pair["right"]))
        for formula in re.findall(f"{left}(.+?){right}", shown, re.DOTALL):
            assert "`" not in formula and "<i" not in formula


@pytest.mark.parametrize("hostile", [r"\(a", r"\[a", "\\\\[", r"\(\["])
def test_what_is_never_closed_costs_no_more_than_its_length(hostile: str) -> None:
    began = time.process_time()
    neutralize_markdown(hostile * 20_000, dollars=True)
    assert time.process_time() - began < 2  # it blocks the event loop; it once took 15 s
