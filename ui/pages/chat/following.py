"""The signal with which a tab begins to follow an answer that it has not asked for."""

from __future__ import annotations

from itertools import count
from typing import Any

import gradio as gr


class Following:
    """A component without an appearance; a change of it begins the events that show an answer.

    A page learns of a changed State only from events in Gradio's queue, so it is a Timer that never ticks.
    """

    def __init__(self) -> None:
        self.signal = gr.Timer(1, active=False)
        self._numbers = count(2)

    def begin(self) -> dict[Any, Any]:
        """Return the update that makes the tab follow its answer."""
        return {self.signal: gr.update(value=next(self._numbers))}
