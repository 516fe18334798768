"""A script for :func:`tests.support.served.running_server`: a model that says what a test wants it to say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

Said = Sequence[tuple[str, str] | tuple[str, str, int]]

_SCRIPT = """
from quantkit.ggml.llama import begin
begin()
import asyncio, json
from quantkit.chat_template.answer_reader import Text, Thought
from quantkit.run.generation_stats import GenerationStats
from quantkit.serve.answering import Answers

ANSWERS = json.loads({answers!r})
KINDS = {{"text": Text, "thought": Thought}}

async def stream(self, request, begun=bool):
    asked = [message for message in request.messages if message["role"] == "user"]
    question = asked[-1]["content"]
    pieces = 0
    for kind, text, *times in ANSWERS.get(question, [("text", question)]):
        text *= times[0] if times else 1
        for start in range(0, len(text), {size}):
            pieces += 1
            yield KINDS[kind](text[start : start + {size}])
            await asyncio.sleep({pause})
    yield GenerationStats(
        prompt_tokens=10 * len(request.messages), prompt_seconds=0.1, generated_tokens=pieces,
        generation_seconds=pieces / 40, stopped=True,
    )

Answers.stream = stream
"""


def scripted(answers: Mapping[str, Said], *, size: int = 16, pause: float = 0) -> str:
    """The script.

    Args:
        answers: question -> "thought" or "text", what is said, and how many times if not once; anything else is
            answered with itself.
        size: characters of a piece.
        pause: seconds after each.
    """
    return _SCRIPT.format(answers=json.dumps(answers), size=size, pause=pause)
