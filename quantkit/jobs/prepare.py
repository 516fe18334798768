"""Everything about a build that is decided before a weight is read: the plan, and the content of its text files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from quantkit.chat_template.advice import bake_named, opening_notes
from quantkit.chat_template.answers import answer_format
from quantkit.chat_template.end_of_turn import chat_format, stop_metadata, stop_notes
from quantkit.chat_template.format import ChatFormat, OwnTemplate
from quantkit.chat_template.process import shared_process
from quantkit.engine.cuda_warmup import warming_up
from quantkit.engine.device import Workers, choose_workers
from quantkit.engine.file_source import FileSource
from quantkit.errors import QuantkitError
from quantkit.ggml.types import UNQUANTIZED
from quantkit.gguf.kv import KV
from quantkit.hub.fetch import fetch
from quantkit.hub.source import HubId, source_label
from quantkit.jobs.modelfile_beside import modelfile_notes
from quantkit.jobs.recipe import Recipe, with_local_matrix
from quantkit.jobs.run_options import RunOptions
from quantkit.jobs.run_stream import merger
from quantkit.jobs.training_evidence import evidence_notes
from quantkit.model.adapter_checks import check_adapters
from quantkit.model.adapter_effect import AdapterEffect
from quantkit.model.lora_file import AdapterFile, plan_adapter_files
from quantkit.model.opening import open_model
from quantkit.model.projector_file import ProjectorFile, plan_projector_file
from quantkit.model.sampling import sampling_parameters
from quantkit.ollama.parameters import check_parameters, merge_parameters
from quantkit.package.license import license_texts
from quantkit.package.manifest_sources import InputsEntry
from quantkit.package.ollama_modelfile import package_notes
from quantkit.package.plan_entries import input_files
from quantkit.package.render import render_package
from quantkit.package.spec import PackagedAdapter, PackagedModel, PackageSpec
from quantkit.plan.choice import Choice
from quantkit.plan.chosen import chosen_outputs
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs, unquantized_outputs
from quantkit.plan.imatrix import expected_importance, read_imatrix
from quantkit.plan.mixture import DRY_RUN, Importance, Mixture
from quantkit.plan.quantize_notes import quantization_notes
from quantkit.plan.values import Output, Plan, PlannedTensor, by_model, file_name
from quantkit.system.beside import beside
from quantkit.system.child_process import begun
from quantkit.vocab.added_eos import for_chat
from quantkit.vocab.special import adds_bos
from quantkit.vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class BuildInput:
    """The input of a build, whichever way it is read.

    Attributes:
        architecture: GGUF name.
        tensors: the planned tensors.
        metadata: metadata without the vocabulary and the chat template.
        vocabulary: reads the tokenizer, which takes a while.
        notes: notes for the plan.
        source: provides the rows.
        folder: the model's folder.
        adapters: the adapters' folders.
        inputs: the weight files that are read, for the manifest.
        tokenizer: folder of the chosen tokenizer.
        templates: folder of its chat templates.
        projector: the part that sees, if requested.
        special: settings that replace those of its tokenizer_config.json.
        libraries: see :attr:`quantkit.model.opened.MergedCheckpoint.libraries`.
        adapter_files: separate adapter files, if requested.
        effects: after the stream, what each adapter changed.
    """

    architecture: str
    tensors: tuple[PlannedTensor, ...]
    metadata: Sequence[KV]
    vocabulary: Callable[[], Vocabulary]
    notes: tuple[str, ...]
    source: FileSource
    folder: Path
    adapters: tuple[Path, ...]
    inputs: InputsEntry
    tokenizer: Path
    templates: Path
    libraries: tuple[str, ...]
    adapter_files: tuple[AdapterFile, ...] = ()
    projector: ProjectorFile | None = None
    special: Mapping[str, str] = field(default_factory=dict)
    effects: Callable[[], tuple[AdapterEffect, ...]] = tuple


@dataclass(frozen=True)
class PlannedBuild:
    """A build that is ready to stream.

    Attributes:
        recipe: the request.
        subject: the input.
        plan: what will be written.
        spec: the content of the text files.
        workers: the backends that compute it.
        run: how it runs.
    """

    recipe: Recipe
    subject: BuildInput
    plan: Plan
    spec: PackageSpec
    workers: Workers
    run: RunOptions


@contextmanager
def prepare(recipe: Recipe, run: RunOptions | None = None, choice: Choice | None = None) -> Iterator[PlannedBuild]:
    """Open everything and plan; no weight of the base is read. Models and adapters on a hub are downloaded.

    Args:
        recipe: what to build.
        run: how to run.
        choice: the types of the file of the size that the recipe asks for.

    Raises:
        QuantkitError: naming what is wrong with model, adapters, tokenizer, template, parameters or types.
    """
    check_parameters(recipe.parameters)
    if recipe.via_llama_cpp is not None:
        raise QuantkitError(
            "--dry-run and --via-llama-cpp cannot be combined: the plan needs the output of llama.cpp's converter",
            hint="leave out one of the two",
        )
    run = run or RunOptions()
    # The processes that a plan asks do their imports while this one reads headers and the vocabulary.
    shared_process().start()
    asked = begun(DRY_RUN) if _quantized(recipe) else nullcontext()
    with asked, beside(lambda: _open_workers(run)) as workers:
        if any(isinstance(source, HubId) for source in (recipe.model, *(one.source for one in recipe.adapters))):
            workers.result()  # nothing is downloaded for a device that is not there
        folder, adapters = fetch(recipe.model, recipe.adapters, run.reporter)
        with open_model(
            folder, adapters, recipe.ignore, rope=recipe.rope, mtp=recipe.mtp, mmproj=recipe.mmproj
        ) as model:
            check_adapters(model, again=recipe.merge_again)
            source = merger(model)
            subject = BuildInput(
                architecture=model.architecture.name,
                tensors=model.tensors(UNQUANTIZED[recipe.outtype]),
                metadata=model.bare_metadata(recipe.name),
                vocabulary=model.vocabulary,
                notes=model.notes,
                source=source,
                folder=folder,
                adapters=tuple(adapter.folder for adapter in adapters),
                inputs=InputsEntry(
                    model=input_files(model.checkpoint.tensors.values()),
                    adapters=tuple(input_files(adapter.file.specs.values()) for adapter in model.adapters),
                ),
                tokenizer=model.tokenizer.folder,
                templates=model.tokenizer.templates,
                libraries=model.libraries,
                adapter_files=plan_adapter_files(model, recipe.name) if recipe.adapter_gguf else (),
                projector=plan_projector_file(model, recipe.name, recipe.outtype),
                special=model.tokenizer.special,
                effects=source.effects,
            )
            plan, spec = plan_build(with_local_matrix(recipe, run.reporter), subject, choice)
            yield PlannedBuild(recipe, subject, plan, spec, workers.result(), run)


def _open_workers(run: RunOptions) -> Workers:
    """The workers, with their devices open."""
    workers = choose_workers(run.device, run.threads)
    with warming_up(workers):
        return workers


def plan_build(recipe: Recipe, subject: BuildInput, choice: Choice | None = None) -> tuple[Plan, PackageSpec]:
    """The plan, and the content of the text files.

    Args:
        recipe: what to build.
        subject: what it is built from.
        choice: the types of the file of the size that the recipe asks for.

    Raises:
        QuantkitError: as :func:`prepare`.
    """
    importance = build_importance(recipe, subject)
    with ThreadPoolExecutor(1) as pool:
        # Another process asks llama.cpp while this one reads the vocabulary.
        asked = pool.submit(
            choose_mixtures, _quantized(recipe), subject.metadata, subject.tensors, importance, recipe.choices
        )
        vocabulary = for_chat(subject.vocabulary())
        own = recipe.template == "auto" and subject.templates != subject.folder
        model = subject.templates if own else recipe.model
        chat, jinja = chat_format(vocabulary, option=recipe.template, model=model, thinking=recipe.thinking)
        stop, notes = stop_metadata(chat, vocabulary)
        bos, eos = vocabulary.bos_token, vocabulary.eos_token
        notes += opening_notes(jinja, chat, bos_token=bos, eos_token=eos)
        named = bake_named(vocabulary.named_templates, recipe.thinking, bos_token=bos, eos_token=eos)
        vocabulary = replace(vocabulary, named_templates=named)
        metadata = (*subject.metadata, *vocabulary.metadata, *vocabulary.template_metadata(jinja), *stop)
        notes += evidence_notes(recipe, subject.folder, subject.adapters, metadata, vocabulary)
        outputs = _outputs(recipe, metadata, subject.tensors, asked.result(), importance)
    chosen = () if choice is None else chosen_outputs(recipe.name, choice, metadata, subject.tensors, importance)
    quantized = [*chosen, *(output for output in outputs if output.label in _quantized(recipe))]
    outputs = (*chosen, *outputs)
    if recipe.calibrate is not None:
        notes.append(
            f"the importance matrix is computed first, from an {recipe.outtype} file that is removed again; the plan "
            "takes it to have all tensors of the layers"
        )
    notes += [
        f"{label}: the weights are first rounded to {recipe.outtype}, as for every type; --outtype {label} avoids this"
        for label in _quantized(recipe)
        if label in UNQUANTIZED
    ]
    notes = [
        *subject.notes,
        *vocabulary.notes,
        *notes,
        *quantization_notes(quantized, subject.tensors, recipe.choices),
        *(note for file in subject.adapter_files for note in file.notes),
    ]
    models = tuple(PackagedModel(parts[0].file, parts[0].label, len(parts)) for parts in by_model(outputs))
    adapter_outputs = tuple(file.output for file in subject.adapter_files)
    mmproj = subject.projector.output if subject.projector else None
    plan = Plan(subject.architecture, metadata, subject.tensors, outputs, tuple(notes), adapter_outputs, mmproj, choice)
    answers = answer_format(jinja, bos_token=bos, eos_token=eos)
    spec = replace(_spec(recipe, plan, models, chat, subject), answers=answers)
    lying = modelfile_notes((subject.folder, *subject.adapters), spec)
    plan = replace(plan, notes=(*plan.notes, *stop_notes(spec.parameters, metadata), *lying, *package_notes(spec)))
    render_package(spec)  # find packaging errors before the work
    return plan, spec


def build_importance(recipe: Recipe, subject: BuildInput) -> Importance:
    """The importances; of a matrix that is still to be computed, for the tensors that it will have."""
    if recipe.calibrate is not None:
        return expected_importance(subject.tensors)
    return read_imatrix(recipe.imatrix) if isinstance(recipe.imatrix, Path) else {}


def _quantized(recipe: Recipe) -> tuple[str, ...]:
    """The types other than the outtype."""
    return tuple(label for label in recipe.quants if label != recipe.outtype)


def _outputs(
    recipe: Recipe,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixtures: Mapping[str, Mixture],
    importance: Importance,
) -> tuple[Output, ...]:
    """The files of each type in the requested order; an unquantized file that is only kept comes last."""
    labels = recipe.quants
    if recipe.keep_f16 and recipe.outtype not in labels:
        labels = (*labels, recipe.outtype)
    files = {label: file_name(recipe.name, label) for label in labels}
    quantized = {label: files[label] for label in _quantized(recipe)}
    limit = recipe.split_max_size
    made = quantized_outputs(quantized, metadata, tensors, mixtures, importance, limit)
    if recipe.outtype in files:
        made += unquantized_outputs(files[recipe.outtype], recipe.outtype, metadata, tensors, limit)
    return tuple(sorted(made, key=lambda output: labels.index(output.label)))


def _spec(
    recipe: Recipe, plan: Plan, models: tuple[PackagedModel, ...], chat: ChatFormat | OwnTemplate, subject: BuildInput
) -> PackageSpec:
    values = {entry.key: entry.value for entry in plan.metadata}
    context = f"{plan.architecture}.context_length"
    return PackageSpec(
        name=recipe.name,
        models=models,
        chat=chat,
        system=recipe.system,
        parameters=merge_parameters(sampling_parameters(plan.metadata), recipe.parameters),
        context_length=int(values[context]),
        base=source_label(recipe.model),
        adapters=tuple(adapter.label for adapter in recipe.adapters),
        licenses=license_texts(subject.folder),
        architecture=plan.architecture,
        parameter_count=plan.parameters,
        adapter_files=tuple(PackagedAdapter(file.output.file, file.label) for file in subject.adapter_files),
        mmproj=plan.mmproj.file if plan.mmproj else None,
        messages=recipe.messages,
        adds_bos=adds_bos(values),
    )
