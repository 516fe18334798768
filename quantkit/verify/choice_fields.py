"""Holds what a manifest says of chosen types to the file that has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from quantkit.gguf.model import GGUFModel
from quantkit.plan.choice import Choice


def differences(choice: Choice, model: GGUFModel) -> Iterator[tuple[str, Any, Any]]:
    """Fields of a choice with what they say and what the file says, where the two are not the same."""
    found = {name: info.type.label for name, info in model.header.tensors.items()}
    if choice.nbytes != model.nbytes:
        yield "choice.bytes", choice.nbytes, model.nbytes
    for tensor in choice.tensors:
        if tensor.type != (actual := found.get(tensor.name)):
            yield "choice.tensors", f"{tensor.name} in {tensor.type}", actual or "no such tensor"
            return
    for tensor in choice.tensors:
        if (given := _given(choice, tensor.name)) != found[tensor.name]:
            yield "choice.tensor_types", f"{tensor.name} in {given or 'no type'}", found[tensor.name]
            return


def _given(choice: Choice, name: str) -> str | None:
    """The type that the options give a tensor: the first expression that matches counts."""
    for option in choice.tensor_types:
        pattern, _, kind = option.rpartition("=")
        try:
            if re.search(pattern, name):
                return kind
        except re.error:
            return None
    return None
