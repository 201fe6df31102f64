"""Regular expressions of JSON schemas, as llguidance's automata take them."""

from __future__ import annotations

import re

_HEX = "[0-9a-fA-F]"
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
PATTERN_OF_FORMAT = {"base64": _BASE64, "byte": _BASE64} | {
    f"uuid{n}": f"^{_HEX}{{8}}-{_HEX}{{4}}-{n}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}$"
    for n in range(1, 9)
}
# RFC 3339 allows more than parsers read: the year 0, small letters, leap seconds, any number of digits.
_CLOCK = r":[0-5][0-9]([.][0-9]{1,6})?(Z|[+-][0-9:]{5})$"
TIGHTER_FORMAT = {
    "date": "^[1-9]",
    "time": f"^[0-9:]{{5}}{_CLOCK}",
    "date-time": f"^[1-9][0-9-]{{9}}T[0-9:]{{5}}{_CLOCK}",
}

# ^(?![set]*$) asks for a character that is not in the set, ^(?=text) for another match.
_NOT_ONLY = re.compile(r"\^\(\?!\^?\[(?P<set>\^?(?:\\.|[^\]\\])+)\]\*\$\)")
_ALSO = re.compile(r"\^\(\?=(?P<text>(?:\\.|\[(?:\\.|[^\]\\])*\]|[^()\[\]\\])*)\)")
# Pydantic's Decimal: an alternative that may be empty is not anchored, so the pattern asks nothing there.
_DECIMAL_END = re.compile(r"(?P<first>\(\?:\\d\{0,\d+\}\|)(?:\(\?=[^()]*\))+(?P<second>[^()|]*)\$\)$")


def without_lookahead(pattern: str) -> list[str]:
    """Return patterns that must all match, without the lookahead that llguidance's automata do not have."""
    pattern = _DECIMAL_END.sub(r"\g<first>\g<second>)$", pattern)
    found: list[str] = []
    while _has_no_alternatives(pattern):
        if match := _NOT_ONLY.match(pattern):
            inside = match["set"]
            found.append(f"[{inside[1:]}]" if inside.startswith("^") else f"[^{inside}]")
        elif match := _ALSO.match(pattern):
            found.append(f"^(?:{match['text']})")
        else:
            break
        pattern = f"^{pattern[match.end() :]}"
    return [pattern, *found]


def _has_no_alternatives(pattern: str) -> bool:
    """Return whether no | divides the whole pattern."""
    depth = 0
    for part in re.findall(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", pattern, re.DOTALL):
        depth += (part == "(") - (part == ")")
        if part == "|" and depth == 0:
            return False
    return True
