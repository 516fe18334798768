"""``POST /v1/responses``: OpenAI's newer API for an answer. Nothing is stored, so each request has all of its input."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from functools import partial

from quantkit.errors import QuantkitError
from quantkit.run.generation_stats import GenerationStats
from quantkit.serve.choices import Items
from quantkit.serve.completions import ChatCompletions
from quantkit.serve.reply import ChatReply, Choice, Reply
from quantkit.serve.request import ChatRequest
from quantkit.serve.response_reply import ResponseReply, named_event
from quantkit.serve.response_request import ResponseRequest, read_response_request
from quantkit.serve.speaking import Scored
from quantkit.serve.text_request import TextRequest
from quantkit.serve.whole_response import WholeResponse


class Responses(ChatCompletions):
    """Answers to conversations, in the form of this API."""

    prompt = "input"
    reader = staticmethod(read_response_request)

    async def _written(
        self, asked: ChatRequest | TextRequest, reply: Reply, choices: Sequence[Choice]
    ) -> WholeResponse:
        (choice,) = choices
        return await self._writer.run(partial(_whole, self._growing(asked, reply), choice))

    async def _events(self, asked: ChatRequest | TextRequest, reply: Reply, items: Items) -> AsyncGenerator[bytes]:
        growing, begun = self._growing(asked, reply), False
        try:
            async for _, item in items:
                if not begun:
                    yield _sent(growing.begin())
                begun = True
                if isinstance(item, GenerationStats):
                    yield await self._writer.run(partial(_ended, growing, item))
                elif not isinstance(item, Scored):
                    yield _sent(growing.add(item))
        except QuantkitError as error:
            if not begun:
                raise
            yield _sent(growing.fail(str(error)))

    def _growing(self, asked: ChatRequest | TextRequest, reply: Reply) -> ResponseReply:
        assert isinstance(asked, ResponseRequest)
        assert isinstance(reply, ChatReply)
        model = self._served.answers.model
        return ResponseReply(reply, asked.shown, lambda text: len(model.engine.tokenize_prompt(text)))


def _sent(events: Iterable[dict[str, object]]) -> bytes:
    return b"".join(map(named_event, events))


def _ended(growing: ResponseReply, stats: GenerationStats) -> bytes:
    return _sent(growing.end(stats))


def _whole(growing: ResponseReply, choice: Choice) -> WholeResponse:
    for part in choice.parts:
        for _ in growing.add(part):
            pass
    for _ in growing.end(choice.stats):
        pass
    return WholeResponse(growing.response)
