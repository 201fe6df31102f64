"""Generate an answer: stream it from the engine and save it to the history as it grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import asdict, replace

from engine.config import SamplingParams
from engine.serving.protocols import ChatBackend, ChatStream
from engine.types import ModelInfo, RequestStats
from ui.conversations.model import GenerationInfo, Node
from ui.conversations.store import NotFound, Store, StoreError
from ui.generation.running import RunningAnswer, Task
from ui.generation.sessions import ActiveStreams
from ui.generation.streaming import Progress, snapshots
from ui.models.files import short_name
from ui.models.registry import start_stream
from ui.models.weights_hash import WeightsHashes

SAVE_SECONDS = 1.0  # between saves of a growing answer: the text that a kill -9 may lose
RETRY_SECONDS = (
    2.0,
    *[5.0] * 12,
    *[30.0] * 58,
)  # before each further try to save an answer: half an hour in all
AcquireModel = Callable[[str | None], AbstractAsyncContextManager[ChatBackend]]
_RARELY_SET = ("stop", "grammar", "json_schema", "ignore_end")  # recorded only when they are set


def start_generation(
    info: ModelInfo, system_prompt: str, sampling: SamplingParams, model_hash: str = ""
) -> GenerationInfo:
    """Return what is known before the first token, with the reason that it keeps if the process is killed."""
    settings = {name: value for name, value in asdict(sampling).items() if name not in _RARELY_SET or value}
    name, quantization = short_name(info), info.quantization
    return GenerationInfo(
        name, model_hash, quantization, system_prompt, settings, "interrupted", 0, 0, 0, None, None
    )


def finish_generation(
    made: GenerationInfo, progress: Progress, before: GenerationInfo | None = None
) -> GenerationInfo:
    """Return the info with the result's numbers; `before` is that of an answer that was continued."""
    stats = progress.stats or _estimated_stats(progress)
    finished = replace(
        made,
        reason="error" if progress.error is not None else progress.reason or "cancelled",
        prompt_tokens=stats.prompt_tokens,
        cached_tokens=stats.cached_tokens,
        generated_tokens=stats.generated_tokens,
        first_text_seconds=progress.first_text_seconds,
        decode_seconds=stats.decode_seconds if stats.generated_tokens else None,
        dropped_messages=progress.dropped.messages if progress.dropped else 0,
    )
    return _add_continuation(before, finished) if before and before.generated_tokens else finished


def _add_continuation(before: GenerationInfo, after: GenerationInfo) -> GenerationInfo:
    return replace(
        after,
        prompt_tokens=before.prompt_tokens,
        cached_tokens=before.cached_tokens,
        generated_tokens=before.generated_tokens + after.generated_tokens,
        first_text_seconds=before.first_text_seconds,
        decode_seconds=(before.decode_seconds or 0.0) + (after.decode_seconds or 0.0),
    )


def _estimated_stats(progress: Progress) -> RequestStats:
    """Return the numbers of an answer that ended early, as far as its events show them."""
    read = progress.prompt.done if progress.prompt else 0
    cached = progress.prompt.cached if progress.prompt else 0
    seconds = (progress.last_text or 0.0) - (progress.first_text or 0.0)
    return RequestStats(read, cached, progress.pieces, 0.0, 0.0, seconds)


class Answerer:
    """Runs tasks: streams answers from the model and writes them to the store."""

    def __init__(
        self,
        acquire_model: AcquireModel,
        store: Store,
        live: ActiveStreams,
        context: int,
        hashes: WeightsHashes | None = None,
    ) -> None:
        """`context` is assumed, in tokens, for a model that has not answered yet."""
        self._acquire_model, self._store, self._live = acquire_model, store, live
        self._hashes = hashes or WeightsHashes()
        self._retries: dict[int, asyncio.Task[None]] = {}  # by node; the event loop alone would not keep them
        self._context, self._contexts = context, dict[str | None, int]()

    def context_of(self, model: str | None) -> int:
        """Return a model's context size, in tokens."""
        return self._contexts.get(model, self._context)

    async def write(self, answer: RunningAnswer) -> None:
        """Generate an answer and save it, updating its node and progress, until it is done.

        Raises EngineError when the model cannot start the answer, and NotFound when the conversation was
        deleted; an error during generation is part of the last progress. A new answer that ends without text
        is not saved. An answer that cannot be saved goes on; StoreError is raised at its end, and saving it
        is tried again for half an hour.
        """
        task = answer.task
        async with self._acquire_model(task.model) as backend:
            self._contexts[task.model] = backend.info.context
            stream = await start_stream(backend, task.messages(), task.sampling)
            with self._live.track(task.key, stream), answer.streaming(stream):
                writer = await self._writer(task, backend)
                answer.node = writer.node
                try:
                    async with aclosing(self._snapshots(stream, writer.node.text, task)) as updates:
                        async for progress in updates:
                            answer.update(await writer.update(progress), progress)
                finally:
                    try:
                        await writer.close()
                    finally:
                        if writer.error is not None:
                            self._save_later(writer)
                if writer.error is not None:
                    raise writer.error

    def _snapshots(self, stream: ChatStream, prefix: str, task: Task) -> AsyncGenerator[Progress, None]:
        limit = task.sampling.max_tokens
        return snapshots(stream, prefix=prefix, readers=self._live.__len__, max_tokens=limit)

    def _save_later(self, writer: _AnswerWriter) -> None:
        retry = asyncio.get_running_loop().create_task(writer.save_later())
        self._retries[writer.node.id] = retry

        def forget(done: asyncio.Task[None]) -> None:
            if self._retries.get(writer.node.id) is done:
                del self._retries[writer.node.id]

        retry.add_done_callback(forget)

    async def _writer(self, task: Task, backend: ChatBackend) -> _AnswerWriter:
        made = start_generation(backend.info, task.system_prompt, task.sampling, self._hashes.of(backend))
        node, before = task.partial, None
        if node is None:
            parent = task.path[-1].id
            add = self._store.add
            node_id = await self._store.off_loop(
                add, task.owner, task.key, parent, "assistant", "", made=made
            )
            node = Node(node_id, parent, "assistant", "", time.time(), made)
        else:
            if (retry := self._retries.pop(node.id, None)) is not None:
                retry.cancel()  # what it would save is the beginning of what comes now
            node, before = replace(node, text=node.text.rstrip(" ")), node.made
        return _AnswerWriter(
            self._store, task, node, before, lambda: replace(made, model_hash=self._hashes.of(backend))
        )


class _AnswerWriter:
    """Saves one answer to the store: every `SAVE_SECONDS` while it grows, and at its end with its numbers.

    The answer goes on while it is saved. One save follows another, so the last one is the one that counts.
    `before` is the `made` of a continued answer; `made` returns the current one, whose hash may come late.
    `error` is the error of the last save, None if it succeeded.
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
        self._saved_at = time.monotonic()
        self._last = Progress(node.text)
        self._saving: asyncio.Task[None] | None = None
        self._ended = False
        self.error: StoreError | None = None

    async def update(self, progress: Progress) -> Node:
        """Apply the progress and return the updated node. Raises NotFound when it was deleted meanwhile."""
        self._last = progress
        self.node = replace(self.node, text=progress.text)
        if self._saving is not None and self._saving.done():
            await self._until_saved()
        if progress.done:
            await self._end()
        elif self._saving is None and time.monotonic() - self._saved_at >= SAVE_SECONDS:
            self._saving = asyncio.create_task(self._save(replace(self._made(), reason="interrupted")))
        return self.node

    async def close(self) -> None:
        """Save an answer whose reader went away, unless it was deleted meanwhile."""
        if not self._ended:
            with suppress(NotFound):
                await self._end()

    async def save_later(self) -> None:
        """Try for half an hour to save an answer that has ended, unless it is deleted meanwhile."""
        for seconds in RETRY_SECONDS:
            await asyncio.sleep(seconds)
            try:
                if await self._store.off_loop(self._is_outdated):
                    return
                await self._save(finish_generation(self._made(), self._last, self._before))
            except NotFound:
                return
            except StoreError as error:
                self.error = error
            if self.error is None:
                return

    def _is_outdated(self) -> bool:
        """Return whether the stored answer was changed meanwhile, or an empty one was gone on from."""
        tree = self._store.load(self._task.owner, self._task.key).tree
        stored = tree.nodes.get(self.node.id)
        if stored is None or not self.node.text.startswith(stored.text):
            return True
        return not self.node.text.strip() and bool(tree.children.get(self.node.id))

    async def _end(self) -> None:
        await self._until_saved()
        self._ended = True
        made = finish_generation(self._made(), self._last, self._before)
        self.node = replace(self.node, made=made)
        await self._save(made)

    async def _until_saved(self) -> None:
        """Wait for the save under way, which goes on if this is cancelled. Raises NotFound."""
        if self._saving is not None:
            await asyncio.shield(self._saving)
            self._saving = None

    async def _save(self, made: GenerationInfo) -> None:
        """Save the answer, or delete it if it ended without text."""
        owner, key, node = self._task.owner, self._task.key, self.node
        self._saved_at = time.monotonic()
        try:
            if self._ended and not node.text.strip():
                await self._store.off_loop(self._store.delete_subtree, owner, key, node.id)
            else:
                await self._store.off_loop(self._store.write, owner, key, node.id, node.text, made)
            self.error = None
        except StoreError as error:
            self.error = error
