import pytest

from engine.errors import RequestError
from ui.render.messages import conversation


def test_blocks_and_strings_become_engine_messages() -> None:
    history = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            "metadata": None,
        },
        {"role": "assistant", "content": "three"},
        {"role": "assistant", "content": "  "},
    ]
    assert conversation(history, " Be brief. ") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "three"},
    ]


def test_the_system_prompt_of_the_settings_replaces_one_in_the_history() -> None:
    history = [{"role": "system", "content": "old"}, {"role": "user", "content": "hi"}]
    assert [m["content"] for m in conversation(history, "new")] == ["new", "hi"]
    assert [m["content"] for m in conversation(history)] == ["old", "hi"]


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"role": "robot", "content": "x"}, "'robot'"),
        ({"content": "x"}, "None"),
        ({"role": "user", "content": 7}, "7"),
        ({"role": "user", "content": [{"type": "file", "file": {"path": "a.png"}}]}, "a.png"),
    ],
)
def test_what_the_model_cannot_read_is_named(item: dict[str, object], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        conversation([item])
