"""/v1/models and /v1/chat/completions, for OpenAI's clients, from the same engine as the page."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import anyio
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from engine.errors import EngineError
from engine.serving.protocols import ChatStream
from ui.auth import access
from ui.auth.identity import on_own_machine
from ui.auth.limits import RateLimitExceeded
from ui.models.registry import Models, acquire_model, start_stream
from ui.openai.errors import ApiError, field_error, from_engine, from_limit, not_found, response
from ui.openai.schemas import ChatRequest, ChatResponse

LARGEST_BODY = 4 << 20  # bytes
_STALLED = 60.0  # seconds without reading anything, after which a caller's stream is closed
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter for nginx


def add_openai_api(app: FastAPI, models: Models) -> None:
    """Add the routes, whose errors have OpenAI's form. Needs auth and visitor middleware around it."""
    started = int(time.time())

    def described(key: str) -> dict[str, Any]:
        return {"id": key, "object": "model", "created": started, "owned_by": "gguf-chat"}

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return response(error)

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        choices = models.catalog.choices(on_own_machine(request))
        return {"object": "list", "data": [described(key) for _, key in choices]}

    @app.get("/v1/models/{key:path}")
    async def show_model(request: Request, key: str) -> dict[str, Any]:
        return described(_allowed(request, models, key))

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        return await _answer(request, models)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def nothing_here(request: Request, path: str) -> Response:
        known = "GET /v1/models and POST /v1/chat/completions"
        raise ApiError(404, f"{request.method} /v1/{path} does not exist here: there are {known}")


def _allowed(request: Request, models: Models, key: str | None) -> str:
    """The model's key, the default for none. Raises ApiError for one that is not offered to who asks."""
    if key and not models.catalog.allows(key, on_own_machine(request)):
        raise not_found(key)
    return key or models.pool.default


async def _answer(request: Request, models: Models) -> Response:
    """Start an answer. All that can be refused is refused here, before a stream begins."""
    asked = await _read(request)
    key = _allowed(request, models, asked.model)
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(access.admit(request))
            backend = await stack.enter_async_context(acquire_model(models.pool, key))
            sampling = asked.sampling(backend.info)
            stream = await start_stream(backend, asked.conversation(), sampling)
        except RateLimitExceeded as error:
            raise from_limit(error) from error
        except EngineError as error:
            raise from_engine(error) from error
        stack.callback(stream.cancel)
        if asked.stream:
            return _Events(_events(stream, ChatResponse(key), asked), stack.pop_all())
        return await _whole(request, stream, ChatResponse(key))


async def _read(request: Request) -> ChatRequest:
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_BODY:
                raise ApiError(413, f"the request is too large: {LARGEST_BODY} bytes are the most")
        return ChatRequest.model_validate_json(bytes(body))
    except ClientDisconnect as error:  # nobody reads this: but a log without it is a log without noise
        raise ApiError(400, "the request broke off") from error
    except ValidationError as error:
        raise field_error(error.errors(include_url=False, include_context=False)[0]) from error


async def _whole(request: Request, stream: ChatStream, answer: ChatResponse) -> Response:
    """The answer in one piece; a caller who goes away ends it."""
    gone = asyncio.create_task(_gone(request))
    gone.add_done_callback(lambda _: stream.cancel())
    try:
        async for event in stream:
            answer.take(event)
    except EngineError as error:
        raise from_engine(error) from error
    finally:
        gone.cancel()
    return JSONResponse(answer.completion())


async def _gone(request: Request) -> None:
    """Returns when the caller has hung up; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Events(StreamingResponse):
    """Server-sent events; what is `held` for them is let go when they end or the caller hangs up."""

    def __init__(self, events: AsyncGenerator[str, None], held: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_UNBUFFERED)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:  # not in the generator, which may never get to begin
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """As its base does, but for a caller who reads no more: its model must not stay borrowed for good."""

        async def in_time(message: Message) -> None:
            with anyio.fail_after(_STALLED):
                await send(message)

        try:
            await super().stream_response(in_time)
        except TimeoutError:
            return  # an answer without an end: uvicorn closes the connection


async def _events(stream: ChatStream, answer: ChatResponse, asked: ChatRequest) -> AsyncGenerator[str, None]:
    """The stream's text. An error in its midst is its last event: the status is long sent."""
    counted = asked.stream_options is not None and asked.stream_options.include_usage
    async with aclosing(_chunks(stream, answer, counted)) as chunks:
        try:
            async for chunk in chunks:
                yield _sse(json.dumps(chunk, ensure_ascii=False))
        except EngineError as error:
            yield _sse(json.dumps(from_engine(error).body))
        else:
            yield _sse("[DONE]")


async def _chunks(
    stream: ChatStream, answer: ChatResponse, counted: bool
) -> AsyncGenerator[dict[str, Any], None]:
    without_usage: dict[str, Any] = {"usage": None} if counted else {}
    yield answer.first_chunk() | without_usage
    async for event in stream:
        if delta := answer.take(event):
            yield answer.text_chunk(delta) | without_usage
    yield answer.last_chunk() | without_usage
    if counted:
        yield answer.usage_chunk()


def _sse(data: str) -> str:
    return f"data: {data}\n\n"
