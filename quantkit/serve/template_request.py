"""What a request says to the model's chat template: to think or not, how hard, and which tools there are.

A template ignores what it does not know. So a request that says such a thing is refused by name: the client would take
the answer for one that obeys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.serve.call_grammar import forced_calls, one_call_at_most
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
) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """The tools that the model may call, and the grammar of its answer; no tools for ``tool_choice: "none"``.

    Args:
        tools: those of the request.
        choice: its ``tool_choice``.
        parallel: its ``parallel_tool_calls``.
        form: how the model's chat template lets it answer.

    Returns:
        The tools, and GBNF with the rule ``answer``, "" where the model is free.

    Raises:
        RequestError: calls cannot be read, or cannot be forced or limited as it asks.
    """
    wanted = _choice(choice)
    if wanted == "none" or (not tools and wanted == "auto"):
        return (), ""
    if not tools:
        raise RequestError("tool_choice asks for a call, and there are no tools", param="tool_choice")
    if form.calls is None:
        raise RequestError(
            f"tools are not supported with this model: of its chat template, {form.no_calls}", param="tools"
        )
    names = [tool.function.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"tools has {twice!r} twice", param="tools")
    offered = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    functions = [tool["function"] for tool in offered]
    if wanted == "auto":
        limited = parallel is False and form.calls.several
        return offered, one_call_at_most(form, functions) if limited else ""
    if isinstance(wanted, _Chosen):
        if wanted.function.name not in names:
            raise RequestError(f"tool_choice: there is no tool {wanted.function.name!r:.80}", param="tool_choice")
        functions = [function for function in functions if function["name"] == wanted.function.name]
    return offered, forced_calls(form.calls, functions, several=parallel is not False and wanted == "required")


class _ChosenFunction(BaseModel):
    name: str


class _Chosen(BaseModel):
    """A ``tool_choice`` that names a tool."""

    type: Literal["function"]
    function: _ChosenFunction


def _choice(choice: object) -> str | _Chosen:
    if choice in (None, "auto", "none", "required"):
        return str(choice or "auto")
    try:
        return _Chosen.model_validate(choice)
    except ValidationError:
        raise RequestError(
            "tool_choice must be 'auto', 'none', 'required', or a function: "
            '{"type": "function", "function": {"name": NAME}}',
            param="tool_choice",
        ) from None
