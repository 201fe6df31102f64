"""The state of a stand-in for the Hub: accounts, repositories with their commits, stored files, faults."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

GITATTRIBUTES = b"*.gguf filter=lfs diff=lfs merge=lfs -text\n"
LFS_SUFFIXES = (".gguf", ".safetensors", ".whl", ".bin", ".png", ".model")
REGULAR_LIMIT = 5_000_000
"""Bytes; a larger file is stored beside the repository, whatever its name."""


class Refusal(Exception):
    """An answer with an error as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None, **content: Any) -> None:
        super().__init__(message)
        self.response = JSONResponse({"error": message, **content}, status)
        self.response.headers["X-Error-Message"] = message
        if code:
            self.response.headers["X-Error-Code"] = code


@dataclass
class Account:
    """A user with a token: `role` is "write" or "read"."""

    name: str
    role: str = "write"
    pro: bool = False
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.organizations)


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit: `content` is None for one that is stored beside the repository, by its SHA-256."""

    size: int
    sha256: str
    content: bytes | None = None

    @property
    def blob_id(self) -> str:
        """The SHA-1 of git's blob; of the pointer's, for a file stored beside the repository."""
        return git_blob_id(self.pointer if self.content is None else self.content)

    @property
    def pointer(self) -> bytes:
        version = "version https://git-lfs.github.com/spec/v1"
        return f"{version}\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, StoredFile]


@dataclass
class Space:
    """`stages` are the stages that the next requests for the runtime report; the last one stays."""

    sdk: str
    hardware: str = "cpu-basic"
    sleep_time: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str | None] = field(default_factory=dict)
    stages: list[str] = field(default_factory=lambda: ["BUILDING", "APP_STARTING", "RUNNING"])
    error: str | None = None
    build_log: list[str] = field(default_factory=list)
    restarts: int = 0

    def next_stage(self) -> str:
        return self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]


@dataclass
class Repository:
    """`admitted` are the users whom a gated repository has admitted; `awaiting` those who asked."""

    kind: str
    name: str
    private: bool = False
    gated: str | bool = False
    admitted: set[str] = field(default_factory=set)
    awaiting: set[str] = field(default_factory=set)
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    space: Space | None = None
    disabled: bool = False

    def add_commit(self, branch: str, title: str, files: dict[str, StoredFile]) -> Commit:
        parent = self.branches.get(branch, [])
        text = json.dumps([self.kind, self.name, branch, len(parent), title, sorted(files)])
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), title, files)
        self.branches[branch] = [*parent, commit]
        return commit

    def resolve(self, revision: str) -> Commit | None:
        """Return the head of a branch, or the commit of that oid."""
        if revision in self.branches:
            return self.branches[revision][-1]
        every = (commit for branch in self.branches.values() for commit in branch)
        return next((commit for commit in every if commit.oid == revision), None)

    @property
    def commits(self) -> list[Commit]:
        return self.branches["main"]

    @property
    def files(self) -> dict[str, StoredFile]:
        """The files of the head of main, without .gitattributes, which the Hub adds."""
        return {path: file for path, file in self.commits[-1].files.items() if path != ".gitattributes"}


@dataclass
class Fault:
    """Answers the next `times` requests whose "METHOD path" matches with a status, before they take effect.

    `after` requests pass first. With `hold`, a request waits for the event instead and then passes; with
    `cut`, the body of the answer ends after so many bytes, with both only once the event is there. With
    `late`, the request takes effect all the same, and only its answer is lost.
    """

    pattern: str
    status: int = 500
    times: int = 1
    message: str = "Internal Error"
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    hold: threading.Event | None = None
    cut: int | None = None
    late: bool = False
    reached: threading.Event = field(default_factory=threading.Event)

    def strikes(self, request: str) -> bool:
        if self.times <= 0 or not re.search(self.pattern, request):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        self.reached.set()
        return True


class Storage:
    """Files beside the repositories: objects by SHA-256, parts of uploads, and the folder of Xet."""

    def __init__(self, folder: Path) -> None:
        self._objects, self._parts = folder / "objects", folder / "parts"
        self.xet = folder / "xet"
        for path in (self._objects, self._parts, self.xet):
            path.mkdir(parents=True, exist_ok=True)

    def object_path(self, sha256: str) -> Path:
        return self._objects / sha256

    def part_path(self, sha256: str, number: int) -> Path:
        return self._parts / f"{sha256}-{number}"

    def complete(self, sha256: str, count: int) -> bool:
        """Join the parts of an object; return whether it has the SHA-256 that it should have."""
        digest = hashlib.sha256()
        beside = self._objects / f".{sha256}"
        with beside.open("wb") as out:
            for number in range(1, count + 1):
                part = self.part_path(sha256, number).read_bytes()
                digest.update(part)
                out.write(part)
        if digest.hexdigest() != sha256:
            return False
        beside.rename(self.object_path(sha256))
        return True

    def holds(self, sha256: str) -> bool:
        return self.object_path(sha256).is_file() or self.xet_hash(sha256) is not None

    def xet_hash(self, sha256: str) -> str | None:
        """Return the hash by which Xet knows a file; None for one that was not uploaded by Xet."""
        for path in self.xet.rglob("xorbs/shards/*.mdb"):
            if found := dict(_files_of_shard(path.read_bytes())).get(sha256):
                return found
        return None

    def xet_bytes(self) -> int:
        """Return the size of all that Xet has stored."""
        folders = self.xet.rglob("xorbs/xorbs/*")
        return sum(path.stat().st_size for path in folders if path.suffix != ".tagset")

    def fetch(self, sha256: str, size: int) -> Path:
        """Return the object's path, after joining one that Xet has stored in chunks."""
        path = self.object_path(sha256)
        if not path.is_file() and (xet_hash := self.xet_hash(sha256)):
            import hf_xet

            session = hf_xet.XetSession()
            with session.new_file_download_group(
                endpoint=f"local://{self.xet}", token="x", token_expiry_unix_secs=2**40, custom_headers={}
            ) as group:
                group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), str(path))
        return path

    def clear(self) -> None:
        for folder in (self._objects, self._parts, self.xet):
            shutil.rmtree(folder)
            folder.mkdir()


def _files_of_shard(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield (SHA-256, Xet hash) of the files in one of Xet's shards (MDBShardFile, records of 48 bytes)."""
    record, at = 48, 48
    while data[at : at + 32] != b"\xff" * 32:
        file_hash = data[at : at + 32]
        flags, segments = struct.unpack_from("<II", data, at + 32)
        with_verification, with_sha256 = flags >> 31 & 1, flags >> 30 & 1
        at += record * (1 + segments * (1 + with_verification))
        if with_sha256:
            yield _hex(data[at : at + 32]), _hex(file_hash)
            at += record


def _hex(value: bytes) -> str:
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))


@dataclass(frozen=True)
class Request:
    """A request as it arrived: `host` is "hub" or "storage", `part` its header Range."""

    host: str
    method: str
    path: str
    token: str | None
    part: str | None


@dataclass
class HubState:
    """All that the stand-in knows; tests read and change it directly."""

    storage: Storage
    accounts: dict[str, Account] = field(default_factory=dict)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    received: Counter[str] = field(default_factory=Counter)
    """Bytes by road: "parts" (to the storage), "regular" (in commits)."""
    part_size: int = 16_000_000
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add_account(self, token: str, name: str, **options: Any) -> Account:
        self.accounts[token] = Account(name, **options)
        return self.accounts[token]

    def add_repository(
        self, name: str, files: dict[str, bytes] | None = None, kind: str = "model", **options: Any
    ) -> Repository:
        """Make a repository with files in one commit; large ones and GGUF files beside it."""
        repository = Repository(kind, name, **options)
        repository.add_commit(
            "main", "initial commit", {".gitattributes": self.stored(".gitattributes", GITATTRIBUTES)}
        )
        if files:
            stored = {path: self.stored(path, content) for path, content in files.items()}
            repository.add_commit("main", "Upload files", {**repository.commits[-1].files, **stored})
        self.repositories[kind, name] = repository
        return repository

    def stored(self, path: str, content: bytes) -> StoredFile:
        sha256 = hashlib.sha256(content).hexdigest()
        if not is_large(path, len(content)):
            return StoredFile(len(content), sha256, content)
        self.storage.object_path(sha256).write_bytes(content)
        return StoredFile(len(content), sha256)

    def fail(self, pattern: str, status: int = 500, times: int = 1, **options: Any) -> Fault:
        """Let the next requests like the pattern fail; see Fault."""
        fault = Fault(pattern, status, times, **options)
        self.faults.append(fault)
        return fault

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(request)), None)

    @property
    def sent_bytes(self) -> int:
        """Bytes of files that have arrived by all roads."""
        return self.received.total() + self.storage.xet_bytes()


def is_large(path: str, size: int) -> bool:
    """Return whether the Hub stores a file beside the repository."""
    return size > REGULAR_LIMIT or (path.endswith(LFS_SUFFIXES) and size > 0)
