"""DataOptions: how the rows of a data set become chats or texts."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property

from pipeline.errors import InputError

_SIDES = ("question", "answer", "system", "context")
_EXAMPLE = "question=COLUMN,answer=COLUMN"


@dataclass(frozen=True)
class DataOptions:
    r"""What a reader needs to know beside the file. Raises InputError for what cannot be meant.

    `columns` names the columns of a chat: "question=Q,answer=A", with `system=` and `context=` if wanted.
    `text` is a template of a plain text: "Quote: {quote}\nAuthor: {author}"; \n is a line end, \t a tab.
    `split` and `revision` are those of a data set on the Hub (or a folder with splits). `field` is the column
    whose value becomes each row's category.
    """

    columns: str | None = None
    text: str | None = None
    split: str | None = None
    revision: str | None = None
    field: str | None = None

    def __post_init__(self) -> None:
        if self.columns is not None and self.text is not None:
            raise InputError("--columns makes chats and --text plain texts: give one of them")
        for name in ("columns", "text", "split", "revision", "field"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise InputError(f"--{name} is empty: leave it out, or name something")
        _ = self.named_columns, self.template

    @cached_property
    def named_columns(self) -> dict[str, str]:
        """The column of each side of a chat, as `columns` names them; empty without."""
        if self.columns is None:
            return {}
        found: dict[str, str] = {}
        for part in self.columns.split(","):
            side, equals, column = (piece.strip() for piece in part.partition("="))
            if not equals or not column or side not in _SIDES:
                raise InputError(
                    f"--columns {self.columns!r}: {part.strip()!r} is none of "
                    f"{', '.join(f'{one}=COLUMN' for one in _SIDES)}: write {_EXAMPLE}"
                )
            if side in found:
                raise InputError(f"--columns {self.columns!r}: {side!r} is there twice: keep one")
            found[side] = column
        for side in ("question", "answer"):
            if side not in found:
                raise InputError(f"--columns {self.columns!r} names no {side}: write {_EXAMPLE}")
        return found

    @cached_property
    def template(self) -> list[tuple[str, str | None]]:
        """The parts of `text`: a literal text, and the column that follows it (None at the end)."""
        if self.text is None:
            return []
        parts: list[tuple[str, str | None]] = []
        try:
            for literal, column, form, conversion in string.Formatter().parse(self.text):
                if form or conversion or column == "":
                    raise ValueError("a column is written {NAME}")
                parts.append((_unescaped(literal), column))
        except ValueError as error:
            raise InputError(
                f"--text {self.text!r}: {error}: write it as 'Quote: {{quote}}', and {{{{ for a brace"
            ) from None
        if not any(column for _, column in parts):
            raise InputError(f"--text {self.text!r} has no column: write it as 'Quote: {{quote}}'")
        return parts


def _unescaped(text: str) -> str:
    """Replace what a shell passes on in single quotes: a backslash with n, t or another backslash."""
    pieces = [piece.replace("\\n", "\n").replace("\\t", "\t") for piece in text.split("\\\\")]
    return "\\".join(pieces)
