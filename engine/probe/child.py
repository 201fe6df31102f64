"""The child process that opens untrusted GGUFs and tries CPU backends: a crash ends only the child.

It serves three jobs (see common.worker_process). `inspect` reads the file's header, ranks the CPU variants
and tries what else the file brings (engine.probe.trials); `run` computes with one variant; `time` measures
how long batches of different sizes take with it. engine.probe.client is the parent's side.
"""

from __future__ import annotations

import resource
import time
from dataclasses import asdict, replace
from pathlib import Path

from common.worker_process import Message, send, serve
from engine.core.speculative import measure
from engine.core.types import BatchRow
from engine.errors import EngineError, ModelError
from engine.llama.library import find_variants, load_variant, rank_variants
from engine.llama.model import Adapter, Model, model_metadata
from engine.llama.runner import Runner
from engine.probe.trials import trials
from ggufio.summary import Summary, summarize

NO_CHAT = "with which nobody can chat"
ADAPTER_ALONE = "it is a LoRA adapter, no model: name it after its base, as BASE.gguf::ADAPTER.gguf"


def inspect(path: Path, chat_template: str) -> Message:
    """Return the file's metadata, and the CPU variants that this machine supports, best first.

    A `chat_template` replaces the file's, also in the trials.
    """
    ranked = [str(p) for p in rank_variants(find_variants())]
    send({"stage": "header"})  # from here on, a crash is the file's fault
    summary = summarize(path)  # None for a file whose defect llama.cpp names
    if summary is not None and not (summary.is_vocabulary and "tokenizer.chat_template" in summary.metadata):
        _reject_other_kinds(summary)
    model = Model(path, vocab_only=True)
    if not model.only_decodes:
        raise ModelError(f"it has an encoder, {NO_CHAT}: name a model that only decodes")
    facts = model_metadata(model, path)
    if chat_template:
        facts = replace(facts, template=chat_template, tool_template="")
    for stage, trial in trials(model.vocab, facts).items():
        send({"stage": stage})
        trial()
    if summary is not None:
        _reject_other_kinds(summary)
    return {"variants": ranked, "facts": asdict(replace(facts, tools=facts.chat_template().tools))}


def _reject_other_kinds(summary: Summary) -> None:
    """Raise ModelError for a file that is no model, or a model that does not write text."""
    if summary.no_model == "a LoRA adapter":
        raise ModelError(ADAPTER_ALONE)
    if summary.no_model:
        raise ModelError(f"it is {summary.no_model}, {NO_CHAT}: name the .gguf of a model")
    if summary.no_chat:
        raise ModelError(f"it is {summary.no_chat}, {NO_CHAT}: name a model that writes text")


def run(path: Path, extra_buffers: bool, threads: int, lora: Path | None = None) -> Message:
    """Load the model and decode as the engine does: a prompt, then four sequences side by side, then one."""
    model = Model(path, extra_buffers=extra_buffers, progress=_ProgressPrinter())
    adapter = Adapter(model, lora) if lora else None
    runner = Runner(model, slots=4, context=256, batch=64, threads=threads, adapter=adapter)
    some = [token % model.vocab.size for token in range(100, 164)]
    steps = [
        [BatchRow(0, 0, some, 1)],
        [BatchRow(1, 0, some[:16], 1), BatchRow(2, 0, some[:16], 1), BatchRow(3, 0, some[:16], 1)],
        [BatchRow(0, 64, some[:1], 1), *(BatchRow(slot, 16, some[:1], 1) for slot in (1, 2, 3))],
        [BatchRow(0, 65, some[1:2], 1)],
    ]
    for rows in steps:
        runner.decode(rows)
        if not all(runner.logits_are_finite(row.slot) for row in rows):
            return {"finite": False}
    return {"finite": True}


def time_batches(path: Path, extra_buffers: bool, threads: int) -> Message:
    """Return (batch size, seconds) pairs, none where drafts are impossible, and BatchCostModel.exact."""
    model = Model(path, extra_buffers=extra_buffers)
    runner = Runner(model, slots=4, context=256, batch=64, threads=threads)
    if not runner.can_truncate:
        return {"seconds": [], "exact": 1}
    costs = measure(runner, time.perf_counter)
    return {"seconds": list(costs.table.items()), "exact": costs.exact}


class _ProgressPrinter:
    """Sends each new percent of a load to the parent."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, share: float) -> bool:
        if (percent := int(100 * share)) > self._last:
            self._last = percent
            send({"loaded": share})
        return True


def probe(request: Message) -> Message:
    """Do the job that the request names. Raises EngineError when llama.cpp refuses the file."""
    job, model = request["job"], Path(request["model"])
    if job == "inspect":
        return inspect(model, request["chat_template"])
    variant, adapter = request["variant"], request["adapter"]
    if variant is not None:
        load_variant(Path(variant))
    if job == "time":
        return time_batches(model, request["extra_buffers"], request["threads"])
    return run(model, request["extra_buffers"], request["threads"], Path(adapter) if adapter else None)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here, nothing to debug
    serve(probe, refusals=(EngineError,))
