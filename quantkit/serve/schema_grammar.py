"""A JSON schema as a GBNF grammar: every text of the grammar is valid, though not every valid text is in it.

What a grammar cannot hold an answer to is refused by name, because a client would take the answer for one that obeys.
Properties come in the order of the schema, without others beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.run.gbnf import text
from quantkit.run.grammar_check import LONGEST
from quantkit.serve.errors import RequestError
from quantkit.serve.schema_dialect import JSON, Dialect, SchemaError
from quantkit.serve.schema_keywords import (
    format_rule,
    length_range,
    listed,
    literals,
    only,
    properties,
    refused,
    size_range,
)

ANNOTATIONS = frozenset(
    {"$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description", "examples"}
    | {"readOnly", "title", "writeOnly"}
)
"""Keywords that restrict no value."""
_DEEPEST = 40
_MOST_RULES = 2000

# Type -> the keywords that are held.
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "format"},
    "number": {"minimum"},
    "integer": {"minimum"},
    "boolean": set[str](),
    "null": set[str](),
}

JSON_OBJECT = text({"answer": "object space", **JSON.rules})
"""Any object; the first rule is ``answer``, as in all grammars here."""


def schema_grammar(schema: object) -> str:
    """The grammar of a schema, for ``response_format``.

    Raises:
        RequestError: it is no schema, or has what a grammar cannot hold.
    """
    rules = dict(JSON.rules)
    try:
        rules["answer"] = SchemaRules(schema, rules).rule(schema, "the schema")
    except SchemaError as error:
        raise RequestError(f"response_format: {error}", param="response_format") from None
    return text(rules)


class SchemaRules:
    """Writes a schema as rules.

    Attributes:
        dialect: how values are written.
    """

    def __init__(self, root: object, rules: dict[str, str], dialect: Dialect = JSON) -> None:
        """Prepare.

        Args:
            root: the schema in which references are looked up.
            rules: those of the grammar so far, with the dialect's; more are added.
            dialect: how values are written.
        """
        self.dialect = dialect
        self._root = root
        self._rules = rules
        self._size = 0
        self._referred: dict[str, str] = {}
        self._begins: dict[str, set[str]] = {}  # reference -> those that its value may begin with
        self._within: str | None = None  # the reference with whose value that of the current schema begins

    def add(self, name: str, rule: str) -> str:
        self._size += len(rule)
        if len(self._rules) > _MOST_RULES or self._size > LONGEST:
            raise refused("the schema is too large")
        self._rules[name] = rule
        return name

    def rule(self, schema: object, where: str, depth: int = 0) -> str:
        """The right side of a rule for a schema; white space behind the value included.

        Raises:
            SchemaError: it is no schema, or has what a grammar cannot hold.
        """
        if depth > _DEEPEST:
            raise refused(f"{where} is nested too deeply")
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise refused(f"{where} is not a schema")
        asked = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
        for key, make in (("$ref", self._reference), ("anyOf", self._any), ("allOf", self._all)):
            if key in asked:
                only(asked, {key}, where)
                return make(asked[key], where, depth)
        if "const" in asked or "enum" in asked:
            only(asked, {"const", "enum", "type"}, where)
            values = literals([asked["const"]] if "const" in asked else asked["enum"], asked.get("type"), where)
            return f"({' | '.join(map(self.dialect.literal, values))}) space"
        if not asked:
            return "value"
        kinds = asked.get("type") or _kind(asked, where)
        kinds = kinds if isinstance(kinds, list) else [kinds]
        # Each once: they multiply with those inside of them.
        kinds = [kind for at, kind in enumerate(kinds[: len(_KEYWORDS) + 1]) if kind not in kinds[:at]]
        ways = [self._typed(kind, asked, where, depth) for kind in kinds]
        only(asked, {"type"}.union(*(_KEYWORDS[kind] for kind in kinds)), where)
        return f"({' | '.join(ways)}) space"

    def _reference(self, reference: object, where: str, depth: int) -> str:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise refused(f"{where}: $ref must be inside of the schema, not {reference!r:.80}")
        if self._within is not None:
            self._begins.setdefault(self._within, set()).add(reference)
            if self._within in self._first(reference):
                raise refused(f"{where}: {reference:.80} is only another reference")
        if reference not in self._referred:
            found = self._root
            for step in reference[1:].split("/")[1:]:
                name = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(found, Mapping) or name not in found:
                    raise refused(f"{where}: there is no {reference:.80}")
                found = found[name]
            name = self._referred[reference] = self._named("")  # its place is taken before those inside of it
            within, self._within = self._within, reference
            self.add(name, self.rule(found, reference, depth + 1))
            self._within = within
        return self._referred[reference]

    def _first(self, reference: str) -> set[str]:
        """The references with which a value of one may begin, itself included."""
        found, waiting = set[str](), [reference]
        while waiting:
            if (one := waiting.pop()) not in found:
                found.add(one)
                waiting += self._begins.get(one, ())
        return found

    def _any(self, schemas: object, where: str, depth: int) -> str:
        ways = listed(schemas, f"{where}.anyOf")
        return "(" + " | ".join(self.rule(way, f"{where}.anyOf[{at}]", depth + 1) for at, way in enumerate(ways)) + ")"

    def _all(self, schemas: object, where: str, depth: int) -> str:
        ways = listed(schemas, f"{where}.allOf")
        if len(ways) != 1:
            raise refused(f"{where}.allOf with several schemas is not supported")
        return self.rule(ways[0], f"{where}.allOf[0]", depth + 1)

    def _typed(self, kind: object, asked: Mapping[str, Any], where: str, depth: int) -> str:
        match kind:
            case "object" | "array":
                within, self._within = self._within, None  # the bracket comes first
                made = (self._object if kind == "object" else self._array)(asked, where, depth)
                self._within = within
                return made
            case "string":
                return string_rule(self.dialect, asked, where)
            case "number" | "integer":
                if (least := asked.get("minimum")) not in (None, 0):
                    raise refused(f"{where}: minimum {least!r:.40} is not supported, only 0")
                whole = kind == "integer"
                return str(kind) if least is None else "natural" if whole else "natural fraction"
            case "boolean" | "null":
                return str(kind)
        raise refused(f"{where}: there is no type {kind!r:.40}")

    def _object(self, asked: Mapping[str, Any], where: str, depth: int) -> str:
        known, required = properties(asked, where)
        more = asked.get("additionalProperties", True)
        if missing := [name for name in required if name not in known]:
            if more is False:
                raise refused(f"{where}: {missing[0]!r:.80} is required and not allowed")
            known = {**known, **dict.fromkeys(missing, more)}
        if not known:
            if more is False:
                return '"{" space "}"'
            pair = self._named(f'key space ":" space {self.rule(more, f"{where}.additionalProperties", depth + 1)}')
            return f'"{{" space ({pair} ("," space {pair})*)? "}}"'
        pairs = {
            name: self._named(
                f'{self.dialect.key(name)} space ":" space {self.rule(value, f"{where}.{name}", depth + 1)}'
            )
            for name, value in known.items()
        }
        return f'"{{" space {self.members(pairs, set(required))} "}}"'

    def members(self, pairs: dict[str, str], required: set[str]) -> str:
        """The pairs in their order, with commas between those that are there, as GBNF.

        Args:
            pairs: name to GBNF, in order.
            required: the names of those that must be there.
        """
        first, rest = "", ""  # what may follow nothing yet, and what may follow a pair; from the back
        for name in reversed(pairs):
            pair = pairs[name]
            following = self._named(f'"," space {pair} {rest}')
            begun = f"{pair} {rest}"
            if name in required:
                first, rest = begun, following
            else:
                first = self._named(f"{begun} | {first}" if first else f"({begun})?")
                rest = self._named(f"{following} | {rest}" if rest else f"{following}?")
        return first

    def _array(self, asked: Mapping[str, Any], where: str, depth: int) -> str:
        item = self._named(self.rule(asked.get("items", True), f"{where}.items", depth + 1))
        least, most = size_range(asked, "minItems", "maxItems", where)
        if most == 0:
            return '"[" space "]"'
        last = "" if most is None else most - 1
        some = f'{item} ("," space {item}){{{max(least - 1, 0)},{last}}}'
        return f'"[" space {some if least else f"({some})?"} "]"'

    def _named(self, rule: str) -> str:
        return self.add(f"r{len(self._rules)}", rule)


def string_rule(dialect: Dialect, asked: Mapping[str, Any], where: str) -> str:
    """A string with its quotes, given the keywords of its schema.

    Raises:
        SchemaError: one of them cannot be held.
    """
    if asked.get("format") is not None:
        only(asked, {"type", "format"}, where)
        return f"{dialect.quote} {format_rule(asked['format'], where)} {dialect.quote}"
    least, most = length_range(asked, where)
    if (least, most) == (0, None):
        return "string"
    return f"{dialect.quote} char{{{least},{'' if most is None else most}}} {dialect.quote}"


def _kind(asked: Mapping[str, Any], where: str) -> str:
    """The type of a schema that names none, by its keywords, which would hold for values of that type alone."""
    found = [kind for kind, keywords in _KEYWORDS.items() if keywords & asked.keys()]
    if not found:
        only(asked, {"type"}, where)
        raise refused(f"{where} has no type")
    return found[0]
