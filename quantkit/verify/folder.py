"""``quantkit verify``: checks a package that was built earlier or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.gguf.lora import ScaledLora, check_loras
from quantkit.gguf.model import GGUFModel
from quantkit.package.file_names import PAGE, REPORT
from quantkit.package.manifest import Manifest, read_manifest
from quantkit.package.own_files import foreign
from quantkit.system.progress import Reporter
from quantkit.system.shell import command
from quantkit.verify.expected import Expected
from quantkit.verify.intact import Contents, check_contents
from quantkit.verify.models import verify_outputs
from quantkit.verify.origin import Origin, open_origin
from quantkit.verify.report import Check, Report
from quantkit.verify.report_file import read_kept_prompts
from quantkit.vocab.from_gguf import gguf_vocabulary


@dataclass(frozen=True)
class FolderReport:
    """The result of checking a package.

    Attributes:
        folder: the package.
        report: the checks.
        sums: sha256 of each file, if requested.
    """

    folder: Path
    report: Report
    sums: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, with ``schema``."""
        return {**self.report.to_json(), "folder": str(self.folder), "sums": dict(self.sums)}


def verify_folder(
    folder: Path,
    *,
    source: Path | None = None,
    quick: bool = False,
    sha256: bool = False,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> FolderReport:
    """Check a package: its files and weights, its texts against its models, and its prompts in llama.cpp.

    Prompts are compared with those of *source*; without it, with those that the build saved in report.json. If there
    are none either, the report says that they were not compared.

    Args:
        folder: the output of ``quantkit build`` or ``quantkit package``.
        source: the checkpoint that it was built from, or the adapter that its tokenizer came from.
        quick: leave out the checksums of the weights, so that they are not read as a whole.
        sha256: also compute the sha256 of each file.
        threads: CPU threads, None for the processors that are free.
        reporter: receives the progress.

    Raises:
        QuantkitError: not a package, a source without a tokenizer, or an invalid report.json; or *quick* and *sha256*.
    """
    if quick and sha256:
        raise QuantkitError(
            "--quick and --sha256 contradict each other: one leaves out reading the weights, the other needs it",
            hint="leave out one of the two",
        )
    reporter = reporter or Reporter()
    manifest = read_manifest(folder, own_files=False)
    origin = open_origin(source, template=manifest.own_template) if source is not None else None
    found = check_contents(folder, manifest, weights=not quick, sha256=sha256, threads=threads, reporter=reporter)
    not_made = ["checksums of the weights (left out by --quick)"] if quick else []
    not_made += _unrecorded(folder, manifest)
    kept: Sequence[Expected] = ()
    if origin is None:
        kept, why = _kept_prompts(folder, manifest)
        not_made += why
    eye = manifest.mmproj and found.readable.get(manifest.mmproj.file)
    loras, misfits = _loras(manifest, found.readable)
    run = _run(manifest, found.sound, eye.path if eye else None, loras, origin, kept, threads, reporter)
    texts = _template_texts(manifest, origin, found)
    report = Report((*found.checks, *texts, *misfits, *run.checks), run.runs, (*not_made, *run.not_made))
    return FolderReport(folder, report, found.sums)


def _template_texts(manifest: Manifest, origin: Origin | None, found: Contents) -> list[Check]:
    """Check that a build's models have the very text of the source's chat template.

    Templates whose prompts are the same in every conversation that is compared can differ in others. A GGUF file that
    somebody else made may have a text of its own.
    """
    if origin is None or origin.template is None or manifest.recipe is None:
        return []
    checks = []
    for path in found.sound:
        text = gguf_vocabulary(found.readable[path.name].header).chat_template
        same, name = text == origin.template, f"{path.name}: text of the chat template"
        evidence = f"{len(text or '')} characters, {len(origin.template)} beside {origin.tokenizer.name} of the source"
        checks.append(Check(name, same, "the same" if same else "differs", "the source's", evidence))
    return checks


def _unrecorded(folder: Path, manifest: Manifest) -> list[str]:
    """What nothing in the package says twice, because an earlier version made it, or because it is made anew each time.

    Whoever edits a manifest can also take the fields out.
    """
    left = [
        f"the header of {file} (the manifest has no sha256 of it)"
        for gguf in manifest.ggufs
        for file in gguf.files
        if file not in gguf.headers
    ]
    if manifest.modelfile is None and any(text.file.startswith("Modelfile") for text in manifest.files):
        left.append("LICENSE and REQUIRES of the Modelfiles (the manifest does not have modelfile)")
    if not manifest.chat.template_sha256:
        left.append("the text of the chat template (the manifest does not have chat.template_sha256)")
    if (folder / PAGE).exists():
        left.append(f"{PAGE}, which a browser runs ({command('quantkit', 'report', folder)} makes it anew)")
    return left


def _kept_prompts(folder: Path, manifest: Manifest) -> tuple[Sequence[Expected], list[str]]:
    """Return the prompts that the build saved, and the checks that cannot be made."""
    source = manifest.sources.model.label if manifest.sources else ""
    which = f" ({source})" if source else ""
    give = f"add the checkpoint that the package was built from{which}: --source MODEL"
    tokens = f"token ids of single texts ({give})"
    kept = read_kept_prompts(folder) if foreign(folder, REPORT) is None else None
    if kept:
        return kept, [tokens]
    why = "the package does not have a build report" if kept is None else f"{REPORT} does not contain prompts"
    return (), [tokens, f"prompt token ids: {why} ({give})"]


def _loras(manifest: Manifest, readable: Mapping[str, GGUFModel]) -> tuple[tuple[ScaledLora, ...] | None, list[Check]]:
    """What the models are run with, None where that is not possible; and a check of each that does not fit."""
    loras: list[ScaledLora] = []
    checks: list[Check] = []
    for listed in manifest.loras:
        if (lora := readable.get(listed.file)) is None or listed.scale is None:
            return None, checks  # the checks of the files say why
        loras.append(ScaledLora(lora.path, listed.scale))
        for model in manifest.models:
            if model.file in readable:
                try:
                    check_loras(readable[model.file], loras[-1:])
                except QuantkitError as error:
                    name = f"{listed.file}: fits"
                    checks.append(Check(name, False, "does not fit", f"made for {model.file}", str(error)))
                    return None, checks
    return tuple(loras), checks


def _run(
    manifest: Manifest,
    sound: Sequence[Path],
    mmproj: Path | None,
    loras: Sequence[ScaledLora] | None,
    origin: Origin | None,
    kept: Sequence[Expected],
    threads: int | None,
    reporter: Reporter,
) -> Report:
    if not sound or loras is None:
        return Report((Check("models", False, "0", "at least 1 that can be loaded", "see the checks of the files"),))
    return verify_outputs(
        sound,
        origin=origin,
        expected=kept,
        mmproj=mmproj,
        loras=loras,
        system=manifest.chat.system,
        stops=manifest.chat.stops,
        threads=threads,
        reporter=reporter,
    )
