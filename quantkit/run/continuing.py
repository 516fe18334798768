"""An answer that goes on from where it was cut: what there is of it ends the prompt, as in llama.cpp's server.

A text has many tokens that it could consist of. What a model wrote are nearly always those that its tokenizer makes of
the text behind the prompt, so the answer goes on as if it had never been cut. The white space around a thought is the
chat template's, where the template writes thoughts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.chat_template.answer_format import Thoughts
from quantkit.chat_template.answer_reader import AnswerReader
from quantkit.chat_template.answers import THOUGHT
from quantkit.errors import ChatFormatError
from quantkit.run.context_size import context_full
from quantkit.run.interrupts import always
from quantkit.run.session import ChatModel, Messages
from quantkit.system.overlap import common_start

HALF = "\ufffd"
"""In the place of a character whose last bytes are lacking, at the end of an answer that was cut there."""

_THOUGHT, _CONTENT = "continuedthought0", "continuedcontent0"
_BEFORE = ("", "\n")  # some tokenizers put a space before a text, but not before what follows a line's end


@dataclass(frozen=True)
class Cut:
    """An answer that was cut.

    Attributes:
        tokens: the prompt's, and those of what there is of the answer.
        opening: what the prompt writes of the answer, see :meth:`ChatModel.opening`.
        said: what the model wrote of it.
    """

    tokens: list[int]
    opening: str
    said: str


def cut_answer(
    model: ChatModel, messages: Messages, told: Mapping[str, Any] | None = None, go_on: Callable[[], bool] = always
) -> Cut:
    """Prepare the continuation of the answer that *messages* end with.

    Args:
        model: the model.
        messages: the conversation; half a character at the end of the answer is made anew.
        told: further variables of the chat template.
        go_on: called from time to time; False leaves out the rest.

    Raises:
        ChatFormatError: the template rejects the conversation.
        ContextFullError: it cannot fit into the context.
    """
    before, last = messages[:-1], dict(messages[-1])
    content, thought = str(last["content"]), str(last.get(THOUGHT) or "")
    content, thought = content.rstrip(HALF), thought if content else thought.rstrip(HALF)
    asked, ended = (model.render(before, add_generation_prompt=asks, told=told) for asks in (True, False))
    opening = asked[len(common_start(asked, ended)) :]
    said = ""
    if content or thought:
        form = model.answers
        thinks = AnswerReader(form, opening).thinking if form.thoughts is not None else False
        last |= {"content": _CONTENT, **({THOUGHT: _THOUGHT} if thought else {})}
        written = _written(model, [*before, last], told)
        said = _said(asked, written, thought, content, form.thoughts, thinks=thinks)
    if (least := model.engine.least_tokens(asked + said)) > model.n_ctx:
        raise context_full(model.engine, least, least=True)
    return Cut(_tokens(model, asked, said, go_on), opening, said)


def _written(model: ChatModel, messages: Messages, told: Mapping[str, Any] | None) -> str:
    """A conversation that ends with an answer, as the template writes it; "" if it accepts none at the end."""
    try:
        return model.render(messages, add_generation_prompt=False, told=told)
    except ChatFormatError:
        return ""


def _said(asked: str, written: str, thought: str, content: str, thoughts: Thoughts | None, *, thinks: bool) -> str:
    """What the model wrote behind a prompt.

    Args:
        asked: the prompt.
        written: the conversation with an answer of :data:`_THOUGHT`, if there is a thought, and :data:`_CONTENT`.
        thought: the thought.
        content: the text.
        thoughts: how they stand in an answer.
        thinks: whether the prompt begins one.
    """
    head, found, _ = written.rpartition(_CONTENT)
    before, has_thought, between = head.partition(_THOUGHT)
    if found and written.startswith(asked) and bool(has_thought) == bool(thought):
        before = before[len(asked) :]
        return before + thought + (between + content if content and thought else content)
    # The template leaves thoughts out, or writes answers in another way than it asks for them.
    if thoughts is None:
        return content
    start = "" if thinks or not thoughts.marks.open else f"{thoughts.marks.open}\n"
    end = f"\n{thoughts.marks.close}\n\n" if content else ""
    if thought:
        return start + thought + end + content
    return (end if thinks else "") + content


def _tokens(model: ChatModel, asked: str, said: str, go_on: Callable[[], bool]) -> list[int]:
    """The tokens of a prompt, then those of what the model wrote: as if these had come one by one."""
    engine = model.engine
    prompt = model.text_tokens(asked, go_on)
    if not said:
        return prompt
    for before in _BEFORE:
        tokens = engine.tokenize_prompt(before + said, go_on)
        pieces = [engine.piece(token, special=True) for token in tokens]
        for start in range(min(4, len(tokens))):
            if b"".join(pieces[start:]) == said.encode():
                return prompt + tokens[start:]
    return model.text_tokens(asked + said, go_on)  # the tokenizer changes texts
