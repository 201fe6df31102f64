from __future__ import annotations

from pathlib import Path

from pipeline.report.model_card import adapter_card, own_card
from pipeline.training.config import FinetuneConfig, FinetuneReport

OPTIONS = vars(FinetuneConfig(base="you/base", data=Path(), out=Path())) | {"data": "chats.jsonl"}
REPORT = FinetuneReport(
    steps=15,
    seconds=3.0,
    train_chats=9,
    held_out_chats=1,
    truncated_chats=0,
    dropped_chats=0,
    trained_parameters=10,
    trained_tokens=100,
    train_loss_before=3.0,
    train_loss=2.0,
    held_out_loss_before=3.5,
    held_out_loss=2.5,
)


def test_the_card_says_what_it_was_made_of_and_how_it_went() -> None:
    card = adapter_card("bob", OPTIONS, vars(REPORT))
    assert 'base_model: "you/base"' in card and "library_name" in card and "# bob" in card
    assert "- data: `chats.jsonl`, 9 trained on, 1 held out" in card
    assert "| held-out rows | 3.500 | 2.500 |" in card
    assert "learning rate 0.0003 (cosine), auto, seed 42" in card


def test_what_is_not_known_is_not_said() -> None:
    nothing = {"held_out_chats": 0, "held_out_loss_before": None, "held_out_loss": None}
    card = adapter_card("bob", OPTIONS | {"base": "my-base"}, vars(REPORT) | nothing)
    assert "base_model" not in card and "for `my-base`" in card and "| held-out" not in card


def test_a_card_of_ours_is_no_own_one(tmp_path: Path) -> None:
    assert own_card(tmp_path) is None
    (tmp_path / "README.md").write_text(adapter_card("bob", OPTIONS, vars(REPORT)))
    assert own_card(tmp_path) is None
    (tmp_path / "README.md").write_text("mine")
    assert own_card(tmp_path) == "mine"
