"""The routes of the stand-in for the Hub: accounts, repositories, commits, uploads, downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.publish.hub_card import card_errors, card_metadata
from tests.publish.hub_spaces import pays_enough, space_routes
from tests.publish.hub_state import (
    GITATTRIBUTES,
    Account,
    Commit,
    HubState,
    Repository,
    Space,
    StoredFile,
    is_large,
)

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Refusal(Exception):
    """An answer with an error as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None, **content: Any) -> None:
        super().__init__(message)
        self.response = JSONResponse({"error": message, **content}, status)
        self.response.headers["X-Error-Message"] = message
        if code:
            self.response.headers["X-Error-Code"] = code


class Hub:
    """The routes of the Hub; `storage_url` is the address of the other host."""

    def __init__(self, state: HubState, url: str, storage_url: str) -> None:
        self.state, self.url, self.storage_url = state, url, storage_url

    # Who may do what.

    def account(self, request: HttpRequest) -> Account | None:
        """Return the account of the request's token; None without one. Raises Refusal for an unknown one."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            return None
        if token not in self.state.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.state.accounts[token]

    def writer(self, request: HttpRequest, namespace: str) -> Account:
        """Return the account, which may write in the namespace."""
        account = self.account(request)
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        if account.role == "read":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if not account.owns(namespace):
            raise Refusal(
                403, f'Forbidden: you don\'t have the rights to write under the namespace "{namespace}"'
            )
        return account

    def repository(self, request: HttpRequest, write: bool = False, content: bool = False) -> Repository:
        """Return the repository of the path; `content`: only where its gate lets the account in."""
        path = request.path_params
        kind, name = KINDS[path.get("kinds", "models")], f"{path['owner']}/{path['name']}"
        account = self.account(request)
        found = self.state.repositories.get((kind, name))
        owns = account is not None and account.owns(path["owner"])
        if found is None or (found.private and not owns):
            if account is None:  # without the code, the client recognizes it by an https address only
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if found.disabled:
            raise Refusal(403, "Access to this resource is disabled.")
        if write:
            self.writer(request, path["owner"])
        if content and found.gated and not owns:
            self._pass_gate(found, account)
        return found

    def _pass_gate(self, repository: Repository, account: Account | None) -> None:
        start = f"Access to model {repository.name} is restricted"
        if account is None:
            raise Refusal(
                401,
                f"{start}. You must have access to it and be authenticated to access it. Please log in.",
                "GatedRepo",
            )
        if account.name in repository.awaiting:
            raise Refusal(
                403,
                f"Your request to access model {repository.name} is awaiting a review from the repo authors.",
                "GatedRepo",
            )
        if account.name not in repository.admitted:
            raise Refusal(
                403,
                f"{start} and you are not in the authorized list. "
                f"Visit {self.url}/{repository.name} to ask for access.",
                "GatedRepo",
            )

    def commit_of(self, request: HttpRequest, repository: Repository) -> Commit:
        revision = request.path_params.get("revision", "main")
        if (commit := repository.resolve(revision)) is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # The account and new repositories.

    async def whoami(self, request: HttpRequest) -> Response:
        account = self.account(request)
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        organizations = [{"type": "org", "name": name} for name in account.organizations]
        token = {"displayName": "test", "role": account.role}
        return JSONResponse(
            {
                "type": "user",
                "name": account.name,
                "isPro": account.pro,
                "canPay": account.pro,
                "orgs": organizations,
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    async def create(self, request: HttpRequest) -> Response:
        asked = await request.json()
        account = self.account(request)
        namespace = asked.get("organization") or (account.name if account else "")
        kind, name = asked.get("type") or "model", f"{namespace}/{asked['name']}"
        account = self.writer(request, namespace)
        url = f"{self.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.state.repositories:
            raise Refusal(409, f"You already created this {kind} repo", url=url)
        space = None
        if kind == "space":
            space = Space(asked["sdk"], asked.get("hardware") or "cpu-basic")
            if not pays_enough(self.state, account, namespace, space):
                raise Refusal(402, "Payment Required: subscribe to PRO to host a Space on this hardware")
            space.variables = {item["key"]: item["value"] for item in asked.get("variables") or []}
            space.secrets = {item["key"]: item["value"] for item in asked.get("secrets") or []}
        private = asked.get("visibility") == "private"
        self.state.add_repository(name, kind=kind, private=private, space=space)
        return JSONResponse({"url": url, "name": name, "id": name})

    async def validate_yaml(self, request: HttpRequest) -> Response:
        asked = await request.json()
        errors, warnings = card_errors(asked["content"])
        if errors and "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse("\n".join(errors), 400)
        content = {
            "errors": [{"message": text} for text in errors],
            "warnings": [{"message": text} for text in warnings],
        }
        return JSONResponse(content, 400 if errors else 200)

    # Reading.

    async def info(self, request: HttpRequest) -> Response:
        repository = self.repository(request)
        commit = self.commit_of(request, repository)
        siblings = [
            {"rfilename": path} | (self._described(path, file) if "blobs" in request.query_params else {})
            for path, file in sorted(commit.files.items())
        ]
        known = {
            "id": repository.name,
            "modelId": repository.name,
            "sha": commit.oid,
            "private": repository.private,
            "gated": repository.gated,
            "siblings": siblings,
            "tags": [],
        }
        if (card := commit.files.get("README.md")) and card.content:
            known["cardData"] = card_metadata(card.content.decode())
        return JSONResponse(known)

    async def tree(self, request: HttpRequest) -> Response:
        repository = self.repository(request)
        files = self.commit_of(request, repository).files
        start = request.path_params.get("path", "").rstrip("/")
        inside = {path: file for path, file in files.items() if not start or path.startswith(f"{start}/")}
        if start and not inside:
            raise Refusal(404, f"{start} does not exist on this revision", "EntryNotFound")
        return JSONResponse([self._entry(path, file) for path, file in sorted(inside.items())])

    async def paths_info(self, request: HttpRequest) -> Response:
        repository = self.repository(request)
        wanted = (await request.form()).getlist("paths")
        files = self.commit_of(request, repository).files
        return JSONResponse([self._entry(path, files[path]) for path in map(str, wanted) if path in files])

    def _described(self, path: str, file: StoredFile) -> dict[str, Any]:
        entry = {"size": file.size, "blobId": file.blob_id}
        if file.content is None:
            entry["lfs"] = {"size": file.size, "sha256": file.sha256, "pointerSize": len(file.pointer)}
        return entry

    def _entry(self, path: str, file: StoredFile) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
        if file.content is None:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
            if xet_hash := self.state.storage.xet_hash(file.sha256):
                entry["xetHash"] = xet_hash
        return entry

    async def refs(self, request: HttpRequest) -> Response:
        branches = self.repository(request).branches.items()
        listed = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].oid}
            for name, commits in branches
        ]
        return JSONResponse({"branches": listed, "tags": [], "converts": []})

    async def commits(self, request: HttpRequest) -> Response:
        branch = self.repository(request).branches.get(request.path_params["revision"], [])
        date = "2026-01-01T00:00:00.000Z"
        listed = [
            {"id": one.oid, "title": one.title, "message": "", "authors": [], "date": date} for one in branch
        ]
        return JSONResponse(listed[::-1])

    async def create_branch(self, request: HttpRequest) -> Response:
        repository = self.repository(request, write=True)
        name = request.path_params["revision"]
        if name in repository.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        repository.branches[name] = list(repository.branches["main"])
        return JSONResponse({}, 201)

    async def resolve(self, request: HttpRequest) -> Response:
        repository = self.repository(request, content=True)
        commit = self.commit_of(request, repository)
        headers = {"X-Repo-Commit": commit.oid}
        if (file := commit.files.get(request.path_params["path"])) is None:
            refusal = Refusal(404, "Entry not found", "EntryNotFound").response
            refusal.headers.update(headers)
            return refusal
        if file.content is not None:
            return Response(file.content, headers=headers | {"ETag": f'"{file.blob_id}"'})
        headers |= {
            "Location": f"{self.storage_url}/object/{file.sha256}?size={file.size}",
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(file.size),
            "Accept-Ranges": "bytes",
        }
        if xet_hash := self.state.storage.xet_hash(file.sha256):
            kinds = f"{repository.kind}s"
            refresh = f"{self.url}/api/{kinds}/{repository.name}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{refresh}>; rel="xet-auth"'}
        return Response(status_code=302, headers=headers)

    async def auth_check(self, request: HttpRequest) -> Response:
        self.repository(request, write=request.url.path.endswith("/write"), content=True)
        return JSONResponse({})

    # Writing.

    async def settings(self, request: HttpRequest) -> Response:
        repository = self.repository(request, write=True)
        asked = await request.json()
        if "gated" in asked:
            repository.gated = asked["gated"]
        if "visibility" in asked:
            repository.private = asked["visibility"] == "private"
        return JSONResponse(asked)

    async def preupload(self, request: HttpRequest) -> Response:
        repository = self.repository(request, write=True)
        known = self.commit_of(request, repository).files
        answers = []
        for item in (await request.json())["files"]:
            base64.b64decode(item["sample"], validate=True)
            mode = "lfs" if is_large(item["path"], item["size"]) else "regular"
            answer = {"path": item["path"], "uploadMode": mode, "shouldIgnore": False}
            if old := known.get(item["path"]):
                answer["oid"] = old.sha256 if old.content is None else old.blob_id
            answers.append(answer)
        return JSONResponse({"files": answers})

    async def xet_token(self, request: HttpRequest) -> Response:
        writes = "write" in request.url.path
        self.repository(request, write=writes, content=not writes)
        url, until = f"local://{self.state.storage.xet}", int(time.time()) + 3600
        headers = {
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": "short-lived",
            "X-Xet-Token-Expiration": str(until),
        }
        return JSONResponse({"casUrl": url, "accessToken": "short-lived", "exp": until}, headers=headers)

    async def lfs_batch(self, request: HttpRequest) -> Response:
        self.repository(request, write=True)
        objects = [self._upload_of(item) for item in (await request.json())["objects"]]
        return JSONResponse({"transfer": "multipart", "objects": objects})

    def _upload_of(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return where to send an object; no actions for one that is stored."""
        sha256, size, chunk = item["oid"], item["size"], self.state.part_size
        if self.state.storage.holds(sha256):
            return {"oid": sha256, "size": size}
        if size <= chunk:
            upload: dict[str, Any] = {"href": f"{self.storage_url}/part/{sha256}/1?whole=1"}
        else:
            count = -(-size // chunk)
            header: dict[str, Any] = {
                f"{number:05}": f"{self.storage_url}/part/{sha256}/{number}" for number in range(1, count + 1)
            }
            upload = {"href": f"{self.url}/complete", "header": {"chunk_size": str(chunk), **header}}
        return {"oid": sha256, "size": size, "actions": {"upload": upload}}

    async def complete(self, request: HttpRequest) -> Response:
        asked = await request.json()
        if not self.state.storage.complete(asked["oid"], len(asked["parts"])):
            raise Refusal(400, "The parts have another SHA-256")
        return JSONResponse({})

    async def commit(self, request: HttpRequest) -> Response:
        repository = self.repository(request, write=True)
        branch = request.path_params["revision"]
        head = self.commit_of(request, repository)
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", head.oid) != head.oid:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            self._apply(line["key"], line["value"], files)
        files.setdefault(".gitattributes", self.state.stored(".gitattributes", GITATTRIBUTES))
        commit = repository.add_commit(branch, header["summary"], files)
        url = f"{self.url}/{repository.name}/commit/{commit.oid}"
        return JSONResponse({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, StoredFile]) -> None:
        """Change `files` by one operation of a commit."""
        if key == "file":
            content = base64.b64decode(value["content"])
            self.state.received["regular"] += len(content)
            files[value["path"]] = StoredFile(len(content), hashlib.sha256(content).hexdigest(), content)
        elif key == "lfsFile":
            if not self.state.storage.holds(value["oid"]):
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = StoredFile(value["size"], value["oid"])
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
                del files[path]

    def app(self) -> Starlette:
        """Return the application of the Hub's host."""
        repository = "/api/{kinds}/{owner}/{name}"
        routes = [
            Route("/api/whoami-v2", self.whoami),
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/validate-yaml", self.validate_yaml, methods=["POST"]),
            Route("/complete", self.complete, methods=["POST"]),
            Route(f"{repository}", self.info),
            Route(f"{repository}/revision/{{revision:path}}", self.info),
            Route(f"{repository}/tree/{{revision}}", self.tree),
            Route(f"{repository}/tree/{{revision}}/{{path:path}}", self.tree),
            Route(f"{repository}/paths-info/{{revision:path}}", self.paths_info, methods=["POST"]),
            Route(f"{repository}/refs", self.refs),
            Route(f"{repository}/commits/{{revision:path}}", self.commits),
            Route(f"{repository}/branch/{{revision:path}}", self.create_branch, methods=["POST"]),
            Route(f"{repository}/preupload/{{revision:path}}", self.preupload, methods=["POST"]),
            Route(f"{repository}/commit/{{revision:path}}", self.commit, methods=["POST"]),
            Route(f"{repository}/xet-write-token/{{revision:path}}", self.xet_token),
            Route(f"{repository}/xet-read-token/{{revision:path}}", self.xet_token),
            Route(f"{repository}/settings", self.settings, methods=["PUT"]),
            Route(f"{repository}/auth-check", self.auth_check),
            Route(f"{repository}/auth-check/write", self.auth_check),
            *space_routes(self),
        ]
        for prefix in ("", "/{kinds}"):
            routes += [
                Route(
                    f"{prefix}/{{owner}}/{{name}}.git/info/lfs/objects/batch",
                    self.lfs_batch,
                    methods=["POST"],
                ),
                Route(f"{prefix}/{{owner}}/{{name}}/resolve/{{revision}}/{{path:path}}", self.resolve),
            ]
        return Starlette(routes=routes, exception_handlers={Refusal: _refused})


async def _refused(_request: HttpRequest, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return refusal.response
