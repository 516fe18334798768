"""Several answers to one request: beside each other where lanes are free, and never before somebody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from quantkit.chat_template.answer_reader import Text
from quantkit.errors import QuantkitError
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.lanes import Lane, Lanes
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.serve.answering import Answers
from quantkit.serve.request import ChatRequest
from quantkit.serve.several import all_answers
from quantkit.serve.text_request import TextPrompt
from tests.support.patience import PATIENCE, wait_for

QUESTION = "Tell me a story. " * 3


@pytest.fixture(scope="module")
def model(small_gguf: Path) -> Iterator[ChatModel]:
    """A trained model, whose answers depend on all of the prompt."""
    with ChatModel.load(small_gguf, threads=1, n_ctx=128) as model:
        yield model


@pytest.fixture
def answers(model: ChatModel) -> Answers:
    return Answers(model, lanes=model.engine.open_lanes(3))


@pytest.fixture
def steps(model: ChatModel, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers advance in each step, until all lanes are used by answers to the question of the tests.

    Where the machine is busy, an answer could end before the next one is there, so steps wait for that.
    """
    found, step, turns = list[int](), Lanes.step, answers._turns
    size = len(model.prompt_tokens(asked(1).messages))

    def recorded(self: Lanes, lanes: Sequence[Lane]) -> None:
        begun = sum(len(lane.evaluated) >= size for lane in lanes)
        wait_for(lambda: 3 in found or turns.load.processing + turns.load.waiting >= min(3, begun + 1))
        found.append(len(lanes))
        step(self, lanes)

    monkeypatch.setattr(Lanes, "step", recorded)
    return found


def asked(n: int, question: str = QUESTION, **sampling: Any) -> ChatRequest:
    return ChatRequest(
        ({"role": "user", "content": question},),
        Settings({"temperature": 0.0, **sampling}, max_tokens=16),  # type: ignore[typeddict-item]
        stream=False,
        include_usage=False,
        n=n,
    )


Found = tuple[list[str], list[GenerationStats], list[int]]


async def said(answers: Answers, request: Sequence[Any]) -> Found:
    """The texts and statistics by index, and the indices in the order of the items."""
    texts, ends, indices = [""] * len(request), list[Any]([None] * len(request)), list[int]()
    async with aclosing(all_answers(answers, request)) as items:
        async for index, item in items:
            indices.append(index)
            if isinstance(item, GenerationStats):
                ends[index] = item
            elif isinstance(item, Text):
                texts[index] += item.text
    return texts, ends, indices


def test_free_lanes_are_used(model: ChatModel, answers: Answers, steps: list[int]) -> None:
    """By the same answers, which share the prompt's evaluation, and which come mixed."""
    texts, ends, indices = asyncio.run(said(answers, asked(5).each()))
    assert max(steps) == 3
    assert texts == [model.answer(asked(1).messages, max_tokens=16)] * 5
    assert [one.reused_tokens for one in ends] == [0] + [ends[0].prompt_tokens - 1] * 4
    assert indices != sorted(indices)
    begun = list(dict.fromkeys(indices))
    assert begun == sorted(begun)
    assert answers.is_idle(10)


def test_different_prompts_beside_each_other(answers: Answers) -> None:
    prompts = [TextPrompt(text, asked(1).settings) for text in ("One day", "The sea", "A ship")]
    texts, _, _ = asyncio.run(said(answers, prompts))
    assert len(set(texts)) == 3
    assert texts == [asyncio.run(said(answers, [prompt]))[0][0] for prompt in prompts]


def test_those_with_a_seed_follow_one_another(
    model: ChatModel, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, step, steps = asked(3, seed=2**32 - 2, temperature=1.5), Lanes.step, set[int]()
    monkeypatch.setattr(Lanes, "step", lambda self, lanes: (steps.add(len(lanes)), step(self, lanes)))
    texts, _, indices = asyncio.run(said(answers, request.each()))
    assert steps == {1}
    assert indices == sorted(indices)
    seeds = (2**32 - 2, 0, 1)
    assert texts == [model.answer(request.messages, max_tokens=16, seed=seed, temperature=1.5) for seed in seeds]


def test_nobody_is_overtaken(
    model: ChatModel, answers: Answers, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests for many answers, and others that come behind them: each of these begins before a further one."""
    names = {tuple(model.prompt_tokens(asked(1, text).messages)): text for text in (QUESTION, *"wxyz")}
    order, full, going = list[str](), threading.Event(), threading.Event()
    begin, step = Lanes.begin, Lanes.step

    def recorded(self: Lanes, prompt: Sequence[int], **options: Any) -> Lane:
        order.append(names[tuple(prompt)])
        return begin(self, prompt, **options)

    def held_back(self: Lanes, lanes: Sequence[Lane]) -> None:
        step(self, lanes)
        if steps.count(3) > 1:  # all three have begun, and a further answer could be in a hurry
            full.set()
            assert going.wait(PATIENCE)

    async def until(reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not reached():
                await asyncio.sleep(0.01)

    async def all_at_once() -> list[Found]:
        many = [asyncio.create_task(said(answers, asked(6).each())) for _ in "ab"]
        await until(full.is_set)
        others = [asyncio.create_task(said(answers, asked(1, text).each())) for text in "wxyz"]
        await until(lambda: answers.load.waiting >= 4)
        going.set()
        return await asyncio.gather(*many, *others)

    monkeypatch.setattr(Lanes, "begin", recorded)
    monkeypatch.setattr(Lanes, "step", held_back)
    found = asyncio.run(all_at_once())
    assert order == [*[QUESTION] * 3, *"wxyz", *[QUESTION] * 9]
    assert all(len(set(texts)) == 1 and all(texts) for texts, _, _ in found)


def test_who_leaves_or_fails_ends_all(model: ChatModel, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, begin = list[int](), Lanes.begin

    def third_fails(self: Lanes, *arguments: Any, **options: Any) -> Lane:
        taken.append(1)
        if len(taken) == 3:
            raise QuantkitError("no third")
        return begin(self, *arguments, **options)

    async def leave_and_fail() -> list[str]:
        async with aclosing(all_answers(answers, asked(6, temperature=2.0).each())) as items:
            async for index, _ in items:
                if index == 1:
                    break
        assert (answers.load.waiting, answers._held.total()) == (0, 0)
        with monkeypatch.context() as patched:
            patched.setattr(Lanes, "begin", third_fails)
            with pytest.raises(QuantkitError, match="no third"):
                await said(answers, asked(6).each())
        return (await said(answers, asked(1).each()))[0]

    assert asyncio.run(leave_and_fail()) == [model.answer(asked(1).messages, max_tokens=16)]
    assert 3 <= len(taken) < 6
    assert answers.is_idle(10)
