"""The options of commands: those of a recipe's fields and of a run, and values that several commands take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantkit.arch.families import FAMILIES
from quantkit.cli.completers import COMPLETERS, complete_path
from quantkit.cli.output import has_printed, print_json, reporter
from quantkit.errors import QuantkitError
from quantkit.jobs.argument_kinds import (
    ADAPTERS,
    COUNT,
    DATA,
    FLAG,
    LIMIT,
    MATRIX,
    MESSAGES,
    NUMBER,
    PARAMETERS,
    PATH,
    SIZE,
    TEMPLATE,
    TEXT,
    TEXTS,
)
from quantkit.jobs.fields import Field
from quantkit.jobs.kind import Kind
from quantkit.jobs.recipe_fields import RECIPE_FIELDS, TypeKeywords
from quantkit.jobs.run_options import RUN_FIELDS, RunOptions
from quantkit.system.units import parse_size

if TYPE_CHECKING:
    from quantkit.hub.adapter_source import AdapterLike, AdapterSource
    from quantkit.hub.source import Source

F = TypeVar("F", bound=Callable[..., Any])


class _Path(click.Path):
    """A path; the empty one, which a shell's unset variable leaves, would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class _PathOrId(click.ParamType[Any]):
    """A path, or the id of something on a hub; not the empty text."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return value


# click's own existence check would exit with 2 and no hint; ours are QuantkitErrors
FOLDER = _Path(path_type=Path)
THINKING = "Let the model think before it answers, or not (default: the choice of its chat template)."
# The last words of --help.
ARCHITECTURES_LINE = f"Supported architectures: {', '.join(FAMILIES)}."


def folder_or_id(text: str) -> Source:
    """The type of what may be a folder here, or the id of a model or an adapter on a hub."""
    from quantkit.hub.source import parse_source

    return parse_source(text)


def _adapter(value: str | tuple[str, str]) -> AdapterSource:
    """A folder or id, or such with a weight."""
    from quantkit.hub.adapter_source import AdapterSource
    from quantkit.hub.source import parse_source

    text, weight = (value, "1") if isinstance(value, str) else value
    try:
        factor = float(weight)
    except ValueError:
        raise click.BadParameter(
            f"weight {weight[:40]!r} of {text} is not a number", param_hint="'--adapter-scaled'"
        ) from None
    return AdapterSource(parse_source(text), factor)


class _ScaledAdapter(click.Option):
    """``--adapter-scaled``: its values are put among those of ``--adapter``, whose order is the order of merging."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        parser.add_option(obj=self, opts=self.opts, dest="adapters", action="append", nargs=2)

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> tuple[Any, list[str]]:
        return None, args


def recipe_option(name: str, **changes: Any) -> Callable[[F], F]:
    """The option of a recipe's field.

    Args:
        name: of the field.
        **changes: what is different in this command, as :func:`click.option` takes it.
    """
    return _option(RECIPE_FIELDS[name], changes)


def _option(field: Field, changes: Mapping[str, Any]) -> Callable[[F], F]:
    kind: dict[str, Any] = dict(_CLICK[field.kind])
    if field.choices:
        kind = {"type": click.Choice(field.choices)}
    elif field.metavar:
        kind["metavar"] = field.metavar
    if not kind.get("multiple") and field.default is not None:  # to click, None is a value like others
        kind["default"] = field.default
    if field.name in COMPLETERS:
        kind["shell_complete"] = COMPLETERS[field.name]
    return click.option(*field.flags, field.name, **{**kind, "help": field.help, **changes})


def run_options(*names: str) -> Callable[[F], F]:
    """Options of a run. The command takes them as one argument, ``run``, whose reporter follows ``--json``.

    Args:
        *names: fields of :class:`~quantkit.jobs.run_options.RunOptions`.
    """

    def add(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            options = {name: given.pop(name) for name in names}
            return function(*args, run=RunOptions(**options, reporter=reporter(given["as_json"])), **given)

        for name in reversed(names):
            call = _option(RUN_FIELDS[name], {})(call)
        return call  # type: ignore[return-value]

    return add


def adapter_options(*, required: bool = False) -> Callable[[F], F]:
    """``--adapter`` and ``--adapter-scaled``, in the order in which they are given."""

    def add(function: F) -> F:
        function = click.option(
            "--adapter-scaled", "_scaled", cls=_ScaledAdapter, expose_value=False, type=(str, float), multiple=True,
            shell_complete=complete_path,
            metavar="PATH WEIGHT",
            help="Merge an adapter with a weight, for example DIR 0.5 for half of what it learned. Repeatable.",
        )(function)  # fmt: skip
        return recipe_option("adapters", type=_adapter, multiple=True, required=required)(function)

    return add


def require_model(model: Source | None, adapters: Sequence[AdapterLike], otherwise: str = "") -> Source:
    """MODEL, which is left out by those who take an adapter for one.

    Raises:
        AdapterError: it is left out, with the command for the base that a local adapter names.
        click.UsageError: it is left out.
    """
    if model is not None:
        return model
    from quantkit.errors import AdapterError
    from quantkit.files.json_file import read_json
    from quantkit.hub.adapter_source import adapter_sources
    from quantkit.hub.base_name import build_hint

    ctx = click.get_current_context()
    for adapter in adapter_sources(adapters):
        if isinstance(adapter.source, Path) and (config := adapter.source / "adapter_config.json").is_file():
            raise AdapterError(
                f"{adapter.source}: MODEL is missing, the full-precision base that this adapter is merged into",
                hint=build_hint(adapter.source, read_json(config), str(ctx.info_name)),
            )
    raise click.UsageError(f"Missing argument 'MODEL'{otherwise}.", ctx=ctx)


def json_option(function: F) -> F:
    """``--json``. An error is printed as JSON too, unless a result was, whose command failed afterwards."""

    @wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        try:
            return function(*args, **given)
        except QuantkitError as error:
            if given["as_json"] and not has_printed():
                shown = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
                print_json({"schema": 1, "error": shown})
            raise

    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(call)  # type: ignore[return-value]


def pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """``KEY=VALUE`` options as pairs."""
    found = []
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", ctx=ctx, param=parameter)
        found.append((key, rest))
    return tuple(found)


def size_value(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """``2G``, ``500MiB`` or a number of bytes."""
    if value is None:
        return None
    nbytes = parse_size(value)
    if not nbytes:
        raise click.BadParameter(f"{value[:40]!r} is not a size such as 2GB", ctx=ctx, param=parameter)
    return nbytes


def size_or_zero(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """The same, or 0 for no memory or no limit."""
    return 0 if value is not None and parse_size(value) == 0 else size_value(ctx, parameter, value)


# By the kind of a field's values, what click makes of an option.
_CLICK: Mapping[Kind, Mapping[str, Any]] = {
    FLAG: {"is_flag": True},
    COUNT: {"type": click.IntRange(min=1)},
    NUMBER: {"type": click.FloatRange(min=0, min_open=True)},
    SIZE: {"callback": size_value},
    LIMIT: {"callback": size_or_zero},
    PATH: {"type": FOLDER},
    DATA: {"type": FOLDER},
    MATRIX: {"type": _PathOrId()},
    TEXT: {},
    TEMPLATE: {},
    TEXTS: {"multiple": True},
    ADAPTERS: {"multiple": True},
    PARAMETERS: {"multiple": True, "callback": pairs},
    MESSAGES: {"multiple": True, "callback": pairs},
}


def type_options(function: F) -> F:
    """``--imatrix``, and the choices of types for single tensors."""
    names = ("imatrix", *TypeKeywords.__annotations__)
    for name in reversed(names):
        function = recipe_option(name)(function)
    return function


def package_options(function: F) -> F:
    """``--template``, ``--system``, ``--param`` and ``--message``."""
    for name in ("messages", "parameters", "system", "template"):
        function = recipe_option(name)(function)
    return function
