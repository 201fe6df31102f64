"""The API endpoint of the page: `gradio_client.Client(url).predict("Hello", api_name="/chat")` -> the answer.

`predict` returns the whole answer; `submit` yields its text so far as it grows.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any

import gradio as gr
from gradio.events import api

from engine.config import SAMPLING_FIELDS
from engine.errors import EngineError
from engine.serving.model_pool import ModelPool
from engine.serving.protocols import ChatStream
from ui.auth import access
from ui.auth.limits import RateLimitExceeded
from ui.generation.sessions import ActiveStreams
from ui.generation.streaming import snapshots
from ui.models.registry import acquire_model, start_stream
from ui.pages.chat.bindings import CHAT_QUEUE
from ui.render.messages import conversation
from ui.render.status import explain
from ui.sampling import sampling_from


def add_chat_endpoint(pool: ModelPool, live: ActiveStreams, concurrency: int) -> None:
    """Add the endpoint `chat` to the Blocks that is being built."""

    async def chat(
        request: gr.Request,
        message: str,
        history: list[dict[str, Any]] | None = None,
        system_prompt: str = "",
        *values: float | None,
    ) -> AsyncGenerator[str, None]:
        """Answer a message. `history` is a list of {role, content}; what is not given has its default."""
        asked = [*(history or []), {"role": "user", "content": message}]
        # Not strict: a caller that posts a plain list may leave out the last values.
        given = {
            row.name: value for row, value in zip(SAMPLING_FIELDS, values, strict=False) if value is not None
        }
        async with AsyncExitStack() as stack:
            stack.enter_context(_errors_for_the_client())
            stack.enter_context(access.admit(request))
            backend = await stack.enter_async_context(acquire_model(pool))
            sampling = sampling_from({**backend.info.recommended, **given})
            stream = await start_stream(backend, conversation(asked, system_prompt), sampling)
            stack.enter_context(live.track(str(request.session_hash), stream))
            texts = await stack.enter_async_context(aclosing(_texts(stream)))
            async for text in texts:
                yield text

    _name_the_values(chat)
    api(chat, api_name="chat", concurrency_limit=concurrency, concurrency_id=CHAT_QUEUE)


def _name_the_values(chat: Callable[..., AsyncGenerator[str, None]]) -> None:
    """Replace `*values` by the sampling parameters; Gradio reads the inputs from the signature."""
    signature = inspect.signature(chat)
    values = [
        inspect.Parameter(row.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
        for row in SAMPLING_FIELDS
    ]
    parameters = [*list(signature.parameters.values())[:-1], *values]
    chat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    chat.__annotations__ |= {row.name: row.type | None for row in SAMPLING_FIELDS}
    chat.__annotations__["return"] = str  # what a client receives


async def _texts(stream: ChatStream) -> AsyncGenerator[str, None]:
    """Yield the answer so far, again and again as it grows; raises the stream's error."""
    async with aclosing(snapshots(stream)) as updates:
        async for progress in updates:
            if progress.error is not None:
                raise progress.error
            yield progress.text


@contextmanager
def _errors_for_the_client() -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise gr.Error(explain(error), print_exception=False) from error
    except RateLimitExceeded as error:
        raise gr.Error(str(error), print_exception=False) from error
