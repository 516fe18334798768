"""Several answers at a time in one context: each is the one that it would be alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from quantkit.errors import QuantkitError
from quantkit.run.answer import Answer
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.lanes import Lane, Lanes
from quantkit.run.session import ChatModel
from quantkit.run.settings import Settings
from quantkit.serve.answering import Answers
from quantkit.serve.request import ChatRequest
from quantkit.serve.turns import Place, Turn, Turns

CONTEXT = 128
TEXTS = ["Who are you?", "Tell me a story. " * 6, "你好", "What is a quantized model?"]


@pytest.fixture(scope="module")
def model(small_gguf: Path) -> Iterator[ChatModel]:
    """A trained model, whose answers depend on all of the prompt."""
    with ChatModel.load(small_gguf, threads=1, n_ctx=CONTEXT) as model:
        yield model


@pytest.fixture
def lanes(model: ChatModel) -> Lanes:
    return model.engine.open_lanes(3)


def prepared(model: ChatModel, text: str, **options: Any) -> Answer:
    return model.prepare([{"role": "user", "content": text}], max_tokens=20, **options)


def together(answers: Sequence[Answer], lanes: Lanes) -> list[str]:
    """The texts of answers that advance in the same steps."""
    texts = ["" for _ in answers]
    running = {index: answer.steps(lanes) for index, answer in enumerate(answers)}
    while running:
        waiting: list[Lane] = []
        for index, steps in list(running.items()):
            for step in steps:
                if isinstance(step, Lane):
                    waiting.append(step)
                    break
                texts[index] += step
            else:
                del running[index]
        if waiting:
            lanes.step(waiting)
    return texts


def reused(answers: Sequence[Answer]) -> list[int]:
    return [answer.stats.reused_tokens for answer in answers if answer.stats is not None]


def test_answers_beside_each_other(model: ChatModel, lanes: Lanes) -> None:
    alone = [model.answer([{"role": "user", "content": text}], max_tokens=20) for text in TEXTS]
    assert len(set(alone)) == len(TEXTS)
    for first in range(len(TEXTS)):
        texts = (TEXTS * 2)[first : first + 3]
        expected = (alone * 2)[first : first + 3]
        assert together([prepared(model, text) for text in texts], lanes) == expected


def test_prompts_take_over_what_is_there(model: ChatModel, lanes: Lanes) -> None:
    answers = [prepared(model, "Tell me a story. " * 5 + end) for end in ("a", "b", "c")]
    first = together(answers, lanes)
    assert reused(answers) == [0, 0, 0], "nothing was there when they began"
    again = [prepared(model, "Tell me a story. " * 5 + end) for end in ("c", "a", "b")]
    assert together(again, lanes) == [first[2], first[0], first[1]]
    assert reused(again) == [len(answer.prompt) - 1 for answer in again]
    other = [prepared(model, "Tell me a story. " * 5 + "d" * 5)]
    together(other, lanes)
    assert 10 < reused(other)[0] < len(other[0].prompt) - 1


def test_prompts_take_over_what_is_in_use(model: ChatModel, lanes: Lanes) -> None:
    """Also while the other answer goes on, with nothing changed for it."""
    alone = [model.answer([{"role": "user", "content": "Tell me a story. " * 5 + end}], max_tokens=20) for end in "ab"]
    first, second = (prepared(model, "Tell me a story. " * 5 + end) for end in "ab")
    steps, said = first.steps(lanes), list[str]()

    def advance() -> Lane | None:
        for step in steps:
            if isinstance(step, Lane):
                return step
            said.append(step)
        return None

    lane = advance()
    while lane is not None and len(lane.evaluated) < len(first.prompt) + 3:
        lanes.step([lane])
        lane = advance()
    text = together([second], lanes)[0]
    assert text == alone[1]
    assert len(first.prompt) > reused([second])[0] > 20
    while lane is not None:
        lanes.step([lane])
        lane = advance()
    assert "".join(said) == alone[0]


def test_what_is_kept_makes_room(lanes: Lanes) -> None:
    """Each of three answers has the whole context, whatever was kept before."""

    def fill(first: int) -> None:
        opened = [lanes.begin([first + number] * CONTEXT) for number in range(3)]
        while waiting := [lane for lane in opened if lane.pending]:
            lanes.step(waiting)
        assert [len(lane.evaluated) for lane in opened] == [CONTEXT] * 3
        for lane in opened:
            lanes.end(lane)

    fill(10)
    fill(20)
    # llama.cpp has cells in multiples of 256, so there is room for one more.
    assert [one.tokens[0] for one in lanes._cache.kept] == [12, 20, 21, 22]


def test_a_failed_step_leaves_nothing(model: ChatModel, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = prepared(model, "hello").steps(lanes)
    lane = next(steps)
    assert isinstance(lane, Lane)
    with monkeypatch.context() as patched:
        patched.setattr("quantkit.run.lanes.decode", lambda *arguments: (-3, "out of order"))
        with pytest.raises(QuantkitError, match=r"position 0 \(status -3\): out of order"):
            lanes.step([lane])
    steps.close()
    answers = [prepared(model, "hello")]
    assert together(answers, lanes) == [model.answer([{"role": "user", "content": "hello"}], max_tokens=20)]
    assert reused(answers) == [0]


def test_kinds_do_not_mix(model: ChatModel, lanes: Lanes) -> None:
    prompt = prepared(model, "hello").prompt
    for kind, common in (("a", 0), ("b", 0), ("a", len(prompt) - 1)):
        lane = lanes.begin(prompt, kind=kind)
        assert (lane.reused, lane.kind) == (common, kind)
        lanes.step([lane])
        lanes.end(lane)


# -- in the server's thread --------------------------------------------------------------------------------------------


def asked(text: str, *, reuse: bool = True, **sampling: Any) -> ChatRequest:
    settings = Settings(sampling, max_tokens=20)  # type: ignore[arg-type]
    return ChatRequest(({"role": "user", "content": text},), settings, False, False, reuse=reuse)


async def said(answers: Answers, request: ChatRequest) -> tuple[str, GenerationStats]:
    parts = [part async for part in answers.stream(request)]
    assert isinstance(parts[-1], GenerationStats)
    return "".join(part.text for part in parts[:-1] if not isinstance(part, GenerationStats)), parts[-1]  # type: ignore[union-attr]


def test_a_seed_gives_the_same_answer_whatever_is_beside_it(
    model: ChatModel, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits change in their last bits with what else a step has, so it has nothing else."""
    seeded = [asked(text, seed=seed, temperature=1.5) for seed, text in enumerate(TEXTS)]
    plain = asked(TEXTS[1], reuse=False, temperature=0.0)

    async def all_at_once(answers: Answers, *others: ChatRequest) -> list[tuple[str, GenerationStats]]:
        found = await asyncio.gather(*(said(answers, one) for one in (*others, *seeded, plain)))
        return list(found)[len(others) :]

    others = [asked(text, temperature=1.5) for text in TEXTS * 3]
    alone = [answer_alone(model, one) for one in (*seeded, plain)]
    answers, step, own = Answers(model, lanes=lanes), Lanes.step, list[int]()

    def recorded(self: Lanes, stepped: Sequence[Lane]) -> None:
        if self is model.engine.lanes:
            own.append(len(stepped))
        step(self, stepped)

    monkeypatch.setattr(Lanes, "step", recorded)
    found = asyncio.run(all_at_once(answers, *others))
    assert [text for text, _ in found] == alone
    # Not every model's bits change beside others, so the rule itself is tested too.
    assert set(own) == {1}
    assert len(own) >= sum(stats.generated_tokens for _, stats in found)
    assert [stats.reused_tokens for _, stats in found] == [0] * 5
    load = answers.load
    assert (load.processing, load.waiting, load.slots) == (0, 0, 4)
    assert load.busy > 1.2 * load.steps, "the others have shared steps"


def answer_alone(model: ChatModel, request: ChatRequest) -> str:
    return model.answer(request.messages, max_tokens=20, reuse=request.reuse, **request.settings.sampling)


def test_who_leaves_makes_room(model: ChatModel, lanes: Lanes) -> None:
    """Each of the three that are under way, while others wait."""
    endless = ChatRequest(({"role": "user", "content": TEXTS[0]},), Settings({"temperature": 2.0}), True, False)

    async def leave(answers: Answers) -> None:
        async with aclosing(answers.stream(endless)) as parts:
            async for _ in parts:
                break

    async def all_at_once(answers: Answers) -> list[Any]:
        return await asyncio.gather(
            *(leave(answers) for _ in range(5)), *(said(answers, asked("你好")) for _ in range(3))
        )

    answers = Answers(model, lanes=lanes)
    texts = [one[0] for one in asyncio.run(all_at_once(answers))[5:]]
    assert texts == [model.answer([{"role": "user", "content": "你好"}], max_tokens=20)] * 3
    assert answers.is_idle(10)


def test_a_long_prompt_does_not_stall_an_answer(model: ChatModel, lanes: Lanes) -> None:
    """While it is evaluated, the answer beside it has a token at each step."""
    short, long = prepared(model, "你好"), prepared(model, TEXTS[1] * 2 + "x")
    place, told, ends = Place(lanes), list[str](), list[str]()
    turns = Turns([place])
    for name, answer in (("short", short), ("long", long)):
        turn = Turn(
            answer, lambda part, name=name: told.append(name), lambda error, name=name: ends.append(name), lambda: True
        )  # type: ignore[misc]
        place.waiting.append(turn)
    while place.has_work:
        turns._step(place)
    first = told.index("long")
    assert first >= 4, "pieces of the short one"
    assert turns.load.steps >= len(long.prompt) // 16
    assert sorted(ends) == ["long", "short"]


def test_kinds_take_turns(model: ChatModel, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[object]] = []
    step = lanes.step

    def recorded(stepped: Sequence[Lane]) -> None:
        seen.append({lane.kind for lane in stepped})
        step(stepped)

    class OfKind:
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def steps(self, lanes: Lanes) -> Iterator[Lane]:
            lane = lanes.begin([5, 6, 7], kind=self.kind)
            for token in range(3):
                yield lane
                lane.pending.append(token)
            lanes.end(lane)

    monkeypatch.setattr(lanes, "step", recorded)
    place = Place(lanes)
    turns = Turns([place])
    errors: list[object] = []
    for kind in "aba":
        place.waiting.append(Turn(OfKind(kind), print, errors.append, lambda: True))  # type: ignore[arg-type]
    while place.has_work:
        turns._step(place)
    assert seen == [{"a"}, {"b"}] * 3
    assert errors == [None] * 3
