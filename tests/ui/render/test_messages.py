import pytest

from engine.errors import RequestError
from ui.render.messages import JOINER, conversation, neutralize_markdown, restore_markdown, text_of

HOSTILE = [
    "<img src='http://evil.example/x.png'>",
    "![x](http://evil.example/x.png)",
    "![x][ref]\n\n[ref]: http://evil.example/x.png",
    "<script>alert(1)</script>",
    "text <!-- comment --> and <?php ?>",
    "a ` lone backtick <img src=x> and more",
    "two `` `code` `` <b>bold</b>",
    "```\nclosed\n```\n<iframe src='http://evil.example'></iframe>",
    "```mermaid\ngraph TD\nA --> B\n```\n<b>",
    "`code that\n\ndoes not cross` <img src=x> a paragraph`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_defused_text_has_no_tag_and_no_image_outside_code(text: str) -> None:
    import re

    outside = re.sub(r"```.*?```|``.*?``|`[^`\n]+`", "", neutralize_markdown(text), flags=re.DOTALL)
    assert not re.search(r"<[A-Za-z/!?]|!\[", outside)


@pytest.mark.parametrize(
    "text", [*HOSTILE, "plain", "a < b and 3 <4", "![", "<", f"odd {JOINER} joiner", "wow![1]"]
)
def test_restore_undoes_defuse(text: str) -> None:
    assert restore_markdown(neutralize_markdown(text)) == text


@pytest.mark.parametrize(
    "code",
    [
        "```html\n<b>x</b>\n```",
        "~~~\n<b>\n~~~",
        "use `<b>` here",
        "```html\n<b>still open",
        "- item\n  ```\n  <i>\n  ```\n",
        "````\n```\n<b>\n```\n````",
    ],
)
def test_code_is_left_alone_so_that_it_can_be_copied(code: str) -> None:
    assert neutralize_markdown(code) == code


def test_math_and_comparisons_are_left_alone() -> None:
    assert neutralize_markdown("if x < 3 and y <= 4: $a < b$") == "if x < 3 and y <= 4: $a < b$"


def test_a_shown_text_goes_round_and_keeps_its_indentation() -> None:
    text = "    indented\n<b>\n"
    assert text_of([{"type": "text", "text": neutralize_markdown(text)}]) == text


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


def test_a_mermaid_fence_is_no_diagram() -> None:
    text = "- ```mermaid\n  A[<img src=x>]\n  ```"
    assert "```mermaid" not in neutralize_markdown(text)
    assert restore_markdown(neutralize_markdown(text)) == text
