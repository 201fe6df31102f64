"""What a model's Markdown becomes before a browser sees it: harmless, and with its mathematics marked.

The text of a model is untrusted: it is shown as Markdown, and Markdown can carry HTML and images, that is,
requests to other people's servers. `defuse` takes both away by slipping an invisible WORD JOINER into `<tag`
and `![` (which leaves a link, for who wants to see the image), and into the fence of a Mermaid diagram, whose
text Gradio makes HTML of as it is. The reader sees exactly what the model wrote, and `restore` gives the
model back its own words.
Gradio's sanitizer and the page's Content-Security-Policy (ui/server.py) stand behind it.

Gradio takes whatever stands between two delimiters of mathematics for a formula, also across code. So those
that open or close no formula of ours get a joiner as well.
"""

from __future__ import annotations

import re

JOINER = "\u2060"  # WORD JOINER: no width, no line break, and no letter to an HTML parser
LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]

_LINES = r"(?:(?!\n[ \t]*\n).)+?"  # up to the paragraph's end
# Nor beyond the next one that opens: thousands that are never closed would each be followed to the end.
_DISPLAY = r"(?:(?!\n[ \t]*\n|(?<!\\)\\\[).)+?"
_INLINE = r"(?:(?!\n[ \t]*\n|(?<!\\)\\\().)+?"
# Code comes first: it is shown as it is, and people copy it. An unclosed fence runs to the end.
# `$x$` as Pandoc reads it: no space inside the dollars and no digit behind them, so that prices stay prices.
_PIECES = re.compile(
    r"(?P<code>^[ \t>]*(?P<fence>`{3,}(?!`)|~{3,}(?!~))[^\n]*\n(?:.*?^[ \t>]*(?P=fence)[`~]*[ \t]*$|.*)"
    rf"|(?<!`)(?P<tick>`{{1,8}})(?!`){_LINES}(?<!`)(?P=tick)(?!`))"
    rf"|(?P<display>\$\$(?!\$){_LINES}\$\$|(?<!\\)\\\[{_DISPLAY}\\\])"
    rf"|(?<!\\)\\\((?P<inline>{_INLINE})\\\)"
    rf"|(?<![\\$\w])\$(?P<dollars>(?![\s$])(?:(?!\n[ \t]*\n)[^$])+?(?<![\s\\]))\$(?![\w$])",
    re.MULTILINE | re.DOTALL,
)
_ACTIVE = re.compile(r"<(?=[A-Za-z/!?])|!(?=\[)")
_MERMAID = re.compile(r"```(?=mermaid)")
_DELIMITER = re.compile(r"\\(?=[()\[\]])|\$(?=\$)")
_DOLLARS = re.compile(r"\$(?=\$)")
_SLIPPED = re.compile(
    rf"<{JOINER}(?=[A-Za-z/!?])|!{JOINER}(?=\[)|\\{JOINER}(?=[()\[\]])|\${JOINER}(?=\$)|```{JOINER}(?=mermaid)"
)
_SUM = re.compile(r"\d[\d.,]*\s[^=+*/^_\\<>-]*$")  # "5 and 10", of "$5 and 10$"


def defuse(text: str, *, dollars: bool = False) -> str:
    r"""The same to a reader, without HTML and images to a browser; `dollars` turns `$x$` into `\(x\)`."""
    parts, end = [], 0
    for piece in _PIECES.finditer(text):
        parts += [_plain(text[end : piece.start()]), _piece(piece, dollars)]
        end = piece.end()
    return _slip(_MERMAID, "".join([*parts, _plain(text[end:])]))


def restore(text: str) -> str:
    """Undo `defuse` without `dollars`."""
    return _SLIPPED.sub(lambda found: found.group()[:-1], text)


def _piece(piece: re.Match[str], dollars: bool) -> str:
    whole = piece.group()
    if piece["code"]:
        return _slip(_DELIMITER, whole)
    if piece["display"]:
        # Gradio pairs `$$` before all others, and a matrix has its own `\\[4pt]`.
        return whole[:2] + _slip(_DOLLARS, _slip(_ACTIVE, whole[2:-2])) + whole[-2:]
    if piece["inline"]:
        return f"\\({_plain(piece['inline'])}\\)"
    if dollars and not _SUM.match(piece["dollars"]):
        return f"\\({_plain(piece['dollars'])}\\)"
    return _plain(whole)


def _plain(text: str) -> str:
    return _slip(_DELIMITER, _slip(_ACTIVE, text))


def _slip(what: re.Pattern[str], text: str) -> str:
    return what.sub(rf"\g<0>{JOINER}", text)
