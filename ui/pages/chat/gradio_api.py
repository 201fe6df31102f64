"""The page's API endpoint: `gradio_client.Client(url).predict("Hello", api_name="/chat")` -> the answer.

`predict` returns the whole answer; `submit` gives it as it grows, each time from its first word on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.events import api

from engine.errors import EngineError
from engine.serving.model_pool import ModelPool
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

    async def chat(  # noqa: PLR0917  # Gradio passes them by position
        request: gr.Request,
        message: str,
        history: list[dict[str, Any]] | None = None,
        system_prompt: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        repeat_penalty: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
    ) -> AsyncGenerator[str, None]:
        """Answer a message. `history` is a list of {role, content}; what is not given has its default."""
        values = {"temperature": temperature, "max_tokens": max_tokens, "repeat_penalty": repeat_penalty}
        values |= {"top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed}
        asked = [*(history or []), {"role": "user", "content": message}]
        given = {name: value for name, value in values.items() if value is not None}
        try:
            with access.admit(request):
                async with acquire_model(pool) as backend:
                    sampling = sampling_from({**backend.info.recommended, **given})
                    stream = await start_stream(backend, conversation(asked, system_prompt), sampling)
                    with live.track(str(request.session_hash), stream):
                        async with aclosing(snapshots(stream)) as updates:
                            async for progress in updates:
                                if progress.error is not None:
                                    raise progress.error
                                yield progress.text
        except EngineError as error:
            raise _for_the_client(error) from error
        except RateLimitExceeded as error:
            raise gr.Error(str(error), print_exception=False) from error

    chat.__annotations__["return"] = str  # what a client receives; Gradio reads it for the API's description
    api(chat, api_name="chat", concurrency_limit=concurrency, concurrency_id=CHAT_QUEUE)


def _for_the_client(error: EngineError) -> gr.Error:
    return gr.Error(explain(error), print_exception=False)
