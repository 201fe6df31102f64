from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from ui.render.html import TEMPLATES, html
from ui.render.tables import heading, paragraph, table

EVIL = "<img src=x onerror='a()'>\""


def test_text_is_escaped_and_html_is_nested() -> None:
    inner = html("<b>{{ text }}</b>", text="<i>")
    assert inner == "<b>&lt;i&gt;</b>"
    assert html("<p>{{ inner }}</p>", inner=inner) == "<p><b>&lt;i&gt;</b></p>"
    assert inner + "<i>" == "<b>&lt;i&gt;</b>&lt;i&gt;"


def test_a_forgotten_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        html("{{ text }}")


@pytest.mark.parametrize("drawn", [heading(EVIL), paragraph(EVIL), table([EVIL], [[EVIL]], EVIL)])
def test_nothing_gets_out_of_a_text_or_an_attribute(drawn: str) -> None:
    assert "<img" not in drawn and "'a()" not in drawn


def test_no_template_file_trusts_a_value() -> None:
    for path in TEMPLATES.iterdir():
        source = path.read_text(encoding="utf-8")
        assert "safe" not in source and "autoescape" not in source
