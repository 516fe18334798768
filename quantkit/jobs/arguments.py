"""The arguments of the job functions: their types as a person writes them, and one reader for each."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.gguf.lora import ScaledLora
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.source import HubId, Source
from quantkit.jobs.argument_kinds import ADAPTERS, PATH, PATHS, SIZE, SOURCE
from quantkit.jobs.kind import Kind
from quantkit.system.did_you_mean import choose_hint

PathInput = str | os.PathLike[str]
SourceInput = PathInput | HubId
AdapterInput = SourceInput | AdapterSource | tuple[SourceInput, float] | Mapping[str, str | float]
AdaptersInput = AdapterInput | Sequence[AdapterInput]
LoraInput = PathInput | ScaledLora | tuple[PathInput, float]
LorasInput = LoraInput | Sequence[LoraInput]
TextsInput = str | Sequence[str]
ParameterInput = str | int | float | bool
ParametersInput = Mapping[str, ParameterInput | Sequence[ParameterInput]] | Sequence[tuple[str, ParameterInput]]
MessagesInput = Mapping[str, str] | Sequence[tuple[str, str] | Mapping[str, str]]
SizeInput = int | str


def read_source(name: str, value: SourceInput) -> Source:
    """A folder or a hub id.

    Raises:
        QuantkitError: it is something else.
    """
    source: Source = SOURCE.read(name, value)
    return source


def read_path(name: str, value: PathInput) -> Path:
    """A path.

    Raises:
        QuantkitError: it is something else.
    """
    path: Path = PATH.read(name, value)
    return path


def read_paths(name: str, value: PathInput | Sequence[PathInput]) -> tuple[Path, ...]:
    """One path or several.

    Raises:
        QuantkitError: it is something else.
    """
    paths: tuple[Path, ...] = PATHS.read(name, value)
    return paths


def read_adapters(name: str, value: AdaptersInput) -> tuple[AdapterSource, ...]:
    """Adapters in the order in which they are merged.

    Raises:
        QuantkitError: it is something else.
    """
    adapters: tuple[AdapterSource, ...] = ADAPTERS.read(name, value)
    return adapters


def read_adapter(name: str, value: AdapterInput) -> AdapterSource:
    """One adapter.

    Raises:
        QuantkitError: it is something else.
    """
    (adapter,) = read_adapters(name, [value])
    return adapter


def read_size(name: str, value: SizeInput | None, kind: Kind = SIZE) -> int | None:
    """A number of bytes, or None.

    Args:
        name: the argument's.
        value: as written.
        kind: which sizes it may be, where that is not any above zero.

    Raises:
        QuantkitError: it is something else.
    """
    nbytes: int | None = None if value is None else kind.read(name, value)
    return nbytes


def read_choice(name: str, value: str, choices: Collection[str]) -> str:
    """One of a few words.

    Raises:
        QuantkitError: it is something else.
    """
    if not isinstance(value, str) or value not in choices:
        raise QuantkitError(
            f"{name} {value!r} is unknown",
            hint=choose_hint(str(value), choices),
        )
    return value
