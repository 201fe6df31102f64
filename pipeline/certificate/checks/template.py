"""Check 2: conversations render to the same token ids in transformers and with the GGUF's chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from common.certificate import Finding
from common.message_form import MessageForm
from common.system import RENDER_SECONDS, kill_after
from common.text import all_of_them, pluralize
from engine.errors import ModelError, RequestError
from engine.llama.model import Model
from engine.llama.tokenizer import LlamaTokenizer
from engine.prompt.chat_template import ChatTemplate, LostWords, PromptBuilder
from engine.types import Message
from pipeline.certificate.checks.tokenizer import describe_difference, differ_only_in_spaces
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress
from pipeline.tokenizers.reference import RenderedChat, TokenizerReference, load_tokenizer_reference

_WORDS = "What everybody says in a conversation reaches the model."
_TEXT = "Every conversation gives the same ids: a lost newline is another prompt than the trained one."
_BOS = "One BOS and no more: a second one is a prompt that the model never saw."
_END = "The token after an answer ends the generation, or the model talks on."


def check_template(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare rendered conversations, count the BOS tokens, and check the token that ends a turn."""
    with progress.step("Check the chat template", None):
        reference = load_tokenizer_reference(
            subject.tokenizer_reference, subject.reference, subject.evaluation
        )
        with closing(Model(subject.full, vocab_only=True)) as model:
            source = model.metadata("tokenizer.chat_template")
            yield from compare_templates(reference, source, model.vocab, subject.template_origin)


def compare_templates(
    reference: TokenizerReference, source: str, vocab: LlamaTokenizer, origin: str = ""
) -> Iterator[Finding]:
    """Yield the findings on the chat template `source` of a GGUF; a single one when there is no usable one.

    `origin` says where it came from.
    """
    if not source and not reference.has_template:
        summary = (
            "Neither the tokenizer nor the GGUF has a chat template: it completes texts and cannot chat."
        )
        yield Finding("template.text", "skipped", summary)
        return
    try:
        with kill_after(RENDER_SECONDS):
            template = ChatTemplate(source, vocab.text(vocab.bos), vocab.text(vocab.eos))
    except LostWords as error:
        figures = {"lost": list(error.roles), "origin": origin}
        yield Finding("template.words", "fail", f"{error}.", figures, _WORDS, find_cause("template_loses"))
        return
    except ModelError as error:
        yield Finding("template.text", "fail", f"{error}.", {}, _TEXT, find_cause("template_missing"))
        return
    yield _describe_form(template.form, origin)
    with kill_after(RENDER_SECONDS):
        # The engine moves a system prompt into the user's message if the template takes none; transformers
        # then drops it, or raises. So conversations with one are compared only when the template takes it.
        chats = [
            chat
            for chat in reference.chats
            if chat.ids is not None and (template.takes_system or chat.messages[0]["role"] != "system")
        ]
        yield _compare_chats(chats, PromptBuilder(template, vocab, vocab.control_spellings), vocab)
        yield _compare_bos(chats, template, vocab)
    yield _check_turn_end(reference, vocab)


def _describe_form(form: MessageForm, origin: str) -> Finding:
    """Return the finding on marked messages, which were found again when the template was compiled."""
    figures = {"lost": [], "parts": sorted(form.parts), "system": form.system, "origin": origin}
    whose = f" The template is {origin}." if origin else ""
    summary = f"Marked messages of each role stand in the prompt.{whose}"
    return Finding("template.words", "pass", summary, figures, _WORDS)


def _messages(chat: RenderedChat) -> list[Message]:
    return [Message(role=m["role"], content=m["content"]) for m in chat.messages]  # type: ignore[typeddict-item]


def _compare_chats(chats: Sequence[RenderedChat], prompts: PromptBuilder, vocab: LlamaTokenizer) -> Finding:
    different: list[str] = []
    spaced: list[str] = []
    for chat in chats:
        try:
            actual = _without_bos(prompts.tokens(_messages(chat)), vocab)
        except RequestError as error:
            different.append(f"{chat.name}: {error}")
            continue
        expected = _without_bos(chat.ids or [], vocab)
        if actual != expected:
            differences = spaced if differ_only_in_spaces(expected, actual, vocab) else different
            differences.append(describe_difference(chat.name, expected, actual, vocab))
    figures = {"chats": len(chats), "differ": len(different), "differ_in_spaces": len(spaced)}
    if not chats:
        return Finding("template.text", "warn", "The tokenizer has no chat template.", figures, _TEXT)
    of_all = f"of {pluralize(len(chats), 'conversation')}"
    if spaced and not different:
        differ = pluralize(len(spaced), f"{of_all} differs", f"{of_all} differ")
        summary = f"{differ} in a space: {spaced[0]}."
        return Finding("template.text", "warn", summary, figures, _TEXT, find_cause("space_differs"))
    if not different:
        summary = f"{all_of_them(len(chats), 'conversation gives', 'conversations give')} the same ids."
        return Finding("template.text", "pass", summary, figures, _TEXT)
    summary = f"{pluralize(len(different), f'{of_all} gives', f'{of_all} give')} other ids: {different[0]}."
    return Finding("template.text", "fail", summary, figures, _TEXT, find_cause("template_differs"))


def _without_bos(ids: list[int], vocab: LlamaTokenizer) -> list[int]:
    return ids[_count_leading(ids, vocab.bos) :]


def _count_leading(ids: Sequence[int], token: int) -> int:
    return next((position for position, number in enumerate(ids) if number != token), len(ids))


def _compare_bos(chats: Sequence[RenderedChat], template: ChatTemplate, vocab: LlamaTokenizer) -> Finding:
    """Count BOS in the template's plain output: our engine removes a second BOS, other programs do not."""
    counts = [0]
    for chat in chats:
        try:
            ids = vocab.tokenize(template.render(_messages(chat)), special=True)
        except RequestError:
            continue  # reported by _compare_chats
        counts.append(_count_leading(ids, vocab.bos))
    expected = max((_count_leading(chat.ids or [], vocab.bos) for chat in chats), default=0)
    figures = {"gguf": max(counts), "transformers": expected, "add_bos": vocab.add_bos}
    if max(counts) > 1:
        summary = f"The GGUF's template puts {max(counts)} BOS before a conversation."
        return Finding("template.bos", "fail", summary, figures, _BOS, find_cause("bos_twice"))
    begins = max(counts) or int(vocab.add_bos)
    if chats and begins != expected:
        summary = f"A chat begins with {begins} BOS in the GGUF and with {expected} in transformers."
        return Finding("template.bos", "warn", summary, figures, _BOS, find_cause("bos_differs"))
    return Finding("template.bos", "pass", f"A chat begins with {begins} BOS, as trained.", figures, _BOS)


def _check_turn_end(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    token = reference.turn_end
    figures = {"token": token, "spelling": vocab.text(token) if token is not None else ""}
    if token is None:
        summary = "The template puts no special token after an answer, so nothing tells where one ends."
        return Finding("template.end", "warn", summary, figures, _END, find_cause("no_turn_end"))
    if vocab.is_eog(token):
        summary = f"The answer's last token {vocab.text(token)!r} ends the generation."
        return Finding("template.end", "pass", summary, figures, _END)
    summary = f"The answer's last token {token} ({vocab.text(token)!r}) does not end the generation."
    return Finding("template.end", "fail", summary, figures, _END, find_cause("end_lost"))
