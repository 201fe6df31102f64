"""OpenAI's own client against the real app and the embedded model."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from tests.ui.app_process import AppProcess
from tests.ui.conftest import until

QUESTION: Any = [{"role": "user", "content": "Name three colours of the rainbow."}]


@pytest.fixture(scope="module")
def client(app: AppProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{app.address()}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_seed_repeats_an_answer_and_its_prompt_is_read_once(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data

    def answer() -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(
            model=model.id, messages=QUESTION, seed=7, temperature=0.9, max_tokens=12, stop="\n"
        )

    first, again = answer(), answer()
    assert first.choices[0].message.content and first.model == model.id
    assert again.choices[0].message.content == first.choices[0].message.content
    assert first.usage and again.usage and again.usage.prompt_tokens_details
    assert 0 < first.usage.completion_tokens <= 12
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens


def metrics(app: AppProcess) -> str:
    with urllib.request.urlopen(f"{app.address()}/metrics") as reply:
        return str(reply.read().decode())


LEAVES = 1  # the number of the client that disconnects


def test_many_streams_at_once_and_one_that_is_left(app: AppProcess) -> None:
    async def read(client: openai.AsyncOpenAI, number: int) -> tuple[str, int]:
        text, counted = "", 0
        async with await client.chat.completions.create(
            model="",
            messages=[*QUESTION, {"role": "assistant", "content": "Red"}] if number else QUESTION,
            max_completion_tokens=8 if number != LEAVES else 1500,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            async for chunk in stream:
                if number == LEAVES:
                    return text, counted
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                counted = chunk.usage.completion_tokens if chunk.usage else counted
        return text, counted

    async def read_all() -> list[tuple[str, int]]:
        async with openai.AsyncOpenAI(base_url=f"{app.address()}/v1", api_key="none") as client:
            return await asyncio.gather(*(read(client, number) for number in range(6)))

    answers = asyncio.run(read_all())
    until(lambda: "\ngguf_chat_running 0.0" in metrics(app), 5)  # 1500 tokens would take longer
    assert answers[LEAVES] == ("", 0) and len(set(answers[2:])) == 1
    assert all(text and 0 < counted <= 8 for text, counted in (answers[0], *answers[2:]))


def test_an_answer_follows_its_schema_and_penalties_change_it(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "maximum": 99}},
        "required": ["colour", "count"],
    }
    answer = client.chat.completions.create(
        model="",
        messages=QUESTION,
        temperature=0,
        max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "pick", "schema": schema}},
    )
    picked = json.loads(answer.choices[0].message.content or "")
    assert picked["colour"] in ("red", "green") and isinstance(picked["count"], int)
    repeat: Any = [{"role": "user", "content": "Write the word tea ten times."}]
    plain: Any = {"model": "", "messages": repeat, "temperature": 0, "max_tokens": 24, "extra_body": {}}
    texts = {
        client.chat.completions.create(**plain, frequency_penalty=value).choices[0].message.content
        for value in (0, 2)
    }
    assert len(texts) == 2


def test_a_text_is_continued(client: openai.OpenAI) -> None:
    counted = client.completions.create(model="any", prompt="1, 2, 3, 4,", max_tokens=9, temperature=0)
    assert counted.choices[0].text.startswith(" 5, 6, 7")
    assert counted.choices[0].finish_reason == "length" and counted.usage is not None
    pieces = client.completions.create(
        model="", prompt="1, 2, 3, 4,", max_tokens=9, temperature=0, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == counted.choices[0].text


def test_texts_have_embeddings(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="any", input=["A cat on a sofa.", "A cat on a couch.", "Taxes."])
    cat, couch, taxes = (np.array(one.embedding) for one in found.data)
    assert cat.shape == (576,) and cat @ couch > cat @ taxes
    (again,) = client.embeddings.create(model="any", input="Taxes.", encoding_format="float").data
    assert again.embedding == pytest.approx(taxes.tolist(), abs=1e-6)


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-7"):
        client.models.retrieve("gpt-7")
    with pytest.raises(openai.BadRequestError, match="one answer"):
        client.chat.completions.create(model="", messages=QUESTION, n=2)
