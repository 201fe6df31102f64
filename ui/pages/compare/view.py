"""The HTML of a comparison: the answers in columns, and the tally of votes."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ui.generation.side_by_side import Column
from ui.i18n.words import Translator
from ui.pages.compare.tally import Pair
from ui.render.html import html, render
from ui.render.messages import split
from ui.render.status import line, status_line
from ui.render.tables import marked


@dataclass(frozen=True)
class Round:
    """A comparison: a column and a label for each model; `blind`: names are hidden until the vote."""

    lanes: tuple[Column, ...]
    labels: tuple[str, ...]
    blind: bool
    voted: bool = False

    @property
    def hidden(self) -> bool:
        """True while the models' names must not be shown."""
        return self.blind and not self.voted

    @property
    def done(self) -> bool:
        """True when all answers have ended."""
        return all(lane.done for lane in self.lanes)

    @property
    def votable(self) -> bool:
        """True when all answers have ended with some text, and there was no vote yet."""
        return self.done and not self.voted and all(_text(lane) for lane in self.lanes)

    def names(self) -> list[str]:
        """Return the headings of the columns: the models, or letters while they are hidden."""
        return list(string.ascii_uppercase[: len(self.lanes)]) if self.hidden else list(self.labels)


def columns(shown: Round, t: Translator) -> Markup:
    """Render the answers side by side; in the end, with the words that differ from the first answer.

    ui/static/compare.js draws the Markdown of `data-text`.
    """
    lanes = enumerate(zip(shown.names(), shown.lanes, strict=True))
    first = _text(shown.lanes[0]) if shown.done and shown.lanes else None
    parts = [_column(name, lane, first if n else None, shown.hidden, t) for n, (name, lane) in lanes]
    return html("<div class='lanes'>{{ parts }}</div>", parts=Markup().join(parts))


def table(pairs: Sequence[Pair], t: Translator) -> Markup:
    """Render the tally, a row for each pair of models."""
    if not pairs:
        return Markup()
    heads = ("first", "second", "first_wins", "second_wins", "ties", "blind")
    rows = [[getattr(pair, name) for name in heads] for pair in pairs]
    return render("tally", heads=[t(f"compare.head.{name}") for name in heads], rows=rows)


def _column(name: str, lane: Column, reference: str | None, hidden: bool, t: Translator) -> Markup:
    answer, spoken = _text(lane), split(_text(lane))
    return html(
        "<section class='lane'><h2>{{ name }}</h2>{{ line }}"
        "{% if thoughts %}<details class='thoughts'><summary>{{ label }}</summary>"
        "<div dir='auto'>{{ thoughts }}</div></details>{% endif %}"
        "<div class='said markdown' data-text='{{ text }}'></div>"
        "{% if differing %}<details class='differing'><summary>{{ differences }}</summary>"
        "<div dir='auto'>{{ differing }}</div></details>{% endif %}</section>",
        name=name,
        line=_hidden_line(lane, t) if hidden else _line(lane, t),
        thoughts=spoken.thoughts,
        label=t("chat.thoughts"),
        text=spoken.answer,
        differing=None if reference in (None, answer) else marked(reference, answer),
        differences=t("compare.differences"),
    )


def _line(lane: Column, t: Translator) -> Markup:
    if lane.stopped:
        return line(t("status.cancelled"), "note")
    return line(t("compare.waiting"), "busy") if lane.progress is None else status_line(lane.progress, t)


def _hidden_line(lane: Column, t: Translator) -> Markup:
    """Render the status without numbers that would give the model away."""
    if lane.stopped or (lane.progress is not None and lane.progress.error is not None):
        return _line(lane, t)
    if lane.progress is None or not lane.progress.text:
        return line(t("compare.waiting"), "busy")
    return line(t("compare.done")) if lane.done else line(t("status.writing"), "busy")


def _text(lane: Column) -> str:
    return lane.progress.text if lane.progress is not None else ""
