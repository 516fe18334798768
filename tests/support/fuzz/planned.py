"""A plan of a folder, as far as it is made in this process: every header and setting is read, no weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.ggml.types import GGMLType
from quantkit.hub.adapter_source import AdapterLike
from quantkit.jobs.inspect import inspect
from quantkit.model.adapter_checks import check_adapters
from quantkit.model.opening import open_model
from quantkit.model.projector_file import plan_projector_file
from quantkit.model.sampling import sampling_parameters
from quantkit.package.license import license_texts
from quantkit.plan.gguf_outputs import unquantized_outputs
from quantkit.vocab.added_eos import for_chat


def plan(folder: Path, adapters: Sequence[AdapterLike] = (), *, mmproj: bool = False) -> None:
    """Plan the F16 file of a model with its adapters, and its mmproj file."""
    with open_model(folder, adapters, mmproj=mmproj) as model:
        check_adapters(model, again=False)
        vocabulary = for_chat(model.vocabulary())
        metadata = model.metadata("name", vocabulary, vocabulary.chat_template)
        unquantized_outputs("m.gguf", "f16", metadata, model.tensors(GGMLType.F16))
        plan_projector_file(model, "name", "f16")
        sampling_parameters(metadata)
        license_texts(folder)


def plan_and_inspect(folder: Path, *, mmproj: bool = False) -> None:
    """The same of a model, and what `quantkit inspect` says of its folder, which reads it in another way."""
    inspect(folder)
    plan(folder, mmproj=mmproj)
