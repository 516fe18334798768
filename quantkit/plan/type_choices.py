"""A user's choices of types for single tensors: llama-quantize's options, with the same meaning.

The choices become llama.cpp's own parameters. So llama.cpp decides which tensors a regular expression matches, which
option has priority, and when a fallback replaces a type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.errors import QuantizationError
from quantkit.ggml.types import ENCODABLE, GGMLType
from quantkit.gguf.header import EMBEDDING
from quantkit.system.did_you_mean import choose_hint

# llama.cpp treats them alike (tensor_name_match_token_embd).
EMBEDDINGS = (EMBEDDING, "per_layer_token_embd.weight")


@dataclass(frozen=True)
class TypeChoices:
    """Choices of types in addition to the file type.

    Attributes:
        pure: use one type for all tensors, no mixture.
        leave_output: the output head keeps its type.
        output: type of the output head.
        embedding: type of the token embedding.
        tensors: pairs of regular expression and type: the type of tensors whose name matches; the first match is used.
    """

    pure: bool = False
    leave_output: bool = False
    output: GGMLType | None = None
    embedding: GGMLType | None = None
    tensors: tuple[tuple[str, GGMLType], ...] = ()

    def parameters(self) -> dict[str, Any]:
        """The choices as parameters for ``dry_run.py``."""
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
    """Parse the choices as a user types them.

    Args:
        pure, leave_output_tensor: as in :class:`TypeChoices`.
        output_tensor_type, token_embedding_type: names of ggml types.
        tensor_types: ``REGEX=TYPE``.

    Raises:
        QuantizationError: a type does not exist or cannot be written, or a text is not ``REGEX=TYPE``.
    """
    tensors = []
    for text in tensor_types:
        pattern, _, name = text.rpartition("=")
        if not pattern or not name:
            raise QuantizationError(
                f"--tensor-type {text!r} is not REGEX=TYPE", hint="write it as --tensor-type 'attn_v=q8_0'"
            )
        if "\0" in pattern:
            raise QuantizationError(f"--tensor-type {text!r} contains a NUL character", hint="remove the NUL character")
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
        f"{option}: tensors cannot be written in the type {name!r}",
        hint=choose_hint(name, (kind.label for kind in ENCODABLE)),
    )
