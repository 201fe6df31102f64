"""Errors of /v1 as OpenAI's clients know them: a status and `{"error": {message, type, param, code}}`.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from engine.errors import EngineError, EngineStopped, QueueFull, RequestError, SettingsError
from ui.auth.limits import RateLimitExceeded

BUSY_SECONDS = 5  # how soon it is worth asking again when the queue is full


class ApiError(Exception):
    """A request to /v1 that is refused or failed; `param` names the field at fault, where there is one."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @property
    def headers(self) -> Mapping[str, str]:
        """`Retry-After` in whole seconds, where asking again may help."""
        return {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}


def response(error: ApiError) -> JSONResponse:
    """The error as it is sent."""
    return JSONResponse(error.body, error.status, error.headers)


def from_engine(error: EngineError) -> ApiError:
    """An engine's error with the status that tells a client whether to repeat the request."""
    if isinstance(error, QueueFull):
        return _wait(str(error), BUSY_SECONDS)
    if isinstance(error, (RequestError, SettingsError)):
        return ApiError(400, str(error))
    return ApiError(503 if isinstance(error, EngineStopped) else 500, str(error), kind="server_error")


def from_limit(error: RateLimitExceeded) -> ApiError:
    """A limit of this server that a caller has reached."""
    return _wait(str(error), error.seconds)


def _wait(message: str, seconds: float) -> ApiError:
    return ApiError(429, message, kind="requests", code="rate_limit_exceeded", retry_after=seconds)


def not_found(model: str) -> ApiError:
    """A model that is not offered."""
    message = f"the model {model!r} does not exist here: GET /v1/models lists those that do"
    return ApiError(404, message, param="model", code="model_not_found")


def field_error(first: Mapping[str, Any]) -> ApiError:
    """The first of pydantic's errors about a request's body."""
    param = ".".join(str(part) for part in first["loc"]) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, param=param)
