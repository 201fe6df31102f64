"""The Spaces of the stand-in for the Hub: hardware and its price, variables, secrets, runtime, logs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.publish.hub_state import Account, HubState, Repository, Space

if TYPE_CHECKING:
    from tests.publish.hub_routes import Hub

FREE_ZERO_SPACES = 2


def pays_enough(state: HubState, account: Account, namespace: str, space: Space) -> bool:
    """Return whether an account may host a Space: without PRO only static ones, and two on ZeroGPU."""
    if account.pro or space.sdk == "static":
        return True
    if space.hardware != "zero-a10g" or space.sdk != "gradio":
        return False
    others = [
        repository
        for (kind, name), repository in state.repositories.items()
        if kind == "space" and name.startswith(f"{namespace}/") and repository.space is not space
    ]
    return (
        sum(other.space is not None and other.space.hardware == "zero-a10g" for other in others)
        < FREE_ZERO_SPACES
    )


def space_routes(hub: Hub) -> list[Route]:  # noqa: C901 - one function for each route
    """Return the routes below /api/spaces."""

    def space_of(request: HttpRequest, write: bool = True) -> tuple[Repository, Space]:
        request.path_params["kinds"] = "spaces"
        repository = hub.repository(request, write=write)
        assert repository.space is not None
        return repository, repository.space

    async def values(request: HttpRequest) -> Response:
        _, space = space_of(request)
        hidden = request.url.path.endswith("/secrets")
        held = space.secrets if hidden else space.variables
        if request.method == "POST":
            asked = await request.json()
            held[asked["key"]] = asked["value"]
        elif request.method == "DELETE":
            held.pop((await request.json())["key"], None)
        shown = {key: {"key": key} if hidden else {"key": key, "value": held[key]} for key in held}
        return JSONResponse(shown)

    async def runtime(request: HttpRequest) -> Response:
        repository, space = space_of(request, write=False)
        return _runtime(repository, space, space.next_stage())

    async def restart(request: HttpRequest) -> Response:
        repository, space = space_of(request)
        space.restarts += 1
        return _runtime(repository, space, "BUILDING")

    async def hardware(request: HttpRequest) -> Response:
        repository, space = space_of(request)
        asked = await request.json()
        account = hub.writer(request, request.path_params["owner"])
        changed = Space(space.sdk, asked["flavor"])
        if not pays_enough(hub.state, account, request.path_params["owner"], changed):
            return JSONResponse({"error": "Payment Required: subscribe to PRO"}, 402)
        space.hardware, space.sleep_time = asked["flavor"], asked.get("sleepTimeSeconds", space.sleep_time)
        return _runtime(repository, space, space.stages[0])

    async def sleep_time(request: HttpRequest) -> Response:
        repository, space = space_of(request)
        space.sleep_time = (await request.json())["seconds"]
        return _runtime(repository, space, space.stages[0])

    async def logs(request: HttpRequest) -> Response:
        _, space = space_of(request)
        lines = (f"data: {json.dumps({'data': line, 'timestamp': ''})}\n\n" for line in space.build_log)
        return StreamingResponse(lines, media_type="text/event-stream")

    start = "/api/spaces/{owner}/{name}"
    both = ["GET", "POST", "DELETE"]
    return [
        Route(f"{start}/variables", values, methods=both),
        Route(f"{start}/secrets", values, methods=both),
        Route(f"{start}/runtime", runtime),
        Route(f"{start}/restart", restart, methods=["POST"]),
        Route(f"{start}/hardware", hardware, methods=["POST"]),
        Route(f"{start}/sleeptime", sleep_time, methods=["POST"]),
        Route(f"{start}/logs/{{log}}", logs),
    ]


def _runtime(repository: Repository, space: Space, stage: str) -> Response:
    domain = repository.name.replace("/", "-").replace("_", "-").replace(".", "-").lower() + ".hf.space"
    known: dict[str, Any] = {
        "stage": stage,
        "hardware": {"current": None if "BUILDING" in stage else space.hardware, "requested": space.hardware},
        "storage": {"current": None, "requested": None},
        "gcTimeout": space.sleep_time,
        "domains": [{"domain": domain, "stage": "READY"}],
        "sha": repository.commits[-1].oid,
    }
    if space.error and stage.endswith("ERROR"):
        known["errorMessage"] = space.error
    return JSONResponse(known)
