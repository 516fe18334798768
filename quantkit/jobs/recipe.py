"""What to build, as a value: from the command line's flags, or from a TOML file with the same names."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.ggml.types import UNQUANTIZED, ftype_name
from quantkit.hub.adapter_source import AdapterSource, adapter_sources
from quantkit.hub.source import Source, parse_source, source_label, source_name
from quantkit.plan.type_choices import TypeChoices, parse_choices
from quantkit.system.units import parse_size

_NOT_IN_NAMES = r"/\\:*?\"<>|\x00-\x1f\ud800-\udfff"
_NAME = re.compile(rf"[^\s.{_NOT_IN_NAMES}-][^{_NOT_IN_NAMES}]*")


@dataclass(frozen=True)
class Recipe:
    """A request for a package.

    Attributes:
        model: folder of the checkpoint, or a hub's id of it.
        adapters: PEFT folders or ids, merged in this order; given alone or with a weight, kept with one.
        quants: quantization types, the first of them the package's default.
        out: folder to make; default ``./NAME``.
        name: of the model in file names and in Ollama; default the names of model and adapters.
        keep_f16: also keep the unquantized file.
        outtype: its type, and the type weights are rounded to before they are quantized.
        template: name of a chat format, or ``auto`` for the model's own.
        system: default system prompt.
        parameters: for the Modelfile and the chat scripts.
        imatrix: importance matrix file.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: workers; None for one a core. Does not change the result.
        pure: one type for all tensors, no mixture.
        leave_output_tensor: the output layer keeps the type it is rounded to first.
        output_tensor_type: ggml type of the output layer.
        token_embedding_type: ggml type of the token embedding.
        tensor_types: ``REGEX=TYPE``, the ggml type of tensors by name; the first match wins.
        split_max_size: bytes of weights in a GGUF file at most, None for one file a type.
        adapter_gguf: also write each adapter by itself, as a LoRA file for llama.cpp.
        via_llama_cpp: a checkout of llama.cpp whose converter is run instead of ours.
        messages: an example conversation for the Modelfile, as (role, text).
    """

    model: Source
    adapters: tuple[AdapterSource, ...] = ()
    quants: tuple[str, ...] = ("q4_0",)
    out: Path | None = None
    name: str = ""
    keep_f16: bool = False
    outtype: str = "f16"
    template: str = "auto"
    system: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    imatrix: Path | None = None
    device: str = "auto"
    threads: int | None = None
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[str, ...] = ()
    split_max_size: int | None = None
    adapter_gguf: bool = False
    via_llama_cpp: Path | None = None
    messages: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapters", adapter_sources(self.adapters))
        if self.outtype not in UNQUANTIZED:
            raise QuantkitError(f"outtype {self.outtype!r} is unknown", hint=f"use one of: {', '.join(UNQUANTIZED)}")
        object.__setattr__(self, "quants", tuple(dict.fromkeys(ftype_name(quant) for quant in self.quants)))
        if not self.quants and not self.keep_f16:
            raise QuantkitError("nothing to build: no quantization type", hint="pass --quant q4_0")
        if self.adapter_gguf and not self.adapters:
            raise QuantkitError("--adapter-gguf: there is no adapter", hint="pass --adapter DIR")
        self.choices  # noqa: B018  what they cannot mean is refused here
        if not self.name:
            parts = [self.model, *(adapter.source for adapter in self.adapters)]
            object.__setattr__(self, "name", "-".join(map(source_name, parts)))
        # surrogates stand for bytes of a folder's name that are not UTF-8
        if not _NAME.fullmatch(self.name) or len(self.name.encode(errors="replace")) > 200:
            raise QuantkitError(
                f"name {self.name[:80]!r} cannot be part of a file name",
                hint="pass --name with letters, digits, - and _, of at most 200 bytes",
            )

    @cached_property
    def choices(self) -> TypeChoices:
        """The choices of types for single tensors."""
        return parse_choices(
            pure=self.pure,
            leave_output_tensor=self.leave_output_tensor,
            output_tensor_type=self.output_tensor_type,
            token_embedding_type=self.token_embedding_type,
            tensor_types=self.tensor_types,
        )

    @property
    def folder(self) -> Path:
        """The folder to make."""
        return self.out or Path(self.name)

    def to_json(self) -> dict[str, Any]:
        """For the manifest: what determines the result (so neither threads nor where it is written)."""
        plain = asdict(self)
        for key in ("threads", "out"):
            del plain[key]
        plain["model"] = source_label(self.model)
        plain["adapters"] = [
            label if adapter.weight == 1 else {"path": label, "weight": adapter.weight}
            for adapter in self.adapters
            for label in (source_label(adapter.source),)
        ]
        plain["imatrix"] = self.imatrix.name if self.imatrix else None
        plain["parameters"] = [list(pair) for pair in self.parameters]
        plain["messages"] = [list(pair) for pair in self.messages]
        plain["quants"] = list(self.quants)
        plain["tensor_types"] = list(self.tensor_types)
        plain["via_llama_cpp"] = self.via_llama_cpp.name if self.via_llama_cpp else None
        plain["template"] = Path(self.template).name
        return plain


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings of a recipe file: keys as the fields of :class:`Recipe`, paths relative to the file.

    Raises:
        QuantkitError: not TOML, an unknown key, or a value of the wrong type.
    """
    try:
        with path.open("rb") as file:
            settings = tomllib.load(file)
    except OSError as error:
        raise QuantkitError(
            f"{path}: cannot be read ({error.strerror or error})", hint="give the path of a recipe in TOML"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QuantkitError(
            f"{path}: not valid TOML ({error})", hint="write it as KEY = VALUE lines in UTF-8"
        ) from None
    known = {field.name for field in fields(Recipe)}
    for key in settings:
        if key not in known:
            raise QuantkitError(f"{path}: unknown key {key!r}", hint=f"known are: {', '.join(sorted(known))}")
    return {key: _value(path, key, value) for key, value in settings.items()}


def _value(path: Path, key: str, value: Any) -> Any:
    def wrong(expected: str, item: Any = value) -> QuantkitError:
        return QuantkitError(f"{path}: {key} is {item!r}; expected {expected}", hint=f"correct {key} in the recipe")

    def text(item: Any) -> str:
        if not isinstance(item, str):
            raise wrong("text", item)
        return item

    def texts() -> list[str]:
        if not isinstance(value, list):
            raise wrong("a list")
        return [text(item) for item in value]

    def adapter(item: Any) -> AdapterSource:
        if isinstance(item, str):
            return AdapterSource(parse_source(item, path.parent))
        if not isinstance(item, Mapping) or item.keys() != {"path", "weight"}:
            raise wrong("a path, or a path and a weight", item)
        weight = item["weight"]
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise wrong("a number as weight", item)
        return AdapterSource(parse_source(text(item["path"]), path.parent), float(weight))

    def message(item: Any) -> tuple[str, str]:
        if not isinstance(item, Mapping) or len(item) != 1:
            raise wrong('tables with a role and its text, such as {user = "Hello"}', item)
        ((role, said),) = item.items()
        return role, text(said)

    match key:
        case "model":
            return parse_source(text(value), path.parent)
        case "out" | "imatrix" | "via_llama_cpp":
            if not text(value):
                raise wrong("a path")
            return path.parent / value
        case "adapters":
            if not isinstance(value, list):
                raise wrong("a list")
            return tuple(map(adapter, value))
        case "quants" | "tensor_types":
            return tuple(texts())
        case "template":
            file = path.parent / text(value)
            return str(file) if os.path.isfile(file) else value  # Path.is_file raises at a name that is too long
        case "parameters":
            if not isinstance(value, Mapping):
                raise wrong("a table")
            return tuple(
                (name, _parameter(one))
                for name, given in value.items()
                for one in (given if isinstance(given, list) else [given])
            )
        case "messages":
            if not isinstance(value, list):
                raise wrong("a list")
            return tuple(map(message, value))
        case "keep_f16" | "adapter_gguf" | "pure" | "leave_output_tensor":
            if not isinstance(value, bool):
                raise wrong("true or false")
            return value
        case "split_max_size":
            if (
                isinstance(value, bool)
                or not isinstance(value, int | str)
                or (nbytes := parse_size(str(value))) is None
            ):
                raise wrong("a size such as '2G'")
            return nbytes
        case "threads":
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise wrong("a positive whole number")
            return value
        case _:
            return text(value)


def _parameter(value: Any) -> str:
    """A parameter's value as the command line would have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
