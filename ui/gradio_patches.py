"""What is changed in Gradio: its import, events, queue and URLs, and its log, for privacy.

At each import, Gradio parses the source of each of its components, renders a `.pyi` beside it, and parses
that too (gradio.component_meta.create_or_modify_pyi), which takes half of the import's time. No setting turns
this off, so an import hook replaces that function as soon as its module is loaded, before any component is.

This module does not import Gradio, since the hook comes first, and the terminal needs none of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.text import error_place

if TYPE_CHECKING:
    from fastapi import Request, Response
    from gradio import Blocks
    from gradio.block_function import BlockFunction
    from gradio.state_holder import SessionState
    from starlette.datastructures import Headers

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


_log = logging.getLogger("ui")


def log_without_values() -> None:
    """Make Gradio, uvicorn and asyncio log an error by its type and place, in one line.

    They would print the traceback, whose message quotes the values of the event: a prompt that a client sent
    in a wrong form, or one of a megabyte.
    """
    from gradio import queueing, route_utils, routes, utils

    module = SimpleNamespace(print_exc=_log_error, format_exc=_error_line)
    for place in (queueing, route_utils, routes, utils):
        assert hasattr(place, "traceback"), place
        vars(place)["traceback"] = module
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(drop_values)


def _log_error() -> None:
    _log.error("an event failed: %s", _error_line())


def _error_line() -> str:
    error = sys.exc_info()[1]
    return error_place(error) if error is not None else "no error"


def drop_values(record: logging.LogRecord) -> bool:
    """Replace a log record's traceback by the error's type and place. A logging filter that keeps all.

    A cancelled task quotes nothing, and ui.server.logs knows it by its exception.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not isinstance(error, asyncio.CancelledError):
        head = (record.getMessage().splitlines() or [""])[0]  # asyncio's other lines quote the error
        record.msg, record.args = f"{head}: {error_place(error)}", ()
        record.exc_info = record.exc_text = None
    return True


TRACKED_UPLOADS = 256
"""The uploads whose progress is kept; the oldest ones beyond are forgotten."""


def bound_upload_progress() -> None:
    """Make Gradio keep the progress of few uploads.

    A client chooses the id of an upload, and Gradio forgets it only when its progress was read to the end.
    """
    from gradio import routes

    uploads = routes.file_upload_statuses
    if not isinstance(uploads._signals, _Newest):
        uploads._statuses, uploads._signals = _Newest(), _Newest(asyncio.Event)


class _Newest(defaultdict[str, Any]):
    """Keeps `TRACKED_UPLOADS` keys, the newest ones."""

    def __setitem__(self, key: str, value: object) -> None:
        super().__setitem__(key, value)
        if len(self) > TRACKED_UPLOADS:
            del self[next(iter(self))]


def use_root_path_of_request() -> None:
    """Make Gradio build its URLs from the request's `state.root_path`, see ui/server/root_path.py.

    Gradio knows only one root path for all requests, while X-Forwarded-Prefix belongs to one. Links in its
    pages are relative to the page's address, which has no slash at its end where a proxy strips all of /chat.
    """
    from gradio import route_utils, routes

    root_url, respond = route_utils.get_root_url, routes.templates.TemplateResponse
    if root_url.__module__ != route_utils.__name__:
        return  # it is done already

    def get_root_url(request: Request, route_path: str, root_path: str | None) -> str:
        return str(root_url(request, route_path, _root_path(request) or root_path))

    def template_response(request: Request, name: str, context: dict[str, Any], **options: Any) -> Response:
        if context.get("base_url") and (root := _root_path(request)):
            context["base_url"] = f"{urlsplit(root).path}/"
        return respond(request=request, name=name, context=context, **options)

    route_utils.get_root_url = get_root_url
    vars(routes.templates)["TemplateResponse"] = template_response


_USED_KEY = re.compile(r"translation_metadata\W+key\W+(\w+)")
_ADD_RESIZER = b"document.head.appendChild(script);"


def shape_pages(
    head: str, language_of: Callable[[Request], str], compressed: Callable[[Response, Headers], Response]
) -> None:
    """Put `head` at the end of the head of Gradio's pages, and leave out what a request's page does not need.

    Gradio's own option `head` is added by its script, after the first drawing. `language_of` returns the
    language of a request's page, which gets its texts in this one and English. Only a page in a frame loads
    the script that tells the frame its size. `compressed` gets the response and the request's headers.
    """
    from gradio import routes

    respond = routes.templates.TemplateResponse
    respond = getattr(respond, "unshaped", respond)

    def template_response(*, request: Request, context: dict[str, Any], **options: Any) -> Response:
        texts = _texts_of(context["config"], ("en", language_of(request)))
        config = {**context["config"], "i18n_translations": texts}
        response = respond(request=request, context={**context, "config": config}, **options)
        body = bytes(response.body).replace(_ADD_RESIZER, b"if (window.parent !== window) " + _ADD_RESIZER, 1)
        response.body = body.replace(b"</head>", f"{head}</head>".encode(), 1)
        response.headers["Content-Length"] = str(len(response.body))
        return compressed(response, request.headers)

    template_response.unshaped = respond  # type: ignore[attr-defined]
    vars(routes.templates)["TemplateResponse"] = template_response


def _texts_of(config: dict[str, Any], languages: Sequence[str]) -> dict[str, dict[str, str]] | None:
    """Return a page's texts: those whose keys have the first word of a key of one of its components."""
    if not (texts := config.get("i18n_translations")):
        return None
    used = set(_USED_KEY.findall(json.dumps(config["components"], default=str)))
    return {
        language: {key: text for key, text in texts[language].items() if key.split(".")[0] in used}
        for language in dict.fromkeys(languages)
        if language in texts
    }


def _root_path(request: Request) -> str:
    return str(request.scope.get("state", {}).get("root_path", ""))


QUEUE_POLL_SECONDS = 0.02  # between polls of Gradio's queue for work; its default is a millisecond


def fast_blocks(**options: Any) -> Blocks:
    """Return Blocks in which events with `postprocess=False` send their handler's dict unchanged.

    For each output that is a `gr.update` or is missing, Gradio would create the session's component anew,
    with a description for its API: 0.2 ms of the event loop for a Button, 3 ms for a Chatbot. Each other
    output would go through a thread. The only effect is a copy on the server of the browser's properties, for
    inputs that are checked against them (a Radio's choices).
    """
    import gradio as gr

    log_without_values()
    use_root_path_of_request()
    bound_upload_progress()

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
