"""``build --size``, ``--bits``, ``--fit``: the types of the tensors, chosen for the size of the file."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quantkit.advise.cache import F16_CACHE
from quantkit.advise.context import ContextRun, ask_context
from quantkit.advise.memory import BATCH, memory
from quantkit.choose.altered import Alterable
from quantkit.choose.candidates import candidates
from quantkit.choose.divergence import CONTEXT, FEWEST, TRACK, divergence_from, sequence_count, sequences
from quantkit.choose.errors import SAMPLE_WEIGHTS, measure_errors
from quantkit.choose.expressions import options
from quantkit.choose.groups import groups
from quantkit.choose.llama_types import compared, llama_mixtures, nearest, quantizable
from quantkit.choose.search import Found, Measured, bounds, check_size, padded, search
from quantkit.choose.sensitivity import measure_sensitivities
from quantkit.engine.crew import opened_crew
from quantkit.engine.gguf_source import open_source
from quantkit.errors import QuantizationError, QuantkitError
from quantkit.files.workspace import Workspace
from quantkit.ggml.types import GGMLType
from quantkit.gguf.model import read_whole_model
from quantkit.jobs.prepare import PlannedBuild, build_importance, plan_build
from quantkit.jobs.recipe import Recipe, with_local_matrix
from quantkit.jobs.run_stream import check_space
from quantkit.jobs.unquantized import Unquantized, write_unquantized
from quantkit.material.ask import tokens_of
from quantkit.material.data_file import CALIBRATION
from quantkit.plan.choice import BITS, FIT, SIZE, Asked, Choice, ChosenTensor
from quantkit.plan.gguf_outputs import layout, quantized_outputs
from quantkit.plan.mixture import Importance, Mixture
from quantkit.plan.values import PlannedTensor, count_elements
from quantkit.system.progress import Reporter
from quantkit.system.units import size
from quantkit.vocab.special import adds_bos

# Tokens of the text that the sequences are taken from.
_TOKENS = 1 << 14
# Products a second of a processor, with both factors in half precision: for the estimate of the time.
_PRODUCTS_A_SECOND = 2.5e10
# Weights a second of a processor, all types together, and seconds to alter a file and to restore it.
_ERRORS_A_SECOND, _ALTERING = 6e5, 0.1


@dataclass(frozen=True)
class ChoicePlan:
    """What a choice takes, known before any weight is read.

    Attributes:
        asked: what was asked for.
        nbytes: the most bytes that the file may have.
        least: the smallest file that is possible, in bytes.
        most: the largest.
        evaluations: of the model, each on *tokens* tokens.
        tokens: see *evaluations*.
        disk: bytes of intermediate files at most.
        importance: whether there are importances.
        mixtures: llama.cpp's own.
        candidates: the types of each tensor that can be quantized.
        beside: bytes of the file besides these tensors.
        weights: of the model.
    """

    asked: Asked
    nbytes: int
    least: int
    most: int
    evaluations: int
    tokens: int
    disk: int
    importance: Importance
    mixtures: Mapping[str, Mixture]
    candidates: Mapping[PlannedTensor, tuple[GGMLType, ...]]
    beside: int
    weights: int

    def seconds(self, workers: int) -> float:
        """About how long the measurements take."""
        products = self.evaluations * self.tokens * self.weights
        errors = sum(min(count_elements(tensor.shape), SAMPLE_WEIGHTS) for tensor in self.candidates)
        busy = products / _PRODUCTS_A_SECOND + errors / _ERRORS_A_SECOND
        return busy / workers + self.evaluations * _ALTERING


def unquantized(recipe: Recipe) -> Recipe:
    """What to plan first: the unquantized file of a recipe that asks for a size."""
    return replace(recipe, quants=(), keep_f16=True, size=None, bits=None, fit=None, choice_data=None)


def plan_choice(recipe: Recipe, prepared: PlannedBuild) -> ChoicePlan:
    """What a choice takes.

    Args:
        recipe: what is asked for.
        prepared: its :func:`unquantized` file.

    Raises:
        QuantizationError: a file of this model cannot have the size.
    """
    assert recipe.asked is not None
    asked, plan = recipe.asked, prepared.plan
    importance = build_importance(with_local_matrix(recipe, prepared.run.reporter), prepared.subject)
    mixtures = llama_mixtures(plan.metadata, plan.tensors, importance)
    chosen = {tensor: candidates(tensor, importance) for tensor in quantizable(plan.tensors, mixtures)}
    if not chosen:
        raise QuantkitError("no tensor of this model can be quantized", hint="keep it unquantized with --keep-f16")
    label = next(iter(mixtures))
    (whole,) = quantized_outputs({label: "x"}, plan.metadata, plan.tensors, mixtures, importance)
    beside = whole.nbytes - sum(padded(tensor, whole.tensors[tensor.name].type) for tensor in chosen)
    least, most = bounds(chosen, beside)
    weights = plan.parameters
    nbytes = _file_size(asked, prepared)
    if asked.kind == FIT:
        nbytes = min(nbytes, most)  # with room to spare
    check_size(nbytes, least, most, weights)
    measured = groups([tensor.name for tensor in chosen])
    planned = {tensor.name: tensor for tensor in chosen}
    largest = max(sum(count_elements(planned[name].shape) for name in names) for names in measured)
    width = next(iter(chosen)).outtype.block_nbytes
    vocabulary = max(count_elements(tensor.shape) // tensor.columns for tensor in plan.tensors)
    tokens = sequence_count(weights) * CONTEXT
    return ChoicePlan(
        asked=asked,
        nbytes=nbytes,
        least=least,
        most=most,
        evaluations=len(measured) + 1,
        tokens=tokens,
        disk=plan.outputs[-1].nbytes + largest * width + tokens * vocabulary * 4,
        importance=importance,
        mixtures=mixtures,
        candidates=chosen,
        beside=beside,
        weights=weights,
    )


def _file_size(asked: Asked, prepared: PlannedBuild) -> int:
    """The most bytes that the file may have.

    Raises:
        QuantizationError: beside the weights alone a model needs more memory.
    """
    if asked.kind == SIZE:
        return int(asked.value)
    plan, context = prepared.plan, prepared.spec.num_ctx
    if asked.kind == BITS:
        return math.floor(asked.value * plan.parameters / 8)
    infos, _ = layout(plan.tensors, {tensor.name: tensor.outtype for tensor in plan.tensors})
    (found,) = ask_context(plan.metadata, infos, [ContextRun(context, F16_CACHE, BATCH)])
    if found is None:
        raise QuantizationError(
            f"llama.cpp cannot plan a context of {context} tokens", hint=f"pass --param num_ctx={max(1, context // 2)}"
        )
    values = {entry.key: entry.value for entry in plan.metadata}
    beside = memory(values, 0, context, compute=found.compute).total
    if beside >= asked.value:
        raise QuantizationError(
            f"{size(asked.value)} is too little memory: without weights the model needs {size(beside)} for a "
            f"context of {context} tokens",
            hint=f"ask for more, or for a shorter context: --param num_ctx={max(1, context // 2)}",
        )
    return int(asked.value) - beside


def with_choice(
    recipe: Recipe, prepared: PlannedBuild, work: Workspace, written: Unquantized | None
) -> tuple[PlannedBuild, Unquantized]:
    """Choose the types, and plan what the recipe asks for with them.

    Args:
        recipe: what is asked for.
        prepared: its :func:`unquantized` file.
        work: for intermediate files.
        written: the unquantized file, if there is one already.

    Returns:
        The build, and the unquantized file.

    Raises:
        QuantkitError: the size is impossible, the text is too short, or llama.cpp cannot evaluate the model.
    """
    recipe = with_local_matrix(recipe, prepared.run.reporter)
    needs = plan_choice(recipe, prepared)
    reporter, workers, subject = prepared.run.reporter, prepared.workers, prepared.subject
    if not needs.importance:
        reporter.note(
            "the types are chosen without an importance matrix: the smallest ones need it and are left out, and every "
            "type loses more; give one with --imatrix FILE"
        )
    check_space(work, needs.disk - (0 if written is None else written.output.nbytes))
    written, folder = written or write_unquantized(prepared, work), work.scratch()
    model = read_whole_model(written.path)
    text, ids = _sequences(model.path, recipe.choice_data or CALIBRATION, prepared)
    with open_source(model) as source:
        with (
            reporter.phase("measuring the loss of every type", len(needs.candidates), "tensors") as progress,
            workers.timeline.span(TRACK, "errors"),
        ):
            errors = measure_errors(needs.candidates, source, needs.importance, workers, progress)
        with (
            opened_crew(workers) as crew,
            reporter.phase("evaluating", needs.evaluations, "evaluations") as progress,
            divergence_from(
                model.path,
                ids,
                folder / "kept-logits",
                threads=prepared.run.threads,
                offload=prepared.run.device != "cpu",
                timeline=workers.timeline,
            ) as divergence,
        ):
            progress(1)
            alterable = Alterable(source, needs.importance, crew, folder / "kept-weights", workers.timeline)

            def of(types: Mapping[PlannedTensor, GGMLType]) -> float:
                with alterable.altered(types):
                    return divergence.again([tensor.name for tensor in types])

            sensitivities, evaluations = measure_sensitivities(list(needs.candidates), errors, of, progress)
        _tell_reloaded(divergence.reloaded, reporter)
    measured = Measured(list(needs.candidates), errors, sensitivities, needs.beside)
    found = search(measured, needs.nbytes)
    choice = _choice(needs, measured, found, text, evaluations + 1)
    plan, spec = plan_build(recipe, subject, choice)
    made = next(output for output in plan.outputs if output.label == choice.label)
    if made.nbytes != choice.nbytes:
        raise QuantkitError(f"{made.file} would have {made.nbytes} bytes, and {choice.nbytes} were planned")
    return replace(prepared, recipe=recipe, plan=plan, spec=spec), written


def _tell_reloaded(names: Collection[str], reporter: Reporter) -> None:
    if names:
        more = f" and of {len(names) - 1} others" if len(names) > 1 else ""
        reporter.note(
            f"for evaluations of {min(names)}{more} the model was loaded again: llama.cpp does not show where it has "
            "them"
        )


def _sequences(gguf: Path, data: Path, prepared: PlannedBuild) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """The name of the text, and its sequences of tokens.

    Raises:
        QuantkitError: it is too short.
    """
    found = tokens_of(gguf, data, _TOKENS)
    if len(found.ids) < FEWEST:
        raise QuantkitError(
            f"{data}: {len(found.ids)} tokens are too few to choose types by; at least {FEWEST}",
            hint="give a longer text, best of some pages: --choice-data FILE",
        )
    values = {entry.key: entry.value for entry in prepared.plan.metadata}
    wanted = sequence_count(prepared.plan.parameters)
    return found.name, sequences(found.ids, wanted, found.ids[0] if adds_bos(values) else None)


def _choice(needs: ChoicePlan, measured: Measured, found: Found, text: str, evaluations: int) -> Choice:
    usual = sorted(measured.sensitivities.values())[len(measured.sensitivities) // 2]
    return Choice(
        asked=needs.asked,
        quant=nearest(found, needs.mixtures, measured),
        nbytes=found.nbytes,
        bits_per_weight=found.nbytes * 8 / needs.weights,
        predicted_kl=found.predicted,
        gap=found.gap,
        importance=bool(needs.importance),
        text=text,
        evaluations=evaluations,
        sampling=max(errors.sampling for errors in measured.errors.values()),
        tensor_types=options(found.types),
        tensors=tuple(
            ChosenTensor(
                name=tensor.name,
                type=found.types[tensor.name].label,
                nbytes=found.types[tensor.name].nbytes(tensor.shape),
                error=measured.errors[tensor.name].by_type[found.types[tensor.name]],
                kl=measured.cost(tensor.name, found.types[tensor.name]),
                reason=_reason(measured.sensitivities[tensor.name], usual),
            )
            for tensor in measured.tensors
        ),
        compared=compared(needs.nbytes, needs.mixtures, measured),
    )


def _reason(sensitivity: float, usual: float) -> str:
    if not usual:
        return "chosen for the size"
    return f"chosen for the size: {sensitivity / usual:.2g} times as sensitive as the median tensor"
