"""The whole job: plan, stream, package, verify, publish."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.chat_format import ChatFormat, choose_format
from quantkit.convert import merger, run_stream
from quantkit.errors import ChatFormatError, VerificationError
from quantkit.ggml_types import BASE_TYPES
from quantkit.gguf_header import KV, u32
from quantkit.imatrix import read_imatrix
from quantkit.mixture import Importance, Mixture
from quantkit.model import Model, open_model
from quantkit.package import PackagedModel, PackageSpec, check_parameters, render_package, write_package
from quantkit.package.manifest import SCHEMA, chat_entry, input_files, output_entry, text_files, versions
from quantkit.plan import (
    Output,
    Plan,
    PlannedTensor,
    base_output,
    choose_mixtures,
    fallback_notes,
    file_name,
    quantized_outputs,
)
from quantkit.progress import Reporter
from quantkit.recipe import Recipe
from quantkit.verify.report import Report
from quantkit.vocab import Vocabulary
from quantkit.vocab.special import ENDS_BY_NAME
from quantkit.workspace import Workspace, workspace


@dataclass(frozen=True)
class BuildResult:
    """A finished package.

    Attributes:
        folder: where it is.
        plan: what was written.
        report: the checks; None with ``verify=False``.
        seconds: by stage: plan, stream, package, verify.
    """

    folder: Path
    plan: Plan
    report: Report | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class Prepared:
    """A build ready to stream."""

    recipe: Recipe
    model: Model
    plan: Plan
    spec: PackageSpec


@contextmanager
def prepare(recipe: Recipe) -> Iterator[Prepared]:
    """Open everything and plan; no weight of the base is read.

    Raises:
        QuantkitError: by name, whatever is wrong with model, adapters, tokenizer, template, parameters or types.
    """
    check_parameters(recipe.parameters)
    importance = read_imatrix(recipe.imatrix) if recipe.imatrix else {}
    with open_model(recipe.model, recipe.adapters) as model, ThreadPoolExecutor(1) as pool:
        tensors, bare = model.tensors(BASE_TYPES[recipe.outtype]), model.bare_metadata(recipe.name)
        # llama.cpp is asked in another process, while this one reads the vocabulary.
        mixtures = pool.submit(choose_mixtures, _quantized(recipe), bare, tensors, importance)
        vocabulary = model.vocabulary()
        chat, jinja = _chat_format(recipe, vocabulary)
        stop, notes = stop_metadata(chat, vocabulary)
        metadata = [*model.metadata(recipe.name, vocabulary, jinja), *stop]
        outputs = _outputs(recipe, metadata, tensors, mixtures.result(), importance)
        notes += [
            f"{label}: encoded from weights rounded to {recipe.outtype}, as every type is; --outtype {label} keeps them"
            for label in _quantized(recipe)
            if label in BASE_TYPES
        ]
        notes = [*model.notes, *vocabulary.notes, *notes, *fallback_notes(outputs)]
        plan = Plan(model.architecture.name, tuple(metadata), tensors, outputs, tuple(notes))
        spec = _spec(recipe, model, plan, chat)
        render_package(spec)  # what cannot be packaged is refused before the work
        yield Prepared(recipe, model, plan, spec)


def build(
    recipe: Recipe,
    *,
    verify: bool = True,
    overwrite: bool = False,
    fsync: bool = False,
    reporter: Reporter | None = None,
) -> BuildResult:
    """Build a package from a recipe.

    Args:
        recipe: what to build.
        verify: load every GGUF file and check it.
        overwrite: replace the folder if it exists.
        fsync: flush the folder to disk before and after the rename.
        reporter: told of progress and notes.

    Raises:
        VerificationError: built, but a check failed; the folder is then ``OUT.failed``, with its report.
        QuantkitError: by name, whatever else is wrong; nothing is left behind.
    """
    reporter = reporter or Reporter()
    clock = _Clock()
    files = [recipe.imatrix, Path(recipe.template)]
    inputs = [recipe.model, *recipe.adapters, *(path for path in files if path is not None and path.is_file())]
    with workspace(recipe.folder, overwrite=overwrite, inputs=inputs, fsync=fsync) as work, prepare(recipe) as prepared:
        plan = prepared.plan
        for note in plan.notes:
            reporter.note(note)
        clock.lap("plan")
        source = merger(prepared.model, recipe.device)
        digests = run_stream(plan.tensors, plan.outputs, source, work, recipe.threads, reporter)
        clock.lap("stream")
        texts = write_package(prepared.spec, work.path)
        write_json(work.path / "manifest.json", _manifest(prepared, digests, texts))
        clock.lap("package")
        report = _verify(prepared, work, reporter) if verify else None
        clock.lap("verify")
        write_json(work.path / "report.json", _report(plan, report, clock.seconds))
        if report is not None and not report.passed:
            failed = work.publish(work.final.with_name(work.final.name + ".failed"))
            first = next(check for check in report.checks if not check.passed)
            raise VerificationError(
                f"{failed}: built, but check {first.name!r} failed: {first.figure or first.evidence}",
                hint=f"read {failed / 'report.json'}",
            )
        return BuildResult(work.publish(), plan, report, clock.seconds)


def stop_metadata(chat: ChatFormat, vocabulary: Vocabulary) -> tuple[list[KV], list[str]]:
    """What the GGUF file needs so that llama.cpp ends a turn where the chat format does.

    Returns:
        Entries to add, and notes.

    Raises:
        ChatFormatError: the format's end of turn is not a token of this model.
    """
    metadata = {entry.key: entry.value for entry in vocabulary.metadata}
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    ends = {
        metadata[f"tokenizer.ggml.{kind}_token_id"]
        for kind in ("eos", "eot", "eom")
        if f"tokenizer.ggml.{kind}_token_id" in metadata
    }
    entries: list[KV] = []
    notes: list[str] = []
    for stop in chat.stops:
        if stop not in tokens:
            raise ChatFormatError(
                f"chat format {chat.name}: its end of turn {stop!r} is not a token of this model: it would never stop",
                hint="pass --template with the format the model was trained on",
            )
        number = tokens.index(stop)
        if number in ends or stop in ENDS_BY_NAME:
            continue
        if "tokenizer.ggml.eot_token_id" in metadata or entries:
            raise ChatFormatError(f"chat format {chat.name}: no room for a further end-of-turn token {stop!r}")
        entries.append(u32("tokenizer.ggml.eot_token_id", number))
        notes.append(f"{stop} ends a turn but is not the model's EOS: written as eot_token_id")
    return entries, notes


def _chat_format(recipe: Recipe, vocabulary: Vocabulary) -> tuple[ChatFormat, str]:
    try:
        return choose_format(
            vocabulary.chat_template,
            option=recipe.template,
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
        )
    except ChatFormatError as error:
        raise ChatFormatError(f"{recipe.model}: {error}", hint=error.hint) from None


def _quantized(recipe: Recipe) -> tuple[str, ...]:
    """The types that are not the base type."""
    return tuple(label for label in recipe.quants if label != recipe.outtype)


def _outputs(
    recipe: Recipe,
    metadata: Sequence[KV],
    tensors: Sequence[PlannedTensor],
    mixtures: Mapping[str, Mixture],
    importance: Importance,
) -> tuple[Output, ...]:
    """One file a type, in the order asked for, the unquantized one last if it is only kept."""
    labels = recipe.quants
    if recipe.keep_f16 and recipe.outtype not in labels:
        labels = (*labels, recipe.outtype)
    files = {label: file_name(recipe.name, label) for label in labels}
    quantized = {label: files[label] for label in _quantized(recipe)}
    made = {made.label: made for made in quantized_outputs(quantized, metadata, tensors, mixtures, importance)}
    if recipe.outtype in files:
        made[recipe.outtype] = base_output(files[recipe.outtype], recipe.outtype, metadata, tensors)
    return tuple(made[label] for label in labels)


def _spec(recipe: Recipe, model: Model, plan: Plan, chat: ChatFormat) -> PackageSpec:
    license_file = next((f for f in sorted(model.checkpoint.path.glob("LICENSE*")) if f.is_file()), None)
    return PackageSpec(
        name=recipe.name,
        models=tuple(PackagedModel(output.file, output.label) for output in plan.outputs),
        chat=chat,
        system=recipe.system,
        parameters=recipe.parameters,
        context_length=int(model.checkpoint.config["max_position_embeddings"]),
        base=recipe.model.resolve().name,
        adapters=tuple(adapter.resolve().name for adapter in recipe.adapters),
        license=license_file.read_text(encoding="utf-8", errors="replace") if license_file else None,
        architecture=plan.architecture,
        parameter_count=plan.parameters,
    )


def _manifest(prepared: Prepared, digests: dict[str, dict[str, str]], texts: tuple[Path, ...]) -> dict[str, Any]:
    model, plan, spec = prepared.model, prepared.plan, prepared.spec
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "versions": versions(),
        "recipe": prepared.recipe.to_json(),
        "inputs": {
            "model": input_files(model.checkpoint.tensors.values()),
            "adapters": [input_files(adapter.file.specs.values()) for adapter in model.adapters],
        },
        "models": [output_entry(output, digests[output.file]) for output in plan.outputs],
        "files": text_files(texts),
        "chat": chat_entry(spec.chat, spec.system, spec.parameters),
        "notes": list(plan.notes),
    }


def _verify(prepared: Prepared, work: Workspace, reporter: Reporter) -> Report:
    from quantkit.verify.package import verify_outputs

    recipe = prepared.recipe
    return verify_outputs(
        [work.path / output.file for output in prepared.plan.outputs],
        tokenizer=prepared.model.checkpoint.path / "tokenizer.json",
        system=recipe.system,
        threads=recipe.threads,
        reporter=reporter,
    )


def _report(plan: Plan, report: Report | None, seconds: dict[str, float]) -> dict[str, Any]:
    verdict: dict[str, Any] = {"schema": SCHEMA, "verified": False, "passed": None, "checks": []}
    if report is not None:
        verdict = {**report.to_json(), "verified": True}
    return {
        **verdict,
        "notes": list(plan.notes),
        "outputs": [{"file": output.file, "quant": output.label, "size": output.nbytes} for output in plan.outputs],
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }


def write_json(path: Path, value: object) -> None:
    """Write readable JSON, UTF-8, with a line feed at its end."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
