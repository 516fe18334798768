"""``quantkit advise``: which type of a model this machine runs, and how well."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from quantkit.advise.advice import CACHES, Machine, Row, judge, needs
from quantkit.advise.bandwidth import read_bandwidth
from quantkit.advise.context import ContextRun, ask_context
from quantkit.advise.memory import BATCH
from quantkit.advise.recommend import Recommendation, recommend
from quantkit.advise.types import rank
from quantkit.errors import QuantkitError
from quantkit.files.json_file import SCHEMA
from quantkit.hub.source import Source
from quantkit.jobs.advised import Subject, every_type, open_subject
from quantkit.jobs.argument_kinds import COUNT, SIZE_OR_NONE
from quantkit.jobs.arguments import SizeInput, SourceInput, read_size, read_source
from quantkit.kernels import cuda_driver
from quantkit.plan.values import Plan
from quantkit.system.machine import total_memory
from quantkit.system.processors import usable_processors
from quantkit.system.progress import Reporter
from quantkit.system.shell import command
from quantkit.system.units import size

CONTEXTS = (2048, 8192, 32768)
_USUAL = 8192
# Left to the system and its other programs, where --memory does not say what the model may have.
_SYSTEM_SHARE = 10


@dataclass(frozen=True)
class Advice:
    """What a machine can run.

    Attributes:
        subject: the model and its files.
        machine: what it may use.
        context: tokens of context that the recommendation is for.
        rows: every file, the type that is closest to the model first.
        recommendation: which to take.
        notes: what the user should know besides.
    """

    subject: Subject
    machine: Machine
    context: int
    rows: tuple[Row, ...]
    recommendation: Recommendation
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with ``schema``."""
        taken, fit = self.recommendation.row, self.recommendation.fit
        return {
            "schema": SCHEMA,
            "name": self.subject.name,
            "architecture": self.subject.architecture,
            "parameters": self.subject.parameters,
            "layers": self.subject.layers,
            "trained_context": self.subject.trained_context,
            "machine": asdict(self.machine),
            "context": self.context,
            "files": [_row(row) for row in self.rows],
            "recommended": None
            if taken is None or fit is None
            else {"type": taken.candidate.label, "file": taken.candidate.file, "cache": fit.need.cache},
            "why": list(self.recommendation.why),
            "notes": list(self.notes),
        }


def advise(
    source: SourceInput,
    *,
    memory: SizeInput | None = None,
    vram: SizeInput | None = None,
    ctx: int | None = None,
    reporter: Reporter | None = None,
) -> Advice:
    """Say what this machine, or another, can run of a model. No weight is read.

    Args:
        source: a model's folder, a hub id (which is downloaded), a GGUF file, or a package.
        memory: main memory that it may have; default nine tenths of this machine's.
        vram: memory of a graphics card; default that of the largest CUDA device here, 0 for none.
        ctx: tokens of context to recommend for; default 8192, or what the model was trained for if that is less.
        reporter: hears of a download.

    Raises:
        QuantkitError: it is no model, or this machine does not say how much memory it has.
    """
    reporter = reporter or Reporter()
    given = None if ctx is None else COUNT.read("ctx", ctx)
    budget, card = read_size("memory", memory), read_size("vram", vram, SIZE_OR_NONE)
    subject = open_subject(read_source("source", source), reporter)
    return advise_subject(subject, this_machine(budget, card), given)


def this_machine(memory: int | None, card: int | None) -> Machine:
    """The machine, measured, with other sizes where they are given.

    Raises:
        QuantkitError: the system does not say how much memory there is.
    """
    if memory is None:
        total = total_memory()
        if total is None:
            raise QuantkitError(
                "this system does not say how much memory it has", hint="say it: quantkit advise MODEL --memory 16GB"
            )
        memory = total - total // _SYSTEM_SHARE
    threads = usable_processors()
    return Machine(memory, _largest_card() if card is None else card, read_bandwidth(threads), threads)


def advise_subject(subject: Subject, machine: Machine, context: int | None = None) -> Advice:
    """Advise about files that are there or planned.

    Args:
        subject: the files.
        machine: the machine.
        context: tokens of context to recommend for; None for the usual.
    """
    trained = subject.trained_context
    chosen = context or min(_USUAL, trained)
    contexts = sorted({chosen, *(one for one in CONTEXTS if one <= trained)})
    runs = [ContextRun(one, types, BATCH) for one in contexts for types in CACHES.values()]
    answers = ask_context(subject.metadata, subject.tensors, runs)
    values = {entry.key: entry.value for entry in subject.metadata}
    wants = needs(values, runs, answers, subject.layers)
    ordered = sorted(subject.candidates, key=lambda candidate: rank(candidate.label))
    rows = tuple(judge(candidate, wants, machine, subject.vocabulary) for candidate in ordered)
    notes = list(subject.notes)
    if chosen > trained:
        notes.append(f"the model was trained for {trained} tokens; beyond them its answers get worse")
    refused = sorted({name for name, types in CACHES.items() if all(need.cache != name for need in wants)})
    notes += [f"llama.cpp has no cache of {name} for this model" for name in refused]
    return Advice(subject, machine, chosen, rows, recommend(rows, chosen, machine.memory), tuple(notes))


def _largest_card() -> int:
    count, _ = cuda_driver.device_count()
    return max((cuda_driver.device_name(index)[1] for index in range(count)), default=0)


def _row(row: Row) -> dict[str, Any]:
    candidate = row.candidate
    return {
        "type": candidate.label,
        "file": candidate.file,
        "size": candidate.nbytes,
        "weights": candidate.weights.total,
        "bits_per_weight": candidate.weights.total * 8 / candidate.elements,
        "divergence": candidate.divergence,
        "bytes_per_token": round(candidate.weights.per_token),
        "tokens_per_second": row.tokens_per_second,
        "contexts": [
            {
                "context": fit.need.context,
                "cache_type": fit.need.cache,
                "memory": {**asdict(fit.memory), "total": fit.memory.total},
                "card": {"layers": fit.placement.layers, "of": fit.placement.of, "memory": fit.placement.card},
                "fits": fit.fits,
                "tokens_per_second": row.speed(fit),
            }
            for fit in row.fits
        ],
    }


def build_note(name: str, plan: Plan, source: Source) -> str:
    """What :func:`advise` would have chosen for the model of a plan, in a sentence.

    Args:
        name: of the model.
        plan: of its build.
        source: what it is built from, for the command that says more.
    """
    found = advise_subject(every_type(name, plan), this_machine(None, None))
    best, more = found.recommendation, command("quantkit", "advise", source)
    if best.row is None or best.fit is None:
        return f"{best.why[0]}; every type: {more}"
    label, need = best.row.candidate.label, size(best.fit.memory.total)
    same = "also chooses" if label in {output.label for output in plan.outputs} else "would choose"
    return (
        f"no type was asked for; quantkit advise {same} {label}, the best that fits here ({need} with {found.context} "
        f"tokens of context); every type: {more}"
    )
