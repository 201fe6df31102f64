"""What is changed in Gradio, for speed: its import, its events and its queue.

At each import, Gradio parses the source of each of its components, renders a `.pyi` beside it, and parses
that too (gradio.component_meta.create_or_modify_pyi), which takes half of the import's time. No setting turns
this off, so an import hook replaces that function as soon as its module is loaded, before any component is.

This module does not import Gradio, since the hook comes first, and the terminal needs none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradio import Blocks
    from gradio.block_function import BlockFunction
    from gradio.state_holder import SessionState

_MODULE, _FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


def skip_stubs() -> None:
    """Install the import hook. Call it before Gradio is imported; it has no effect afterwards."""
    if _MODULE not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds only gradio.component_meta, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec with our loader; None for any other module."""
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _WithoutStubs(fullname, spec.origin)
        return spec


class _WithoutStubs(SourceFileLoader):
    """Loads the module, then replaces its function by one that does nothing."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, _FUNCTION):
            setattr(module, _FUNCTION, lambda *_: None)


QUEUE_POLL_SECONDS = 0.02  # between polls of Gradio's queue for work; its default is a millisecond


def fast_blocks(**options: Any) -> Blocks:
    """Return Blocks in which events with `postprocess=False` send their handler's dict unchanged.

    For each output that is a `gr.update` or is missing, Gradio would create the session's component anew,
    with a description for its API: 0.2 ms of the event loop for a Button, 3 ms for a Chatbot. Each other
    output would go through a thread. The only effect is a copy on the server of the browser's properties, for
    inputs that are checked against them (a Radio's choices).
    """
    import gradio as gr

    class FastBlocks(gr.Blocks):
        async def postprocess_data(
            self,
            block_fn: BlockFunction,
            predictions: list[Any] | dict[Any, Any],
            state: SessionState | None,
        ) -> list[Any]:
            """Return what to send to the browser for each output; values of a State stay on the server."""
            if block_fn.postprocess or state is None or not isinstance(predictions, dict):
                return await super().postprocess_data(block_fn, predictions, state)
            sent: list[Any] = []
            for block in block_fn.outputs:
                if block.stateful and block in predictions:
                    state[block._id] = predictions[block]
                sent.append(None if block.stateful else predictions.get(block, gr.skip()))
            return sent

        def queue(self, *args: Any, **kwargs: Any) -> FastBlocks:
            """Configure Gradio's queue to poll less often, and to keep no statistics."""
            super().queue(*args, **kwargs)
            self._queue.sleep_when_free = QUEUE_POLL_SECONDS
            self._queue.progress_update_sleep_when_free = 1.0  # no event has a progress bar
            self._queue.ANAYLTICS_CACHE_FREQUENCY = 10**9  # else a pandas table per event, for /monitoring
            return self

    return FastBlocks(**options)
