"""Routes for OpenAI's clients: models, chats, completions and embeddings, with the page's models."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from engine.config import SamplingParams
from engine.errors import EngineError, foreseen
from engine.serving.protocols import ChatStream
from engine.types import TextToEmbed
from ui.auth import access
from ui.auth.identity import on_own_machine
from ui.auth.limits import RateLimitExceeded
from ui.models.registry import Models, acquire_model, start_stream
from ui.openai.chat_response import ChatResponse
from ui.openai.completions import CompletionRequest
from ui.openai.embeddings import EmbeddingsRequest, EmbeddingsResponse
from ui.openai.errors import ApiError, field_error, from_engine, from_limit, not_found, response
from ui.openai.schemas import ChatRequest, GenerationRequest, NullIsAbsent

MAX_BODY = 4 << 20  # bytes
_STALL_SECONDS = 60.0  # a client that reads nothing for so long loses its stream
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter for nginx


def add_openai_api(app: FastAPI, models: Models) -> None:
    """Add the routes under /v1. Needs `AuthMiddleware` and `VisitorMiddleware` around the app."""
    started = int(time.time())

    def model_object(key: str) -> dict[str, Any]:
        return {"id": key, "object": "model", "created": started, "owned_by": "gguf-chat"}

    @app.exception_handler(ApiError)
    async def send_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return response(error)

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        choices = models.catalog.choices(on_own_machine(request))
        return {"object": "list", "data": [model_object(key) for _, key in choices]}

    @app.get("/v1/models/{key:path}")
    async def show_model(request: Request, key: str) -> dict[str, Any]:
        return model_object(_allowed_key(request, models, key))

    @app.post("/v1/chat/completions")
    async def answer(request: Request) -> Response:
        return await _answer(request, models, ChatRequest)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await _answer(request, models, CompletionRequest)

    @app.post("/v1/embeddings")
    async def embed(request: Request) -> Response:
        return await _embed(request, models)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def unknown_route(request: Request, path: str) -> Response:
        routes = "GET /v1/models, and POST /v1/chat/completions, /v1/completions and /v1/embeddings"
        raise ApiError(404, f"{request.method} /v1/{path} does not exist here: there are {routes}")


def _allowed_key(request: Request, models: Models, key: str | None) -> str:
    """Return the model's key, the default if none is given. Raises ApiError if the user may not use it."""
    if key and not models.catalog.allows(key, on_own_machine(request)):
        raise not_found(key)
    return key or models.pool.default


def _answering_key(request: Request, models: Models, name: str | None) -> str:
    """Return the key of the model that answers: any name means the only model, if there is one."""
    if len(models.catalog.choices(on_own_machine(request))) == 1:
        return models.pool.default
    return _allowed_key(request, models, name)


def _headers(key: str, chat: GenerationRequest | EmbeddingsRequest) -> dict[str, str]:
    """Return headers, percent-encoded: the model that answers, and fields that nothing is known of."""
    ignored = {"X-Ignored-Fields": quote(",".join(chat.unknown_fields), ",")} if chat.unknown_fields else {}
    return {"X-Model": quote(key, " "), **ignored}


async def _answer(
    request: Request, models: Models, kind: type[ChatRequest] | type[CompletionRequest]
) -> Response:
    """Answer a request. All refusals happen here, before a stream's status is sent."""
    chat = await _read(request, kind)
    key = _answering_key(request, models, chat.model)
    headers = _headers(key, chat)
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(access.admit(request))
            backend = await stack.enter_async_context(acquire_model(models.pool, key))
            sampling = chat.sampling(backend.info)
            streams = []
            for prompt in chat.prompts():
                streams.append(await start_stream(backend, prompt, sampling))
                stack.callback(streams[-1].cancel)
        except RateLimitExceeded as error:
            raise from_limit(error) from error
        except EngineError as error:
            raise from_engine(error) from error
        answers = chat.responses(key, backend.info)
        if chat.stream:
            return _EventStream(_events(streams[0], answers[0], chat), stack.pop_all(), headers)
        return await _completion(request, streams, answers, headers)


async def _embed(request: Request, models: Models) -> Response:
    """Answer with the embeddings of texts, which are computed one after another."""
    asked = await _read(request, EmbeddingsRequest)
    key = _answering_key(request, models, asked.model)
    found = EmbeddingsResponse(key)
    working = asyncio.create_task(_embed_all(request, models, key, asked.texts, found))
    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    disconnected.add_done_callback(lambda _: working.cancel())
    try:
        await working
    except asyncio.CancelledError:
        raise ApiError(400, "the request broke off") from None
    except RateLimitExceeded as error:
        raise from_limit(error) from error
    except EngineError as error:
        raise from_engine(error) from error
    finally:
        disconnected.cancel()
    size = len(found.vectors[0])
    if asked.dimensions not in (None, size):
        message = f"dimensions: {asked.dimensions} is not served here: this model's embeddings have {size}"
        raise ApiError(400, message, param="dimensions")
    return JSONResponse(found.body(asked.encoding_format), headers=_headers(key, asked))


async def _embed_all(
    request: Request, models: Models, key: str, texts: Sequence[str], found: EmbeddingsResponse
) -> None:
    with access.admit(request):
        async with acquire_model(models.pool, key) as backend:
            for text in texts:
                stream = await start_stream(backend, TextToEmbed(text), SamplingParams())
                async for event in stream:
                    found.update(event)


_Request = TypeVar("_Request", bound=NullIsAbsent)


async def _read(request: Request, kind: type[_Request]) -> _Request:
    """Read and validate a request's body. Raises ApiError."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise ApiError(413, f"the request is too large: {MAX_BODY} bytes are the most")
        return kind.model_validate_json(bytes(body))
    except ClientDisconnect as error:  # turned into an error only to keep it out of the log
        raise ApiError(400, "the request broke off") from error
    except ValidationError as error:
        raise field_error(error.errors(include_url=False, include_context=False)[0]) from error


async def _completion(
    request: Request,
    streams: Sequence[ChatStream],
    answers: Sequence[ChatResponse],
    headers: Mapping[str, str],
) -> Response:
    """Return the whole answers; stop them when the client disconnects."""

    def cancel_all(_: object) -> None:
        for stream in streams:
            stream.cancel()

    disconnected = asyncio.create_task(_wait_for_disconnect(request))
    disconnected.add_done_callback(cancel_all)
    try:
        for stream, answer in zip(streams, answers, strict=True):  # they are generated side by side
            async for event in stream:
                answer.update(event)
    except Exception as error:
        raise from_engine(foreseen(error)) from error
    finally:
        disconnected.cancel()
    return JSONResponse(answers[0].completion(answers[1:]), headers=headers)


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client disconnects. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _EventStream(StreamingResponse):
    """Server-sent events. `resources` are released at their end or when the client disconnects."""

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        resources: AsyncExitStack,
        headers: Mapping[str, str] = _UNBUFFERED,
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={**_UNBUFFERED, **headers})
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:  # not in the generator, which may never be started
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send the stream, unless the client stops reading: it must not hold the model for good."""

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(_STALL_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_in_time)
        except TimeoutError:
            return  # uvicorn closes the connection of an incomplete response


async def _events(
    stream: ChatStream, answer: ChatResponse, chat: GenerationRequest
) -> AsyncGenerator[str, None]:
    """Yield the server-sent events. An error is the last one, as the status has been sent already."""
    include_usage = chat.stream_options is not None and chat.stream_options.include_usage
    async with aclosing(_chunks(stream, answer, include_usage)) as chunks:
        try:
            async for chunk in chunks:
                yield _sse(json.dumps(chunk, ensure_ascii=False))
        except Exception as error:  # noqa: BLE001 - the boundary: the client must learn of any error
            yield _sse(json.dumps(from_engine(foreseen(error)).body))
        else:
            yield _sse("[DONE]")


async def _chunks(
    stream: ChatStream, answer: ChatResponse, include_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    without_usage: dict[str, Any] = {"usage": None} if include_usage else {}
    yield answer.first_chunk() | without_usage
    async for event in stream:
        for chunk in answer.chunks(event):
            yield chunk | without_usage
    yield answer.last_chunk() | without_usage
    if include_usage:
        yield answer.usage_chunk()


def _sse(data: str) -> str:
    return f"data: {data}\n\n"
