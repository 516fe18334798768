"""The vision part as a file of its own, which llama.cpp loads beside the language model: ``--mmproj FILE``.

It is never quantized below its outtype: llama.cpp's converter writes it in the same types, and it is small beside the
language model. A language model quantized to four bits sees with an unquantized eye.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.ggml.types import UNQUANTIZED
from quantkit.model.opened import Model
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.plan.values import Output, PlannedTensor, file_name


@dataclass(frozen=True)
class ProjectorFile:
    """A planned mmproj file.

    Attributes:
        output: the file.
        tensors: in the order in which they are streamed.
        projector: llama.cpp's name of its family.
    """

    output: Output
    tensors: tuple[PlannedTensor, ...]
    projector: str


def plan_projector_file(model: Model, name: str, outtype: str) -> ProjectorFile | None:
    """The mmproj file ``NAME-mmproj-OUTTYPE.gguf``; None for a model that was opened without its vision part.

    Args:
        model: the checkpoint with its adapters.
        name: of the package.
        outtype: ``f16``, ``bf16`` or ``f32``.
    """
    if model.projector is None:
        return None
    tensors = model.projector_tensors(UNQUANTIZED[outtype])
    metadata = model.projector.metadata(name)
    (output,) = unquantized_outputs(file_name(f"{name}-mmproj", outtype), outtype, metadata, tensors)
    kind = next(str(entry.value) for entry in metadata if entry.key.endswith("projector_type"))
    return ProjectorFile(output, tensors, kind)
