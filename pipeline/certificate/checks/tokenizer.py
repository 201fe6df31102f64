"""Check 1: the GGUF tokenizes texts into the same ids as the tuned model's tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

from common.certificate import Finding, Status
from common.text import all_of_them, pluralize
from engine.llama.model import Model
from engine.llama.tokenizer import LlamaTokenizer
from pipeline.certificate.known_causes import find_cause
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress
from pipeline.tokenizers.reference import EncodedText, TokenizerReference, load_tokenizer_reference
from pipeline.tokenizers.stress_corpus import COMMON

_TEXT = "Every text that people type gives the same ids, since the model knows no others."
_SIZE = "The GGUF has all tokens of the tokenizer; more are the padding of its embeddings."
_VOCABULARY = "Each token stands at its id: the model knows it by nothing else."
_ADDED = "Each special token is read whole, or the template falls to pieces."
_ROLES = "The beginning and the end of a text are the same tokens as in training."


def check_tokenizer(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare vocabularies, special tokens, BOS, EOS, and ids of the stress corpus and the user's data."""
    with progress.step("Check the tokenizer", None):
        reference = load_tokenizer_reference(
            subject.tokenizer_reference, subject.reference, subject.evaluation
        )
        with closing(Model(subject.full, vocab_only=True)) as model:
            yield from compare_vocabularies(reference, model.vocab)


def compare_vocabularies(reference: TokenizerReference, vocab: LlamaTokenizer) -> Iterator[Finding]:
    """Yield the findings on a GGUF's vocabulary."""
    yield _compare_size(reference, vocab)
    yield _compare_tokens(reference, vocab)
    yield _compare_special_tokens(reference, vocab)
    yield _compare_roles(reference, vocab)
    yield _compare_texts(reference.texts, vocab)


def _compare_size(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    size = len(reference.vocabulary)
    figures = {"tokenizer": size, "gguf": vocab.size}
    if vocab.size >= size:
        summary = f"The GGUF has {vocab.size} tokens, and the tokenizer {size}."
        return Finding("tokenizer.size", "pass", summary, figures, _SIZE)
    summary = f"The GGUF has {vocab.size} tokens and lacks {size - vocab.size} of the tokenizer's."
    return Finding("tokenizer.size", "fail", summary, figures, _SIZE, find_cause("tokens_missing"))


def _compare_tokens(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    known = reference.vocabulary[: vocab.size]
    moved = [number for number, spelling in enumerate(known) if not is_same_token(number, spelling, vocab)]
    figures = {"tokens": len(known), "differ": len(moved)}
    if moved:
        first = moved[0]
        summary = (
            f"Token {first} is {known[first]!r} in the tokenizer and {vocab.text(first)!r} in the GGUF"
            f"{_and_more(moved)}."
        )
        return Finding(
            "tokenizer.vocabulary", "fail", summary, figures, _VOCABULARY, find_cause("token_swapped")
        )
    summary = f"All {len(known)} tokens stand at their ids."
    return Finding("tokenizer.vocabulary", "pass", summary, figures, _VOCABULARY)


def is_same_token(number: int, spelling: str | None, vocab: LlamaTokenizer) -> bool:
    """Return whether the GGUF has the tokenizer's token at this id; None is an id that the tokenizer lacks.

    llama.cpp looks for added tokens in the text as it is typed, so its converter writes "  " for Gemma's
    "▁▁", and spells a token that is normalized as it is read. What counts is that the text is read as it.
    """
    if spelling is None or (text := vocab.text(number)) == spelling:
        return True
    if not vocab.is_read_whole(number):
        return False
    return text == spelling.replace("▁", " ") or vocab.tokenize(spelling, special=True) == [number]


def _compare_special_tokens(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    special = [token for token in reference.tokens if token.special and token.id < vocab.size]
    plain = [token for token in special if not vocab.is_read_whole(token.id)]
    figures = {"added": len(reference.tokens), "special": len(special), "not_special": len(plain)}
    if plain:
        summary = f"{plain[0].spelling!r} is no special token in the GGUF{_and_more(plain)}."
        return Finding("tokenizer.added", "fail", summary, figures, _ADDED, find_cause("token_type"))
    summary = f"{all_of_them(len(special), 'special token is', 'special tokens are')} read whole."
    return Finding("tokenizer.added", "pass", summary, figures, _ADDED)


def _and_more(found: Sequence[object]) -> str:
    return f", and {len(found) - 1} more like it" if len(found) > 1 else ""


def _compare_roles(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    expected, actual = reference.roles, {"bos": vocab.bos, "eos": vocab.eos}
    # A GGUF without the role has -1. Nothing uses a role that the tokenizer does not define.
    wrong = [role for role, number in expected.items() if number is not None and number != actual[role]]
    figures = {"tokenizer": expected, "gguf": actual, "adds_bos": [reference.adds_bos, vocab.add_bos]}
    if "eos" in wrong or "bos" in wrong:
        role = wrong[0]
        summary = (
            f"The {role.upper()} token is {expected[role]} in the tokenizer and {actual[role]} "
            f"({vocab.text(actual[role])!r}) in the GGUF."
        )
        return Finding("tokenizer.roles", "fail", summary, figures, _ROLES, find_cause(f"{role}_differs"))
    if reference.adds_bos != vocab.add_bos:
        summary = (
            f"Before a plain text the tokenizer puts {'a' if reference.adds_bos else 'no'} BOS, and the GGUF "
            f"{'asks for one' if vocab.add_bos else 'for none'}; chats are not touched by this."
        )
        return Finding("tokenizer.roles", "warn", summary, figures, _ROLES, find_cause("add_bos"))
    return Finding("tokenizer.roles", "pass", "BOS and EOS are the same tokens.", figures, _ROLES)


def _compare_texts(texts: Sequence[EncodedText], vocab: LlamaTokenizer) -> Finding:
    ids = {text.text: vocab.tokenize(text.text, special=True) for text in texts}
    unequal = [text for text in texts if ids[text.text] != text.ids]
    different = [text for text in unequal if not differ_only_in_spaces(text.ids, ids[text.text], vocab)]
    counts = Counter(text.kind for text in different)
    spaced = len(unequal) - len(different)
    figures = {"texts": len(texts), "differ": len(different), "by_kind": dict(counts), "spaces": spaced}
    if not different:
        spaces = f", {spaced} of them but for SentencePiece's space before a text" if spaced else ""
        summary = f"{all_of_them(len(texts), 'text gives', 'texts give')} the same ids{spaces}."
        return Finding("tokenizer.text", "pass", summary, figures, _TEXT)
    common = [text for text in different if text.kind in COMMON or text.kind == "special tokens"]
    first = (common or different)[0]
    of_all = f"of {len(texts)} texts"
    summary = (
        f"{pluralize(len(different), f'{of_all} gives', f'{of_all} give')} other ids "
        f"({', '.join(counts)}): "
        f"{describe_difference(first.text, first.ids, ids[first.text], vocab)}."
    )
    signature = "text_differs" if common else "rare_text_differs"
    status: Status = "fail" if common else "warn"
    return Finding("tokenizer.text", status, summary, figures, _TEXT, find_cause(signature))


def differ_only_in_spaces(expected: Sequence[int], actual: Sequence[int], vocab: LlamaTokenizer) -> bool:
    """Return whether two tokenizations differ only in the space that SentencePiece puts before a text.

    transformers omits it after a special token, and when the text begins with white space.
    """
    one, other = _segments(expected, vocab), _segments(actual, vocab)
    if not vocab.is_sentencepiece or len(one) != len(other):
        return False
    return all(
        a == b or "▁" in (a.removesuffix(b), b.removesuffix(a)) for a, b in zip(one, other, strict=True)
    )


def _segments(ids: Sequence[int], vocab: LlamaTokenizer) -> list[str]:
    """Split into the special tokens and the texts between them."""
    segments, text = [], ""
    for number in ids:
        if vocab.is_read_whole(number):
            segments += [text, vocab.text(number)]
            text = ""
        else:
            text += vocab.text(number)
    return [*segments, text]


def describe_difference(text: str, expected: list[int], actual: list[int], vocab: LlamaTokenizer) -> str:
    """Describe the first position at which two tokenizations of a text differ."""
    position = next((n for n, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), None)
    if position is None:
        position = min(len(expected), len(actual))
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    theirs, ours = (_describe_token(ids, position, vocab) for ids in (expected, actual))
    return f"in {shown!r} token {position + 1} is {theirs} for transformers and {ours} for the GGUF"


def _describe_token(ids: list[int], position: int, vocab: LlamaTokenizer) -> str:
    if position >= len(ids):
        return "missing"
    number = ids[position]
    return f"{number} ({vocab.text(number)!r})" if number < vocab.size else str(number)
