"""Options that several commands take: how a data set is read, and the threads."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

_data = partial(typer.Option, rich_help_panel="Data")

Columns = Annotated[
    str | None,
    _data(metavar="question=Q,answer=A", help="The columns of a table; also system= and context=."),
]
TextTemplate = Annotated[
    str | None,
    _data(metavar="TEMPLATE", help="Plain texts made of columns, such as 'Quote: {quote}'."),
]
Split = Annotated[str | None, _data(metavar="NAME", help="The split of a data set on the Hub.")]
Revision = Annotated[str | None, _data(metavar="REV", help="The revision of a data set on the Hub.")]
Field = Annotated[str | None, _data(metavar="COLUMN", help="The column with each row's category.")]

Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Threads.",
        show_default="the physical cores that are really yours",
        rich_help_panel="Running",
    ),
]
