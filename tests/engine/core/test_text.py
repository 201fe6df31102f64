from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.core.detokenizer import IncrementalDetokenizer


def _feed(stream: IncrementalDetokenizer, pieces: list[bytes]) -> list[str]:
    out = []
    for piece in pieces:
        out.append(stream.push(piece))
        if stream.stopped:
            return out
    return [*out, stream.finish()]


def test_a_character_in_parts_comes_whole() -> None:
    assert _feed(IncrementalDetokenizer(), [b"a\xf0\x9f", b"\x98", b"\x80b"]) == ["a", "", "😀b", ""]


def test_half_a_character_at_the_end_is_dropped() -> None:
    assert "".join(_feed(IncrementalDetokenizer(), [b"ok\xf0\x9f"])) == "ok"


def test_a_stop_string_in_parts_never_shows() -> None:
    stream = IncrementalDetokenizer(["<stop>"])
    assert _feed(stream, [b"one <", b"st", b"op> two"]) == ["one ", "", ""] and stream.stopped


def test_what_only_looked_like_a_stop_string_comes_after_all() -> None:
    assert _feed(IncrementalDetokenizer(["<stop>"]), [b"a <st", b"ep", b" <s"]) == ["a ", "<step", " ", "<s"]


def test_the_first_of_several_stop_strings_counts() -> None:
    assert "".join(_feed(IncrementalDetokenizer(["bb", "a"]), [b"xxabb"])) == "xx"


def test_sentencepiece_space_is_dropped_once() -> None:
    assert _feed(IncrementalDetokenizer(skip_space=True), [b" Hello", b" you"]) == ["Hello", " you", ""]


@given(
    st.text("ab<é😀", max_size=40), st.lists(st.text("ab<é", min_size=1, max_size=4), max_size=3), st.data()
)
def test_any_cut_gives_the_text_up_to_the_first_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    shown = "".join(_feed(IncrementalDetokenizer(stops), pieces))
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not any(stop in text for stop in stops):
        assert shown == text
