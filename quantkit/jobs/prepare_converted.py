"""Everything about a build that is decided before a weight is read, where llama.cpp's converter reads the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from quantkit.engine.device import choose_workers
from quantkit.engine.gguf_source import gguf_tensors, open_source
from quantkit.errors import QuantkitError
from quantkit.files.workspace import Workspace
from quantkit.gguf.kv import string
from quantkit.hub.fetch import fetch
from quantkit.jobs.prepare import BuildInput, PlannedBuild, plan_build
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.run_options import RunOptions
from quantkit.jobs.via_llama_cpp import Converted, check_checkout, run_converter
from quantkit.ollama.messages import check_messages
from quantkit.ollama.parameters import check_parameters
from quantkit.package.manifest_sources import InputsEntry
from quantkit.package.plan_entries import weight_files
from quantkit.vocab.files import read_tokenizer_config
from quantkit.vocab.from_gguf import gguf_vocabulary
from quantkit.vocab.phi3_name import known_name
from quantkit.vocab.templates import read_templates
from quantkit.vocab.vocabulary import Vocabulary


@contextmanager
def prepare_converted(recipe: Recipe, work: Workspace, run: RunOptions) -> Iterator[PlannedBuild]:
    """Merge, run the converter, and plan a build that continues from its GGUF file.

    Args:
        recipe: the request, with ``via_llama_cpp``.
        work: for the temporary files.
        run: how it runs.

    Raises:
        QuantkitError: as :func:`quantkit.jobs.prepare.prepare`; or what the converter refuses.
    """
    assert recipe.via_llama_cpp is not None
    if recipe.adapter_gguf:
        raise QuantkitError(
            "--adapter-gguf cannot go with --via-llama-cpp: where a tensor of the adapter goes is not known here",
            hint="write it with the checkout's own convert_lora_to_gguf.py",
        )
    if recipe.mmproj:
        raise QuantkitError(
            "--mmproj cannot go with --via-llama-cpp: quantkit writes the part that sees only of models that it reads",
            hint="write it with the checkout's own convert_hf_to_gguf.py --mmproj",
        )
    check_checkout(recipe.via_llama_cpp)
    check_parameters(recipe.parameters)
    check_messages(recipe.messages)
    folder, adapters = fetch(recipe.model, recipe.adapters, run.reporter)
    converted = run_converter(
        *(recipe.via_llama_cpp, folder, adapters, recipe.name, recipe.outtype, work, run),
        again=recipe.merge_again,
        ignore=recipe.ignore,
    )
    model, folders = converted.model, tuple(adapter.folder for adapter in adapters)
    bare = [entry for entry in model.header.metadata.values() if not entry.key.startswith("tokenizer.")]
    architecture = str(model.value("general.architecture"))
    name = known_name(recipe.name, architecture, converted.tokenizer)
    named = [string(e.key, name) if e.key == "general.name" else e for e in bare]
    with open_source(model) as source:
        subject = BuildInput(
            architecture=architecture,
            tensors=gguf_tensors(model),
            metadata=named,
            vocabulary=lambda: _vocabulary(converted),
            notes=("converted by llama.cpp's converter", *converted.notes),
            source=source,
            folder=folder,
            adapters=folders,
            inputs=InputsEntry(weight_files(folder), tuple(map(weight_files, folders))),
            tokenizer=converted.tokenizer,
            templates=converted.templates,
            libraries=converted.libraries,
            effects=lambda: converted.effects,
        )
        workers = choose_workers(run.device, run.threads)
        plan, spec = plan_build(recipe, subject)
        yield PlannedBuild(recipe, subject, plan, spec, workers, run)


def _vocabulary(converted: Converted) -> Vocabulary:
    """The vocabulary that the converter wrote, with the chat template of the training: it may take a stale one."""
    vocabulary, folder = gguf_vocabulary(converted.model.header), converted.templates
    found = read_templates(folder, read_tokenizer_config(folder))
    return replace(vocabulary, chat_template=found.default or vocabulary.chat_template, notes=found.notes)
