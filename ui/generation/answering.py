"""One answer, from the question to its last word: what the engine says goes into the store as it grows."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import asdict, dataclass, replace

from engine.config import SamplingParams
from engine.serving.protocols import ChatBackend
from engine.types import Message, ModelInfo, RequestStats
from ui.conversations.model import GenerationInfo, Node, Reason
from ui.conversations.store import NotFound, Store, StoreError
from ui.generation.sessions import ActiveStreams, TabRequest
from ui.generation.streaming import Progress, snapshots
from ui.models.files import short_name
from ui.models.registry import started
from ui.models.weights_hash import WeightsHashes

_SELDOM = ("stop", "grammar", "json_schema", "ignore_end")  # of no interest when they are not set


def start_generation(
    info: ModelInfo, system_prompt: str, sampling: SamplingParams, model_hash: str = ""
) -> GenerationInfo:
    """What is known before the first word; should the process be killed, it stays so."""
    settings = {name: value for name, value in asdict(sampling).items() if name not in _SELDOM or value}
    name, quantization = short_name(info), info.quantization
    return GenerationInfo(
        name, model_hash, quantization, system_prompt, settings, "interrupted", 0, 0, 0, None, None
    )


def finish_generation(
    made: GenerationInfo, progress: Progress, before: GenerationInfo | None = None
) -> GenerationInfo:
    """What is known at the end; `before` is how the part was made that the answer was continued from."""
    stats = progress.stats or _reckoned(progress)
    whole = replace(
        made,
        reason=_reason(progress),
        prompt_tokens=stats.prompt_tokens,
        cached_tokens=stats.cached_tokens,
        generated_tokens=stats.generated_tokens,
        first_text_seconds=progress.first_text_seconds,
        decode_seconds=stats.decode_seconds if stats.generated_tokens else None,
        dropped_messages=progress.dropped.messages if progress.dropped else 0,
    )
    return _joined(before, whole) if before is not None and before.generated_tokens else whole


def _joined(before: GenerationInfo, after: GenerationInfo) -> GenerationInfo:
    return replace(
        after,
        prompt_tokens=before.prompt_tokens,
        cached_tokens=before.cached_tokens,
        generated_tokens=before.generated_tokens + after.generated_tokens,
        first_text_seconds=before.first_text_seconds,
        decode_seconds=(before.decode_seconds or 0.0) + (after.decode_seconds or 0.0),
    )


def _reckoned(progress: Progress) -> RequestStats:
    """The numbers of an answer that broke off, as far as they were seen from here."""
    read = progress.prompt.done if progress.prompt else 0
    cached = progress.prompt.cached if progress.prompt else 0
    seconds = (progress.last_text or 0.0) - (progress.first_text or 0.0)
    return RequestStats(read, cached, progress.pieces, 0.0, 0.0, seconds)


def _reason(progress: Progress) -> Reason:
    if progress.error is not None:
        return "error"
    return progress.reason or "cancelled"  # the reader went away


KEEP_SECONDS = 1.0  # what a kill -9 may cost
Serving = Callable[[str | None], AbstractAsyncContextManager[ChatBackend]]


@dataclass(frozen=True)
class Task:
    """What to answer: the messages of `path`, or to continue, when the last one of them is an answer."""

    owner: str
    key: str
    path: tuple[Node, ...]
    system_prompt: str
    sampling: SamplingParams
    model: str | None = None

    @property
    def begun(self) -> Node | None:
        """The answer that is to be continued."""
        return self.path[-1] if self.path[-1].role == "assistant" else None

    def messages(self) -> list[Message]:
        """What the engine reads. A space at the end of a cut answer belongs to its next word's token."""
        before = self.path[:-1] if self.begun else self.path
        said: list[Message] = [
            {"role": node.role, "content": node.text} for node in before if node.text.strip()
        ]
        if self.begun:
            said.append({"role": "assistant", "content": self.begun.text.rstrip(" ")})
        system: list[Message] = [{"role": "system", "content": self.system_prompt.strip()}]
        return system + said if self.system_prompt.strip() else said


class Answerer:
    """Answers tasks: streams from the model, and writes to the store."""

    def __init__(self, serving: Serving, store: Store, live: ActiveStreams, context: int) -> None:
        """`context` is what a model that has not answered yet is taken to have, in tokens."""
        self._serving, self._store, self._live = serving, store, live
        self._fingerprints = WeightsHashes()
        self._writing: set[int] = set()
        self._context, self._contexts = context, dict[str | None, int]()

    def context_of(self, model: str | None) -> int:
        """A model's context, in tokens."""
        return self._contexts.get(model, self._context)

    def writes(self, node: int) -> bool:
        """Whether an answer is under way, in any tab."""
        return node in self._writing

    async def answer(
        self, task: Task, session: str, turn: TabRequest
    ) -> AsyncGenerator[tuple[Node, Progress], None]:
        """The answer's node as it grows, and how far it is; the last one is done.

        Raises an EngineError when the question cannot be served, and Unknown when its chat is gone; an error
        on the way is part of the last progress. A new answer without a word is not kept. What cannot be kept
        is shown all the same; a StoreError says so at the end.
        """
        async with self._serving(task.model) as backend:
            self._contexts[task.model] = backend.info.context
            stream = await started(backend, task.messages(), task.sampling)
            with self._live.following(session, stream):
                if turn.stopped:
                    stream.cancel()
                keeper = self._keeper(task, backend)
                self._writing.add(keeper.node.id)
                try:
                    async with aclosing(
                        snapshots(stream, begun=keeper.node.text, readers=self._live.__len__)
                    ) as updates:
                        async for progress in updates:
                            yield keeper.keep(progress), progress
                finally:
                    self._writing.discard(keeper.node.id)
                    keeper.close()
                if keeper.lost is not None:
                    raise keeper.lost

    def _keeper(self, task: Task, backend: ChatBackend) -> _AnswerWriter:
        made = start_generation(
            backend.info, task.system_prompt, task.sampling, self._fingerprints.of(backend)
        )
        node, before = task.begun, None
        if node is None:
            parent = task.path[-1].id
            number = self._store.add(task.owner, task.key, parent, "assistant", "", made=made)
            node = Node(number, parent, "assistant", "", time.time(), made)
        else:
            node, before = replace(node, text=node.text.rstrip(" ")), node.made
        return _AnswerWriter(
            self._store,
            task,
            node,
            before,
            lambda: replace(made, model_hash=self._fingerprints.of(backend)),
        )


class _AnswerWriter:
    """Keeps one answer in the store: about once a second while it grows, and at its end with its numbers.

    `lost` is why the store did not take it the last time.
    """

    def __init__(
        self,
        store: Store,
        task: Task,
        node: Node,
        before: GenerationInfo | None,
        made: Callable[[], GenerationInfo],
    ) -> None:
        self.node = node
        self._store, self._task, self._before, self._made = store, task, before, made
        self._written = time.monotonic()
        self._last = Progress(node.text)
        self._ended = False
        self.lost: StoreError | None = None

    def keep(self, progress: Progress) -> Node:
        """Take the progress in; the node as it is now. Raises Unknown when it was deleted meanwhile."""
        self._last = progress
        self.node = replace(self.node, text=progress.text)
        if progress.done:
            self._end()
        elif time.monotonic() - self._written >= KEEP_SECONDS:
            self._write(replace(self._made(), reason="interrupted"))
        return self.node

    def close(self) -> None:
        """The reader went away: keep what there is, unless it was deleted meanwhile."""
        if not self._ended:
            with suppress(NotFound):
                self._end()

    def _end(self) -> None:
        self._ended = True
        made = finish_generation(self._made(), self._last, self._before)
        self.node = replace(self.node, made=made)
        self._write(made)

    def _write(self, made: GenerationInfo) -> None:
        """Keep what there is, or nothing of an answer that ended without a word."""
        owner, key, node = self._task.owner, self._task.key, self.node
        self._written = time.monotonic()
        try:
            if self._ended and not node.text.strip():
                self._store.delete_subtree(owner, key, node.id)
            else:
                self._store.write(owner, key, node.id, node.text, made)
            self.lost = None
        except StoreError as error:
            self.lost = error
