"""Calls of tools as a grammar: in the template's own syntax, with arguments that obey the tool's schema.

What a grammar cannot hold is refused by name, as in :mod:`quantkit.serve.schema_grammar`. Every text of the grammar is
read back as calls by :mod:`quantkit.chat_template.call_reader`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.chat_template.answer_format import ARGUMENTS, ID, NAME, NUMBER, AnswerFormat, CallFormat, CallKind
from quantkit.chat_template.call_reader import may_be_string
from quantkit.run.gbnf import literal, text, text_without
from quantkit.run.options import GrammarError
from quantkit.serve.errors import RequestError
from quantkit.serve.schema_dialect import JSON, SchemaError, character_but, quoted
from quantkit.serve.schema_grammar import ANNOTATIONS, SchemaRules
from quantkit.serve.schema_keywords import format_rule, length_range, listed, literals, only, properties, refused

_OBJECT = {"type", "properties", "required", "additionalProperties"}
_PLACES = {ID: r'"\"" [a-zA-Z0-9]{9} "\""', NUMBER: r'"\"" [0-9]{1,3} "\""'}


def forced_calls(form: CallFormat, functions: Sequence[Mapping[str, Any]], *, several: bool) -> str:
    """The grammar of an answer that is a call, with the rule ``answer``.

    Args:
        form: how the template writes calls.
        functions: the tools that may be called, with ``name`` and ``parameters``.
        several: whether there may be more than one call.

    Raises:
        RequestError: a tool's parameters cannot be held.
    """
    return text(_Calls(form, functions, several=several).rules)


def one_call_at_most(form: AnswerFormat, functions: Sequence[Mapping[str, Any]]) -> str:
    """The grammar of a text with a call behind it, or without one.

    Args:
        form: how the model answers; its calls begin with a trigger.
        functions: as above.

    Raises:
        RequestError: a tool's parameters cannot be held.
    """
    assert form.calls is not None
    if form.calls.kind is CallKind.ADDRESSED or not (trigger := form.calls.trigger):
        raise RequestError(
            "parallel_tool_calls: false is not supported with this model: nothing marks the beginning of its calls",
            param="parallel_tool_calls",
        )
    calls = _Calls(form.calls, functions, several=False)
    said = "said"
    if form.answer.open:
        close = f" ({literal(form.answer.close)})?" if form.answer.close else ""
        said = f"({literal(form.answer.open)} said{close})? gap"
    rules = {"calls": calls.rules.pop("answer"), **calls.rules, **text_without(trigger, "said")}
    return text({"answer": f"{said} calls?", **rules})


class _Calls:
    """The rules, of which ``answer`` is all calls."""

    def __init__(self, form: CallFormat, functions: Sequence[Mapping[str, Any]], *, several: bool) -> None:
        self._form, self._functions = form, functions
        self._several = several and form.several
        self._dialect = quoted(form.value) if form.kind is CallKind.QUOTED else JSON
        self.rules = dict(self._dialect.rules)
        kinds = {CallKind.JSON: self._json, CallKind.TAGGED: self._tagged, CallKind.PYTHON: self._python}
        write = kinds.get(form.kind, self._named)
        if form.kind is CallKind.TAGGED and form.cdata:
            self.rules |= {**text_without("<", "bare"), **text_without("]]>", "inside")}
            self.rules["plain"] = 'bare | "<![CDATA[" inside "]]>"'
        elif form.kind is CallKind.TAGGED:
            self.rules |= text_without(form.value, "plain")
        if form.kind is CallKind.PYTHON:
            quote = form.value
            self.rules["plain"] = rf"([^\x00-\x1F{quote}\\] | " + rf'"\\" [{quote}\\nt])*'
        try:
            self.rules["answer"] = write()
        except (SchemaError, GrammarError) as error:
            raise RequestError(f"tools: {error}", param="tools") from None

    def _json(self) -> str:
        layout = json.loads(self._form.layout)
        listed = isinstance(layout, list)
        call = self._any([self._value(layout[0] if listed else layout, function) for function in self._functions])
        if not listed:
            return self._sequence(call)
        more = f' ("," space {call})*' if self._several else ""
        return self._section(f'"[" space {call}{more} "]"')

    def _value(self, layout: object, function: Mapping[str, Any]) -> str:
        """A layout as GBNF, white space behind it included."""
        if layout == ARGUMENTS:
            return self._parameters(function)
        if layout == NAME:
            return f"{self._dialect.literal(function['name'])} space"
        if isinstance(layout, str) and layout in _PLACES:
            return f"{_PLACES[layout]} space"
        if isinstance(layout, dict):
            members = [
                f'{self._dialect.key(function["name"] if key == NAME else key)} space ":" space '
                f"{self._value(inner, function)}"
                for key, inner in layout.items()
            ]
            inside = ' "," space '.join(members)
            return f'"{{" space {inside} "}}" space'
        return f"{self._dialect.literal(layout)} space"

    def _named(self) -> str:
        form, ways = self._form, list[str]()
        middle = literal(form.layout if form.kind is CallKind.ADDRESSED else form.after_name)
        if (marks := form.id_marks) is not None:
            middle = f"{literal(marks.open)} {'[0-9]{1,3}' if form.numbered else '[a-zA-Z0-9]{9}'} {middle}"
        first = f"[a-zA-Z0-9]{{9}} {literal(form.id_first)} " if form.id_first else ""
        for function in self._functions:
            ways.append(f"{first}{literal(function['name'])} {middle} gap {self._parameters(function)}")
        return self._sequence(self._any(ways))

    def _tagged(self) -> str:
        return self._sequence(self._any([self._tags(function) for function in self._functions]))

    def _python(self) -> str:
        ways: list[str] = []
        for function in self._functions:
            pairs = {name: f'{literal(name)} gap "=" gap {value} space' for name, value, _ in self._arguments(function)}
            needed = {name for name, _, required in self._arguments(function) if required}
            inside = SchemaRules({}, self.rules).members(pairs, needed) if pairs else ""
            ways.append(f'{literal(function["name"])} "(" space {inside} ")" space')
        call = self._any(ways)
        more = f' ("," space {call})*' if self._several else ""
        return self._section(f'"[" space {call}{more} "]"')

    def _arguments(self, function: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
        """The arguments that a call can have, each with its value as GBNF and whether it is required."""
        where, schema = function["name"], function.get("parameters") or {}
        if schema.get("type", "object") != "object":
            raise refused(f"{where}: parameters must be an object")
        known, required = properties(schema, where)
        only(schema, _OBJECT | ANNOTATIONS, where)
        rules = SchemaRules(schema, self.rules)
        asked = {**known, **{name: True for name in required if name not in known}}
        return [
            (name, self._argument(rules, inner, f"{where}.{name}"), name in required) for name, inner in asked.items()
        ]

    def _tags(self, function: Mapping[str, Any]) -> str:
        form, parts = self._form, list[str]()
        for name, value, required in self._arguments(function):
            part = f"gap {literal(form.key.open)} {literal(name)} {value} {literal(form.value)}"
            parts.append(part if required else f"({part})?")
        return f"{literal(function['name'])} gap {_marker(form.after_name)} {' '.join(parts)}"

    def _argument(self, rules: SchemaRules, schema: object, where: str) -> str:
        """A value with what is around it."""
        form, is_text = self._form, may_be_string(schema)
        value = self._plain(schema, where) if is_text else f"space {rules.rule(schema, where)}"
        if form.kind is CallKind.PYTHON:
            quote = literal(form.value)
            return f"{quote} {value} {quote}" if is_text else value
        key = literal(form.key.close if is_text or not form.other_key else form.other_key)
        line = '"\\n"' if form.lines else ""
        return f"{key} {line} {value} {line if is_text else ''}"

    def _plain(self, schema: object, where: str) -> str:
        """A string without quotes."""
        if not isinstance(schema, Mapping):
            return "plain"
        asked = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
        for key in ("anyOf", "oneOf"):
            if key in asked:
                only(asked, {key}, where)
                ways = listed(asked[key], f"{where}.{key}")
                return self._plain(next(way for way in ways if may_be_string(way)), f"{where}.{key}")
        if "const" in asked or "enum" in asked:
            only(asked, {"const", "enum", "type"}, where)
            values = literals([asked["const"]] if "const" in asked else asked["enum"], asked.get("type"), where)
            texts = [value for value in values if isinstance(value, str)]
            ends = {self._form.value, *self._ends()} if self._form.kind is CallKind.PYTHON else {self._form.value}
            if any(end in value for value in texts for end in ends):
                raise refused(f"{where}: a value of enum or const contains {' or '.join(map(repr, sorted(ends)))}")
            return f"({' | '.join(map(literal, texts))})"
        only(asked, {"type", "format", "minLength", "maxLength"}, where)
        if asked.get("format") is not None:
            return format_rule(asked["format"], where)
        least, most = length_range(asked, where)
        if (least, most) == (0, None):
            return "plain"
        return f"{character_but(*self._ends())}{{{least},{'' if most is None else most}}}"

    def _ends(self) -> str:
        """The characters with which something else than the text of a string may begin."""
        return self._form.value[0] + ("\\" if self._form.kind is CallKind.PYTHON else "<" if self._form.cdata else "")

    # -- what is around a call ----------------------------------------------------------------------------------------

    def _parameters(self, function: Mapping[str, Any]) -> str:
        where, schema = function["name"], function.get("parameters") or {"type": "object"}
        if schema.get("type", "object") != "object":
            raise refused(f"{where}: parameters must be an object")
        if not any(key in schema for key in ("$ref", "anyOf", "allOf")):
            schema = {"type": "object", **schema}
        return SchemaRules(schema, self.rules, self._dialect).rule(schema, where)

    def _any(self, ways: Sequence[str]) -> str:
        names = [f"call-{at}" for at in range(len(ways))]
        self.rules |= dict(zip(names, ways, strict=True))
        return f"({' | '.join(names)})"

    def _sequence(self, call: str) -> str:
        """One call or more, each with its markers."""
        form = self._form
        begin, close = f"{_marker(form.call.open)} gap {call}", f"gap {_marker(form.call.close)}"
        apart = f"{close} gap {_marker(form.between)} gap"
        more = f" ({apart} {begin})*" if self._several else ""
        # The last marker may be a token that ends the answer, which is no text to llama.cpp; but tags go on till it.
        last = close if form.kind is CallKind.TAGGED else f"({close})?"
        return self._section(f"{begin}{more} {last}")

    def _section(self, calls: str) -> str:
        section = self._form.section
        close = f" (gap {literal(section.close)})?" if section.close else ""
        return f"{_marker(section.open)} gap {calls}{close}"


def _marker(mark: str) -> str:
    return literal(mark) if mark else ""
