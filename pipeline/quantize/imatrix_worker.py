"""The worker process that collects an importance matrix, with the fastest CPU backend loaded.

imatrix.py runs it as `python -m pipeline.quantize.imatrix_worker`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_cpp import llama_cpp as llama

from common.dataclass_json import from_json
from common.worker_process import Message as Request
from common.worker_process import send, serve
from engine.errors import EngineError
from engine.llama.model import Model, context_params
from engine.probe.cpu_backend import load_cpu_backend
from engine.prompt.chat_template import ChatTemplate, PromptBuilder
from engine.types import Message
from pipeline.data.dataset import Chat, read_chats
from pipeline.errors import InputError, PipelineError
from pipeline.quantize.imatrix import CHUNK, ImatrixJob, has_too_few_chats
from pipeline.quantize.imatrix_collector import Collector
from pipeline.quantize.imatrix_file import Imatrix, write_imatrix


def gather(request: Request) -> Request:
    """Run an ImatrixJob; return the numbers of chunks, tokens and tensors."""
    job = from_json(ImatrixJob, request)
    try:
        choice = load_cpu_backend(job.model, threads=job.threads)
        model = Model(job.model, extra_buffers=choice.extra_buffers)
        chunk = min(CHUNK, _trained_context(model) or CHUNK)
        tokens = _tokens(model, read_chats(job.data))
        chunks = len(tokens) // chunk
        if chunks == 0:
            raise has_too_few_chats(job.data.name, len(tokens), chunk)
        collector = Collector()
        _read(model, collector, tokens[: chunks * chunk], chunk, job.threads)
    except EngineError as error:
        raise InputError(str(error)) from error
    matrix = Imatrix(collector.sums, (job.data.name,), chunks, chunk)
    write_imatrix(job.target, matrix)
    return {"chunks": chunks, "tokens": chunks * chunk, "tensors": len(collector.sums)}


def _trained_context(model: Model) -> int:
    return int(model.metadata(f"{model.metadata('general.architecture')}.context_length") or 0)


def _tokens(model: Model, chats: Sequence[Chat]) -> list[int]:
    """Return the tokens of all chats, rendered by the model's template, one after the other."""
    source = (llama.llama_model_chat_template(model.handle, None) or b"").decode("utf-8", "replace")
    vocab = model.vocab
    template = ChatTemplate(source, vocab.text(vocab.bos), vocab.text(vocab.eos))
    builder = PromptBuilder(template, vocab, vocab.control_spellings)
    return [token for chat in chats for token in builder.tokens(_messages(chat), answered=True)]


def _messages(chat: Chat) -> list[Message]:
    return [{"role": turn.role, "content": turn.content} for turn in chat.turns]


def _read(model: Model, collector: Collector, tokens: Sequence[int], chunk: int, threads: int) -> None:
    """Decode each chunk as a separate sequence, as llama-imatrix does."""
    vocab = model.vocab
    with _context(model, collector, chunk, threads) as context:
        batch = llama.llama_batch_init(chunk, 0, 1)
        batch.n_tokens = chunk
        for start in range(0, len(tokens), chunk):
            llama.llama_memory_clear(llama.llama_get_memory(context), True)
            for place, token in enumerate(tokens[start : start + chunk]):
                batch.token[place] = vocab.bos if place == 0 and vocab.add_bos else token
                batch.pos[place], batch.n_seq_id[place], batch.seq_id[place][0] = place, 1, 0
                batch.logits[place] = True  # else the last layer is computed for the last token only
            code = llama.llama_decode(context, batch)
            if collector.error:
                raise collector.error
            if code != 0:
                raise PipelineError(f"llama.cpp cannot read the chats (llama_decode returned {code})")
            send({"done": start + chunk})
        llama.llama_batch_free(batch)


@contextmanager
def _context(model: Model, collector: Collector, chunk: int, threads: int) -> Iterator[Any]:
    params = context_params(context=chunk, threads=threads, batch=chunk)
    params.offload_kqv = params.op_offload = False  # keeps tensors where the callback can read them
    callback = llama.ggml_backend_sched_eval_callback(collector.on_tensor)  # it must outlive the context
    params.cb_eval = callback
    context = llama.llama_init_from_model(model.handle, params)
    if not context:
        raise PipelineError(f"no memory to read {chunk} tokens at once")
    try:
        yield context
    finally:
        llama.llama_free(context)
        del callback


if __name__ == "__main__":
    serve(gather)
