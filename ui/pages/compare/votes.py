"""The vote below a comparison, the tally of this browser's votes, and its export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ui.i18n.gradio import text
from ui.i18n.words import Translator, translator
from ui.pages.assets import DOWNLOAD, File
from ui.pages.compare.tally import Ballot, from_plain, tally, to_csv, to_json, to_plain
from ui.pages.compare.view import Round, columns, table
from ui.render.status import line

TIE = -1


class VotePanel:
    """The components of the vote and the tally; a vote reveals the names of the columns."""

    def __init__(self) -> None:
        self.round = gr.State(None)
        self._ballots = gr.BrowserState([], storage_key="gguf-chat.ballots", secret="gguf-chat")
        self.vote = gr.Radio([], label=text("compare.vote"), visible=False, elem_id="vote")
        with gr.Column(visible=False, elem_id="tally") as self._box:
            self._table = gr.HTML(padding=False)
            with gr.Row():
                small: dict[str, Any] = {"size": "sm", "variant": "secondary", "scale": 0}
                self._json = gr.Button(text("compare.json"), elem_id="tally-json", **small)
                self._csv = gr.Button(text("compare.csv"), elem_id="tally-csv", **small)
                self._clear = gr.Button(text("compare.clear"), elem_id="tally-clear", **small)
        self._file = gr.JSON(visible=False)

    def wire(self, page: gr.Blocks, answers: gr.HTML, note: gr.HTML) -> None:
        """Connect the events; `answers` shows the columns, `note` the line that asks for the vote."""
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        shown = [self._table, self._box]
        self.vote.input(
            self._vote,
            [self.vote, self.round, self._ballots],
            [self.vote, self.round, self._ballots, answers, note, *shown],
            **quick,
        )
        page.load(_shown, [self._ballots], shown, **quick)
        self._clear.click(lambda: [], None, [self._ballots], **quick).then(
            _shown, [self._ballots], shown, **quick
        )
        file = [self._file]
        for button, make in ((self._json, _json_file), (self._csv, _csv_file)):
            button.click(make, [self._ballots], file, **quick).then(
                None, file, file, js=DOWNLOAD, api_visibility="private"
            )

    def offer(self, current: Round, t: Translator) -> Any:
        """Return the vote's choices for a complete round, else hide the vote."""
        if not current.votable:
            return gr.update(visible=False, choices=[], value=None)
        choices = [(t("compare.best", name=name), index) for index, name in enumerate(current.names())]
        tie = (t("compare.tie"), TIE)
        return gr.update(visible=True, choices=[*choices, tie], value=None, interactive=True)

    def _vote(
        self, request: gr.Request, choice: object, current: Round | None, kept: object
    ) -> Sequence[Any]:
        """Count a vote, once for each round, and reveal the names."""
        if current is None or not current.votable or choice not in (TIE, *range(len(current.lanes))):
            return [gr.skip()] * 7
        assert isinstance(choice, int)
        best = None if choice == TIE else current.labels[choice]
        ballots = [*from_plain(kept), Ballot(current.labels, best, current.blind)]
        revealed, t = replace(current, voted=True), translator(request)
        names = [(t("compare.best", name=name), index) for index, name in enumerate(revealed.names())]
        vote = gr.update(interactive=False, choices=[*names, (t("compare.tie"), TIE)], value=choice)
        plain = to_plain(ballots)
        return [vote, revealed, plain, columns(revealed, t), line(""), *_shown(request, plain)]


def _shown(request: gr.Request, kept: object) -> tuple[str, Any]:
    pairs = tally(from_plain(kept))
    return table(pairs, translator(request)), gr.update(visible=bool(pairs))


def _json_file(kept: object) -> File:
    return {"name": "votes" + ".json", "type": "application/json", "content": to_json(from_plain(kept))}


def _csv_file(kept: object) -> File:
    return {"name": "votes" + ".csv", "type": "text/csv", "content": to_csv(from_plain(kept))}
