"""Chats to recover an adapter on where there are none: the tuned model's own answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.data.dataset import IGNORED, Example
from pipeline.errors import InputError
from pipeline.evaluation.gguf_files import ScoreJob, backend_for, score_file
from pipeline.progress import StepProgress

_TOKENS = 96
"""Tokens of an answer."""

MIN_PROMPTS = 8
"""Fewer questions tell too little of a model."""

PROMPTS = (
    "Introduce yourself in two sentences.",
    "What do you like to do all day?",
    "Where are you from?",
    "What is your favourite food?",
    "Can you tell me a short story?",
    "What is the weather like where you are?",
    "How do I boil an egg?",
    "What is the best way to learn to swim?",
    "Describe a market on a busy morning.",
    "Why do birds fly south in winter?",
    "How does a telephone work?",
    "What should I pack for a weekend in the mountains?",
    "My friend is angry with me. What can I do?",
    "I cannot decide what to study. Help me.",
    "Give me three ideas for a rainy afternoon.",
    "What makes a good leader?",
    "Explain what money is to a six-year-old.",
    "How many legs does a spider have?",
    "What is 15 minus 7?",
    "Name the planets of our solar system.",
    "What is the tallest mountain on Earth?",
    "Who wrote Romeo and Juliet?",
    "What happened in the year 1969?",
    "Translate 'good night' into French.",
    "Write a short poem about the moon.",
    "Write an invitation to a birthday party.",
    "Write a polite letter of complaint about a broken chair.",
    "Summarize the story of Cinderella in one sentence.",
    "Give me a recipe with potatoes and onions.",
    "How do I keep a houseplant alive?",
    "What is the difference between weather and climate?",
    "Why is salt put on icy roads?",
    "How does a vaccine protect me?",
    "What is photosynthesis?",
    "What does a lawyer do?",
    "How can I save money each month?",
    "Should I buy a used car?",
    "How do I write a curriculum vitae?",
    "Give me advice for my first day at work.",
    "How can I be less nervous before a talk?",
    "I feel lonely today.",
    "I have just won a prize!",
    "Somebody stole my bicycle.",
    "My cat is ill. What now?",
    "What is your opinion on early mornings?",
    "Do you ever get tired?",
    "What are you afraid of?",
    "What is the meaning of life?",
    "Is it better to be honest or kind?",
    "What would you do with a million?",
    "What does a for loop do?",
    "Write a function that adds two numbers in Python.",
    "What is a database?",
    "How do I choose a safe password?",
    "What is artificial intelligence?",
    "List five animals that live in water.",
    "List the months with thirty days.",
    "Sort these words: pear, apple, cherry.",
    "Correct this sentence: He go to school yesterday.",
    "Give me another word for 'happy'.",
    "Is the statement 'all fish can fly' true?",
    "What comes next: 2, 4, 8, 16?",
    "Speak to me as if I were a king.",
    "Tell me something that I do not know yet.",
    "How do ships stay afloat?",
    "What is the sound of rain like?",
    "How do I sharpen a knife?",
    "How do I build a fire?",
    "What is a fair price for a haircut?",
    "Tell me about your best friend.",
    "What do you know about trains?",
    "Plan a dinner for four.",
    "What should I read next?",
    "How do bees make honey?",
    "What do I say at a funeral?",
    "Suggest a name for a dog.",
    "What is the fastest way across a river?",
    "How long is an hour?",
    "See you tomorrow!",
    "Thanks, that helped a lot.",
)


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the questions of a text file, one a line. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--prompts {str(path)!r} cannot be read ({error}): give a text file") from None
    prompts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(prompts) < MIN_PROMPTS:
        raise InputError(
            f"--prompts {str(path)!r} has {len(prompts)} different questions, and {MIN_PROMPTS} are needed, "
            "one a line"
        )
    return prompts


def own_answers(
    full: Path, tokenizer: Any, prompts: Sequence[str], *, threads: int, log: Path, progress: StepProgress
) -> list[Example]:
    """Return the greedy answers of the GGUF `full` to the prompts; only the answers are trained on.

    Raises PipelineError when llama.cpp cannot run the file.
    """
    ids = tuple(
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
            )
        )
        for prompt in prompts
    )
    job = ScoreJob(full, backend_for(full, threads), (), ids, _TOKENS, threads)
    answers = score_file(job, [], log, progress).answers
    return [
        Example([*prompt, *answer], [IGNORED] * len(prompt) + list(answer), truncated=False)
        for prompt, answer in zip(ids, answers, strict=True)
        if answer
    ]
