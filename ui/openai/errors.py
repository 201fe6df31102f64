"""Errors of /v1 in OpenAI's form: a status and `{"error": {message, type, param, code}}`.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from engine.errors import EngineError, EngineStopped, QueueFull, RequestError, SettingsError
from ui.auth.limits import RateLimitExceeded

QUEUE_RETRY_SECONDS = 5  # sent as Retry-After when the queue is full


class ApiError(Exception):
    """A refused or failed request to /v1: OpenAI's "type" is `error_type`; `param` names a faulty field."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error_type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = {"error": {"message": message, "type": error_type, "param": param, "code": code}}

    @property
    def headers(self) -> Mapping[str, str]:
        """`Retry-After` in whole seconds, if the request may succeed later."""
        return {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}


def response(error: ApiError) -> JSONResponse:
    """Return the HTTP response of an error."""
    return JSONResponse(error.body, error.status, error.headers)


def from_engine(error: EngineError) -> ApiError:
    """Return the engine's error with its status, by which clients decide whether to retry."""
    if isinstance(error, QueueFull):
        return _too_many_requests(str(error), QUEUE_RETRY_SECONDS)
    if isinstance(error, (RequestError, SettingsError)):
        return ApiError(400, str(error))
    return ApiError(503 if isinstance(error, EngineStopped) else 500, str(error), error_type="server_error")


def from_limit(error: RateLimitExceeded) -> ApiError:
    """Return the error for a user over a limit of this server."""
    return _too_many_requests(str(error), error.seconds)


def _too_many_requests(message: str, seconds: float) -> ApiError:
    return ApiError(429, message, error_type="requests", code="rate_limit_exceeded", retry_after=seconds)


def not_found(model: str) -> ApiError:
    """Return the error for a model that is not on offer."""
    message = f"the model {model!r} does not exist here: GET /v1/models lists those that do"
    return ApiError(404, message, param="model", code="model_not_found")


def field_error(details: Mapping[str, Any]) -> ApiError:
    """Return one of pydantic's errors about a request's body."""
    param = ".".join(str(part) for part in details["loc"]) or None
    message = str(details["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, param=param)
