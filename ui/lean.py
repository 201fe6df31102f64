"""Gradio's page without two of its costs: components that are made anew, and a queue that polls.

A model computes on all cores, and each step waits for the core that the event loop was on.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.state_holder import SessionState

LOOK_SECONDS = 0.02  # how often Gradio's queue looks for work; its own choice is a thousand times a second


class LeanBlocks(gr.Blocks):
    """Events with `postprocess=False` send the dict that their handler gives as it is.

    For each output in it that is a `gr.update`, and each that is missing, Gradio makes the session's
    component anew, with a description for its API: 0.2 ms of the event loop for a Button, 3 for a Chatbot.
    The others go through a thread each. All that comes of it is a copy on the server of the properties that
    the browser has, for inputs that are checked against them (a Radio's choices).
    """

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """What the browser is sent for each output. What a State holds stays here."""
        if block_fn.postprocess or state is None or not isinstance(predictions, dict):
            return await super().postprocess_data(block_fn, predictions, state)
        sent: list[Any] = []
        for block in block_fn.outputs:
            if block.stateful and block in predictions:
                state[block._id] = predictions[block]
            sent.append(None if block.stateful else predictions.get(block, gr.skip()))
        return sent

    def queue(self, *args: Any, **kwargs: Any) -> LeanBlocks:
        """As Gradio's, but it looks less often for work, never for progress bars, and keeps no statistics."""
        super().queue(*args, **kwargs)
        self._queue.sleep_when_free = LOOK_SECONDS
        self._queue.progress_update_sleep_when_free = 1.0  # there are none
        self._queue.ANAYLTICS_CACHE_FREQUENCY = 10**9  # a pandas table after each event, for /monitoring
        return self
