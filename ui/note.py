"""A word on a judged answer: what was good about it, or wrong."""

from __future__ import annotations

import gradio as gr

from ui.bar import Updates
from ui.texts import Words
from ui.translation import text
from ui.tree import Node


class NoteField:
    """Appears above the box when an answer was judged; `node` holds which one."""

    def __init__(self) -> None:
        self.node = gr.State(None)
        with gr.Row(elem_id="note", visible=False, equal_height=True) as self._row:
            self.text = gr.Textbox(
                show_label=False,
                label=text("note.label"),
                container=False,
                max_lines=1,
                max_length=2000,
                elem_id="note-text",
            )
            self.save = gr.Button(text("note.save"), size="sm", variant="secondary", scale=0, min_width=0)
            self.close = gr.Button(text("note.close"), size="sm", variant="secondary", scale=0, min_width=0)
        self.outputs = [self.node, self._row, self.text]

    def asking(self, node: Node, say: Words) -> Updates:
        """Ask about an answer that was just judged; hidden when the opinion was taken back."""
        if node.opinion is None:
            return self.hidden()
        return {
            self.node: node.id,
            self._row: gr.update(visible=True),
            self.text: gr.update(value=node.note, placeholder=say(f"note.{node.opinion}")),
        }

    def hidden(self) -> Updates:
        """Out of the way."""
        return {self.node: None, self._row: gr.update(visible=False)}
