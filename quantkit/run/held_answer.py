"""The grammar of a whole answer, whose text or calls are held to one: the model may think before.

As in llama.cpp's server, a thought is free, and what is held begins behind its end. The thought is part of the grammar,
so a model cannot end its answer inside of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.chat_template.answer_format import AnswerFormat, Wrapper
from quantkit.chat_template.answer_reader import AnswerReader
from quantkit.run.gbnf import GAP, literal, text, text_without


@dataclass(frozen=True)
class Held:
    """What an answer is held to.

    Attributes:
        rules: GBNF with a rule ``answer``; with *is_whole*, with the rule ``root`` of a whole answer.
        is_text: whether that is the answer's text, around which some formats have markers.
        thinks: whether the model may think before.
        is_whole: whether nothing is added to the rules.
    """

    rules: str
    is_text: bool = True
    thinks: bool = True
    is_whole: bool = False


def answer_grammar(held: Held, form: AnswerFormat, reader: AnswerReader) -> str:
    """The GBNF of an answer, with the rule ``root``.

    Args:
        held: what it is held to.
        form: how the chat template lets the model answer.
        reader: has read what the prompt writes of the answer, and nothing else.
    """
    if held.is_whole:
        return held.rules
    rules = dict([GAP])
    answer = "answer"
    if held.is_text and form.answer.open and not reader.wrapped:
        answer = f"{literal(form.answer.open)} gap answer{_maybe(form.answer.close)}"
    marks = form.thoughts.marks if form.thoughts is not None and held.thinks else Wrapper()
    if marks.close and (reader.thinking or (marks.open and reader.at_start)):
        rules |= text_without(marks.close, "thought")
        thought = f"thought {literal(marks.close)} gap"
        answer = f"{thought} {answer}" if reader.thinking else f"({literal(marks.open)} {thought})? {answer}"
    return f"{text({'root': f'gap {answer}', **rules})}\n{held.rules}"


def _maybe(close: str) -> str:
    # A marker can be a token that ends the answer, which is no text to llama.cpp.
    return f" ({literal(close)})?" if close else ""
