"""Check 1: the GGUF's vocabulary reads texts into the token ids that the tuned model was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

from common.text import all_of_them, pluralize
from engine.llama.model import Model
from engine.llama.tokenizer import LlamaTokenizer
from pipeline.certificate.finding import Finding, Status
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
    """Compare ids on the stress corpus and the user's data, then size, added tokens and roles."""
    with progress.step("Check the tokenizer", None):
        reference = load_tokenizer_reference(
            subject.tokenizer_reference, subject.reference, subject.evaluation
        )
        with closing(Model(subject.full, vocab_only=True)) as model:
            yield from compare_vocabularies(reference, model.vocab)


def compare_vocabularies(reference: TokenizerReference, vocab: LlamaTokenizer) -> Iterator[Finding]:
    """The findings on a vocabulary."""
    yield _size(reference, vocab)
    yield _spellings(reference, vocab)
    yield _added(reference, vocab)
    yield _roles(reference, vocab)
    yield _texts(reference.texts, vocab)


def _size(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    size = len(reference.vocabulary)
    figures = {"tokenizer": size, "gguf": vocab.size}
    if vocab.size >= size:
        words = f"The GGUF has {vocab.size} tokens, and the tokenizer {size}."
        return Finding("tokenizer.size", "pass", words, figures, _SIZE)
    words = f"The GGUF has {vocab.size} tokens and lacks {size - vocab.size} of the tokenizer's."
    return Finding("tokenizer.size", "fail", words, figures, _SIZE, find_cause("tokens_missing"))


def _spellings(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    known = reference.vocabulary[: vocab.size]
    moved = [number for number, spelling in enumerate(known) if vocab.text(number) != spelling]
    figures = {"tokens": len(known), "differ": len(moved)}
    if moved:
        first = moved[0]
        words = (
            f"Token {first} is {known[first]!r} in the tokenizer and {vocab.text(first)!r} in the GGUF"
            f"{_and_more(moved)}."
        )
        return Finding(
            "tokenizer.vocabulary", "fail", words, figures, _VOCABULARY, find_cause("token_swapped")
        )
    words = f"All {len(known)} tokens stand at their ids."
    return Finding("tokenizer.vocabulary", "pass", words, figures, _VOCABULARY)


def _added(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    special = [token for token in reference.tokens if token.special and token.id < vocab.size]
    plain = [token for token in special if not vocab.is_read_whole(token.id)]
    figures = {"added": len(reference.tokens), "special": len(special), "not_special": len(plain)}
    if plain:
        words = f"{plain[0].spelling!r} is no special token in the GGUF{_and_more(plain)}."
        return Finding("tokenizer.added", "fail", words, figures, _ADDED, find_cause("token_type"))
    words = f"{all_of_them(len(special), 'special token is', 'special tokens are')} read whole."
    return Finding("tokenizer.added", "pass", words, figures, _ADDED)


def _and_more(found: Sequence[object]) -> str:
    return f", and {len(found) - 1} more like it" if len(found) > 1 else ""


def _roles(reference: TokenizerReference, vocab: LlamaTokenizer) -> Finding:
    theirs, ours = reference.roles, {"bos": vocab.bos, "eos": vocab.eos}
    # A GGUF without a role has -1; what a tokenizer does not name, a program never asks for.
    wrong = [role for role, number in theirs.items() if number is not None and number != ours[role]]
    figures = {"tokenizer": theirs, "gguf": ours, "adds_bos": [reference.adds_bos, vocab.add_bos]}
    if "eos" in wrong or "bos" in wrong:
        role = wrong[0]
        words = (
            f"The {role.upper()} token is {theirs[role]} in the tokenizer and {ours[role]} "
            f"({vocab.text(ours[role])!r}) in the GGUF."
        )
        return Finding("tokenizer.roles", "fail", words, figures, _ROLES, find_cause(f"{role}_differs"))
    if reference.adds_bos != vocab.add_bos:
        words = (
            f"Before a plain text the tokenizer puts {'a' if reference.adds_bos else 'no'} BOS, and the GGUF "
            f"{'asks for one' if vocab.add_bos else 'for none'}; chats are not touched by this."
        )
        return Finding("tokenizer.roles", "warn", words, figures, _ROLES, find_cause("add_bos"))
    return Finding("tokenizer.roles", "pass", "BOS and EOS are the same tokens.", figures, _ROLES)


def _texts(texts: Sequence[EncodedText], vocab: LlamaTokenizer) -> Finding:
    read = {text.text: vocab.tokenize(text.text, special=True) for text in texts}
    parted = [text for text in texts if read[text.text] != text.ids]
    different = [text for text in parted if not same_but_for_spaces(text.ids, read[text.text], vocab)]
    counts = Counter(text.kind for text in different)
    spaced = len(parted) - len(different)
    figures = {"texts": len(texts), "differ": len(different), "by_kind": dict(counts), "spaces": spaced}
    if not different:
        words = f"{all_of_them(len(texts), 'text gives', 'texts give')} the same ids{_but_for(spaced)}."
        return Finding("tokenizer.text", "pass", words, figures, _TEXT)
    common = [text for text in different if text.kind in COMMON or text.kind == "special tokens"]
    first = (common or different)[0]
    of_all = f"of {len(texts)} texts"
    words = (
        f"{pluralize(len(different), f'{of_all} gives', f'{of_all} give')} other ids "
        f"({', '.join(counts)}): "
        f"{describe_difference(first.text, first.ids, read[first.text], vocab)}."
    )
    signature = "text_differs" if common else "rare_text_differs"
    status: Status = "fail" if common else "warn"
    return Finding("tokenizer.text", status, words, figures, _TEXT, find_cause(signature))


def _but_for(spaced: int) -> str:
    return f", {spaced} of them but for SentencePiece's space before a text" if spaced else ""


def same_but_for_spaces(theirs: Sequence[int], ours: Sequence[int], vocab: LlamaTokenizer) -> bool:
    """Whether two readings differ in nothing but the space that SentencePiece puts before a text.

    transformers leaves it out after a special token, and where the text begins with white space.
    """
    one, other = _segments(theirs, vocab), _segments(ours, vocab)
    if not vocab.is_sentencepiece or len(one) != len(other):
        return False
    return all(
        a == b or "▁" in (a.removesuffix(b), b.removesuffix(a)) for a, b in zip(one, other, strict=True)
    )


def _segments(ids: Sequence[int], vocab: LlamaTokenizer) -> list[str]:
    """The special tokens, and the texts between them."""
    found, text = [], ""
    for number in ids:
        if vocab.is_read_whole(number):
            found += [text, vocab.text(number)]
            text = ""
        else:
            text += vocab.text(number)
    return [*found, text]


def describe_difference(text: str, theirs: list[int], ours: list[int], vocab: LlamaTokenizer) -> str:
    """The first place at which two readings of a text part, in words."""
    place = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), None)
    if place is None:
        place = min(len(theirs), len(ours))
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return (
        f"in {shown!r} token {place + 1} is {_named(theirs, place, vocab)} for transformers and "
        f"{_named(ours, place, vocab)} for the GGUF"
    )


def _named(ids: list[int], place: int, vocab: LlamaTokenizer) -> str:
    if place >= len(ids):
        return "missing"
    number = ids[place]
    return f"{number} ({vocab.text(number)!r})" if number < vocab.size else str(number)
