"""Check 2: a conversation becomes the same token ids in transformers and in a GGUF's chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from common.system import RENDER_SECONDS, kill_after
from common.text import all_of_them, pluralize
from engine.errors import ModelError, RequestError
from engine.llama.model import Model
from engine.llama.tokenizer import LlamaTokenizer
from engine.prompt.chat_template import ChatTemplate, PromptBuilder
from engine.types import Message
from pipeline.certificate.checks.tokenizer import describe_difference, same_but_for_spaces
from pipeline.certificate.finding import Finding
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress
from pipeline.tokenizers.reference import RenderedChat, TokenizerReference, load_tokenizer_reference

_TEXT = "Every conversation gives the same ids: a lost newline is another prompt than the trained one."
_BOS = "One BOS and no more: a second one is a prompt that the model never saw."
_END = "The token after an answer ends the generation, or the model talks on."


def check_template(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Render conversations on both sides, count the BOS, and look at what ends a turn."""
    with progress.step("Check the chat template", None):
        reference = load_tokenizer_reference(
            subject.tokenizer_reference, subject.reference, subject.evaluation
        )
        with closing(Model(subject.full, vocab_only=True)) as model:
            yield from compare_templates(reference, model.metadata("tokenizer.chat_template"), model.vocab)


def compare_templates(reference: TokenizerReference, source: str, vocab: LlamaTokenizer) -> Iterator[Finding]:
    """The findings on a GGUF's chat template; one alone where there is none to compare."""
    if not source and not reference.has_template:
        words = "Neither the tokenizer nor the GGUF has a chat template: it completes texts and cannot chat."
        yield Finding("template.text", "skipped", words)
        return
    try:
        with kill_after(RENDER_SECONDS):
            template = ChatTemplate(source, vocab.text(vocab.bos), vocab.text(vocab.eos))
    except ModelError as error:
        yield Finding("template.text", "fail", f"{error}.", {}, _TEXT, find_cause("template_missing"))
        return
    with kill_after(RENDER_SECONDS):
        chats = list(_askable(reference.chats, template.takes_system))
        yield _text(chats, PromptBuilder(template, vocab, vocab.control_spellings), vocab)
        yield _bos(chats, template, vocab)
    yield _end(reference, vocab)


def _askable(chats: Sequence[RenderedChat], takes_system: bool) -> Iterator[RenderedChat]:
    """Those that both sides render the same way: ours puts a system prompt into the user's words where the
    template takes none, and transformers then drops it, or refuses."""
    for chat in chats:
        if chat.ids is not None and (takes_system or chat.messages[0]["role"] != "system"):
            yield chat


def _messages(chat: RenderedChat) -> list[Message]:
    return [Message(role=m["role"], content=m["content"]) for m in chat.messages]  # type: ignore[typeddict-item]


def _text(chats: Sequence[RenderedChat], prompts: PromptBuilder, vocab: LlamaTokenizer) -> Finding:
    different: list[str] = []
    spaced: list[str] = []
    for chat in chats:
        try:
            ours = _without_bos(prompts.tokens(_messages(chat)), vocab)
        except RequestError as error:
            different.append(f"{chat.name}: {error}")
            continue
        theirs = _without_bos(chat.ids or [], vocab)
        if ours != theirs:
            kind = spaced if same_but_for_spaces(theirs, ours, vocab) else different
            kind.append(describe_difference(chat.name, theirs, ours, vocab))
    figures = {"chats": len(chats), "differ": len(different), "differ_in_spaces": len(spaced)}
    if not chats:
        return Finding("template.text", "warn", "The tokenizer has no chat template.", figures, _TEXT)
    of_all = f"of {pluralize(len(chats), 'conversation')}"
    if spaced and not different:
        differ = pluralize(len(spaced), f"{of_all} differs", f"{of_all} differ")
        words = f"{differ} in a space: {spaced[0]}."
        return Finding("template.text", "warn", words, figures, _TEXT, find_cause("space_differs"))
    if not different:
        words = f"{all_of_them(len(chats), 'conversation gives', 'conversations give')} the same ids."
        return Finding("template.text", "pass", words, figures, _TEXT)
    words = f"{pluralize(len(different), f'{of_all} gives', f'{of_all} give')} other ids: {different[0]}."
    return Finding("template.text", "fail", words, figures, _TEXT, find_cause("template_differs"))


def _without_bos(ids: list[int], vocab: LlamaTokenizer) -> list[int]:
    return ids[_leading(ids, vocab.bos) :]


def _leading(ids: Sequence[int], token: int) -> int:
    return next((place for place, number in enumerate(ids) if number != token), len(ids))


def _bos(chats: Sequence[RenderedChat], template: ChatTemplate, vocab: LlamaTokenizer) -> Finding:
    """Count in the text that the template gives: our engine mends a second BOS, other programs do not."""
    counts = [0]
    for chat in chats:
        try:
            ids = vocab.tokenize(template.render(_messages(chat)), special=True)
        except RequestError:
            continue  # a finding of its own
        counts.append(_leading(ids, vocab.bos))
    theirs = max((_leading(chat.ids or [], vocab.bos) for chat in chats), default=0)
    figures = {"gguf": max(counts), "transformers": theirs, "add_bos": vocab.add_bos}
    if max(counts) > 1:
        words = f"The GGUF's template puts {max(counts)} BOS before a conversation."
        return Finding("template.bos", "fail", words, figures, _BOS, find_cause("bos_twice"))
    begins = max(counts) or int(vocab.add_bos)
    if chats and begins != theirs:
        words = f"A chat begins with {begins} BOS in the GGUF and with {theirs} in transformers."
        return Finding("template.bos", "warn", words, figures, _BOS, find_cause("bos_differs"))
    return Finding("template.bos", "pass", f"A chat begins with {begins} BOS, as trained.", figures, _BOS)


def _end(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    token = reference.turn_end
    figures = {"token": token, "spelling": vocab.text(token) if token is not None else ""}
    if token is None:
        words = "The template puts no special token after an answer, so nothing tells where one ends."
        return Finding("template.end", "warn", words, figures, _END, find_cause("no_turn_end"))
    if vocab.is_end(token):
        words = f"The answer's last token {vocab.text(token)!r} ends the generation."
        return Finding("template.end", "pass", words, figures, _END)
    words = f"The answer's last token {token} ({vocab.text(token)!r}) does not end the generation."
    return Finding("template.end", "fail", words, figures, _END, find_cause("end_lost"))
