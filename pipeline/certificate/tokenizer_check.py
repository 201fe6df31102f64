"""Check 1: the GGUF's vocabulary reads texts into the token ids that the tuned model was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

from engine.model import Model
from engine.vocab import Vocabulary
from pipeline.certificate.causes import cause
from pipeline.certificate.finding import Finding, Status
from pipeline.certificate.spoken import Reference, Text, load_reference
from pipeline.certificate.stress import COMMON
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress

_TEXT = "Every text that people type gives the same ids, since the model knows no others."
_SIZE = "The GGUF has all tokens of the tokenizer; more are the padding of its embeddings."
_ADDED = "Each added token stands at its id and is read whole, or the template falls to pieces."
_ROLES = "The beginning and the end of a text are the same tokens as in training."


def check_tokenizer(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Compare ids on the stress corpus and the user's data, then size, added tokens and roles."""
    with progress.step("Check the tokenizer", None):
        reference = load_reference(subject.reference, subject.evaluation, subject.spoken)
        with closing(Model(subject.full, vocab_only=True)) as model:
            yield from compare_vocabularies(reference, model.vocab)


def compare_vocabularies(reference: Reference, vocab: Vocabulary) -> Iterator[Finding]:
    """The four findings on a vocabulary."""
    yield _size(reference, vocab)
    yield _added(reference, vocab)
    yield _roles(reference, vocab)
    yield _texts(reference.texts, vocab)


def _size(reference: Reference, vocab: Vocabulary) -> Finding:
    figures = {"tokenizer": reference.size, "gguf": vocab.size}
    if vocab.size >= reference.size:
        words = f"The GGUF has {vocab.size} tokens, and the tokenizer {reference.size}."
        return Finding("tokenizer.size", "pass", words, figures, _SIZE)
    words = f"The GGUF has {vocab.size} tokens and lacks {reference.size - vocab.size} of the tokenizer's."
    return Finding("tokenizer.size", "fail", words, figures, _SIZE, cause("tokens_missing"))


def _added(reference: Reference, vocab: Vocabulary) -> Finding:
    tokens = [token for token in reference.tokens if token.id < vocab.size]
    moved = [token for token in tokens if vocab.text(token.id) != token.spelling]
    plain = [token for token in tokens if token.special and not vocab.is_read_whole(token.id)]
    figures = {"added": len(reference.tokens), "differ": len(moved), "not_special": len(plain)}
    if moved:
        first = moved[0]
        words = (
            f"Token {first.id} is {first.spelling!r} in the tokenizer and {vocab.text(first.id)!r} in the "
            f"GGUF{_and_more(moved)}."
        )
        return Finding("tokenizer.added", "fail", words, figures, _ADDED, cause("token_swapped"))
    if plain:
        words = f"{plain[0].spelling!r} is no special token in the GGUF{_and_more(plain)}."
        return Finding("tokenizer.added", "fail", words, figures, _ADDED, cause("token_type"))
    words = f"All {len(tokens)} added tokens stand at their ids."
    return Finding("tokenizer.added", "pass", words, figures, _ADDED)


def _and_more(found: Sequence[object]) -> str:
    return f", and {len(found) - 1} more like it" if len(found) > 1 else ""


def _roles(reference: Reference, vocab: Vocabulary) -> Finding:
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
        return Finding("tokenizer.roles", "fail", words, figures, _ROLES, cause(f"{role}_differs"))
    if reference.adds_bos != vocab.add_bos:
        words = (
            f"Before a plain text the tokenizer puts {'a' if reference.adds_bos else 'no'} BOS, and the GGUF "
            f"{'asks for one' if vocab.add_bos else 'for none'}; chats are not touched by this."
        )
        return Finding("tokenizer.roles", "warn", words, figures, _ROLES, cause("add_bos"))
    return Finding("tokenizer.roles", "pass", "BOS and EOS are the same tokens.", figures, _ROLES)


def _texts(texts: Sequence[Text], vocab: Vocabulary) -> Finding:
    read = {text.text: vocab.tokenize(text.text, special=True) for text in texts}
    different = [text for text in texts if read[text.text] != text.ids]
    counts = Counter(text.kind for text in different)
    figures = {"texts": len(texts), "differ": len(different), "by_kind": dict(counts)}
    if not different:
        words = f"All {len(texts)} texts give the same ids."
        return Finding("tokenizer.text", "pass", words, figures, _TEXT)
    common = [text for text in different if text.kind in COMMON or text.kind == "special tokens"]
    first = (common or different)[0]
    words = (
        f"{len(different)} of {len(texts)} texts give other ids ({', '.join(counts)}): "
        f"{describe_difference(first.text, first.ids, read[first.text], vocab)}."
    )
    signature = "text_differs" if common else "rare_text_differs"
    status: Status = "fail" if common else "warn"
    return Finding("tokenizer.text", status, words, figures, _TEXT, cause(signature))


def describe_difference(text: str, theirs: list[int], ours: list[int], vocab: Vocabulary) -> str:
    """The first place at which two readings of a text part, in words."""
    place = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), None)
    if place is None:
        place = min(len(theirs), len(ours))
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return (
        f"in {shown!r} token {place + 1} is {_named(theirs, place, vocab)} for transformers and "
        f"{_named(ours, place, vocab)} for the GGUF"
    )


def _named(ids: list[int], place: int, vocab: Vocabulary) -> str:
    if place >= len(ids):
        return "missing"
    number = ids[place]
    return f"{number} ({vocab.text(number)!r})" if number < vocab.size else str(number)
