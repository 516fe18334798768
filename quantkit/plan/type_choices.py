"""What a user may say about the types of single tensors, with llama-quantize's options and their meaning.

The choices go to llama.cpp's own parameters, so that which tensor a regular expression matches, which option wins and
when a type gives way to a fallback are its answers and not ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.errors import QuantizationError
from quantkit.ggml.types import ENCODABLE, GGMLType
from quantkit.gguf.header import EMBEDDING

# llama.cpp treats them alike (tensor_name_match_token_embd).
EMBEDDINGS = (EMBEDDING, "per_layer_token_embd.weight")


@dataclass(frozen=True)
class TypeChoices:
    """Choices of types besides the file type.

    Attributes:
        pure: one type for all tensors, no mixture.
        leave_output: the output layer keeps its type.
        output: type of the output layer.
        embedding: type of the token embedding.
        tensors: (regular expression, type): the type of tensors whose name it is found in; the first match wins.
    """

    pure: bool = False
    leave_output: bool = False
    output: GGMLType | None = None
    embedding: GGMLType | None = None
    tensors: tuple[tuple[str, GGMLType], ...] = ()

    def parameters(self) -> dict[str, Any]:
        """As ``dry_run.py`` takes them."""
        return {
            "pure": self.pure,
            "leave_output": self.leave_output,
            "output": None if self.output is None else int(self.output),
            "embedding": None if self.embedding is None else int(self.embedding),
            "tensors": [[pattern, int(kind)] for pattern, kind in self.tensors],
        }


NO_CHOICES = TypeChoices()


def parse_choices(
    *,
    pure: bool = False,
    leave_output_tensor: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    tensor_types: Sequence[str] = (),
) -> TypeChoices:
    """The choices as a user types them.

    Args:
        pure, leave_output_tensor: as in :class:`TypeChoices`.
        output_tensor_type, token_embedding_type: names of ggml types.
        tensor_types: ``REGEX=TYPE``.

    Raises:
        QuantizationError: a type that does not exist or cannot be written, or a text that is not ``REGEX=TYPE``.
    """
    tensors = []
    for text in tensor_types:
        pattern, _, name = text.rpartition("=")
        if not pattern or not name:
            raise QuantizationError(
                f"--tensor-type {text!r} is not REGEX=TYPE", hint="write it as --tensor-type 'attn_v=q8_0'"
            )
        if "\0" in pattern:
            raise QuantizationError(f"--tensor-type {text!r} has a NUL character", hint="take it out")
        tensors.append((pattern, _type("--tensor-type", name)))
    return TypeChoices(
        pure=pure,
        leave_output=leave_output_tensor,
        output=_type("--output-tensor-type", output_tensor_type) if output_tensor_type is not None else None,
        embedding=_type("--token-embedding-type", token_embedding_type) if token_embedding_type is not None else None,
        tensors=tuple(tensors),
    )


def _type(option: str, name: str) -> GGMLType:
    for kind in ENCODABLE:
        if kind.label.lower() == name.lower():
            return kind
    raise QuantizationError(
        f"{option}: {name!r} is not a type that tensors can be written in",
        hint=f"use one of: {', '.join(kind.label for kind in ENCODABLE)}",
    )
