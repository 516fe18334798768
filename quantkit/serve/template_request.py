"""What a request says to the model's chat template: to think or not, how hard, and which tools there are.

A template ignores what it does not know. So a request that says such a thing is refused by name: the client would take
the answer for one that obeys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.serve.errors import RequestError

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


class _Function(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"]
    function: _Function


class _CalledFunction(BaseModel):
    name: _Name
    arguments: str


class ToolCall(BaseModel):
    """A call in a past answer."""

    id: str = Field("", max_length=256)
    type: Literal["function"] = "function"
    function: _CalledFunction


def template_variables(asked: Mapping[str, Any], form: AnswerFormat) -> dict[str, Any]:
    """``chat_template_kwargs``, checked.

    Raises:
        RequestError: the template reads no such variable.
    """
    if unknown := next((name for name in asked if name not in form.variables), None):
        known = f"; it reads {', '.join(form.variables)}" if form.variables else ""
        message = f"chat_template_kwargs: {unknown!r:.80} means nothing to this model's chat template{known}"
        raise RequestError(message, param="chat_template_kwargs")
    return dict(asked)


def effort(asked: str | None, form: AnswerFormat) -> dict[str, Any]:
    """``reasoning_effort`` as variables; "none" switches thinking off, as in llama.cpp.

    Raises:
        RequestError: the template does not know it.
    """
    if asked is None:
        return {}
    if asked in form.efforts:
        return {"reasoning_effort": asked}
    if asked == "none" and (form.switches or form.thoughts is None):
        return dict.fromkeys(form.switches, False)
    known = f"one of {', '.join(form.efforts)}" if form.efforts else "not supported"
    raise RequestError(f"reasoning_effort is {known} with this model's chat template", param="reasoning_effort")


def offered_tools(
    tools: Sequence[Tool], choice: object, *, parallel: bool | None, form: AnswerFormat
) -> tuple[Mapping[str, Any], ...]:
    """The tools that the model may call; none for ``tool_choice: "none"``.

    Args:
        tools: those of the request.
        choice: its ``tool_choice``.
        parallel: its ``parallel_tool_calls``.
        form: how the model's chat template lets it answer.

    Raises:
        RequestError: calls cannot be read, or forcing or limiting them is asked for.
    """
    if choice not in (None, "auto", "none"):
        raise RequestError("tool_choice is not supported but for 'auto' and 'none'", param="tool_choice")
    if not tools or choice == "none":
        return ()
    if form.calls is None:
        raise RequestError(
            f"tools are not supported with this model: of its chat template, {form.no_calls}", param="tools"
        )
    if parallel is False and form.calls.several:
        raise RequestError("parallel_tool_calls: false is not supported by this server", param="parallel_tool_calls")
    names = [tool.function.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"tools has {twice!r} twice", param="tools")
    return tuple(tool.model_dump(exclude_none=True) for tool in tools)
