"""``quantkit prove``: are the logits of a package those of the model that was trained?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from quantkit.errors import QuantkitError
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.fetch import fetch
from quantkit.hub.source import HubId, Source
from quantkit.jobs.arguments import AdaptersInput, PathInput, SourceInput, read_adapters, read_path, read_source
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.material.data_file import read_text
from quantkit.package.manifest import Manifest, read_manifest
from quantkit.package.manifest_sources import SourceEntry
from quantkit.prove.judged import Judged
from quantkit.prove.plan import plan_proof
from quantkit.prove.proof import Material, Proof, ProvedFile, prove_files
from quantkit.verify.encoders import tokenizer_file
from quantkit.verify.origin import Origin, open_origin
from quantkit.verify.report_file import add_to_report, read_kept_prompts


def prove(
    folder: PathInput,
    *,
    model: SourceInput | None = None,
    adapters: AdaptersInput = (),
    text: PathInput | None = None,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Proof:
    """Compare the logits of a package with those of transformers' own model of base and adapters, in float32.

    The proof is put into the package's report.json.

    Args:
        folder: a package made by :func:`quantkit.jobs.build.build`.
        model: the base that it was built from; default the one that the manifest names: on its hub, or a folder of that
            name beside the package or here.
        adapters: those that were merged into it, in order; default those that the manifest names.
        text: a text file in UTF-8, whose beginning is compared too.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; *device*, *threads* and *reporter* have an effect.

    Returns:
        The checks; a failed one raises nothing: see ``proof.passed``.

    Raises:
        QuantkitError: not a package, a source that is not there, or a model that transformers does not know.
    """
    run = run_options(run, **keywords)
    package = read_path("folder", folder)
    manifest = read_manifest(package)
    manifest.require_whole(package, "prove")
    base, merged = _sources(package, manifest, model, read_adapters("adapters", adapters))
    home, found = fetch(base, merged, run.reporter)
    device = "cuda:0" if run.device == "cuda" else run.device
    judged = Judged(home, tuple((adapter.folder, adapter.weight) for adapter in found), device)
    plan_proof(judged)
    given = None if text is None else read_path("text", text)
    texts = {} if given is None else {given.name: read_text(given)[1]}
    kept = read_kept_prompts(package) or ()
    origin = _origin([*(folder for folder, _ in reversed(judged.adapters)), home], manifest)
    material = Material(kept, origin, manifest.chat.system, texts)
    files = [ProvedFile(package / entry.file, entry.quant) for entry in manifest.models]
    proof = prove_files(judged, files, material, threads=run.threads, reporter=run.reporter)
    if not add_to_report("proof", proof.to_json(), package):
        run.reporter.note(f"{package.name} does not have a report.json, so the proof is only printed")
    return proof


def _sources(
    package: Path, manifest: Manifest, model: SourceInput | None, adapters: Sequence[AdapterSource]
) -> tuple[Source, Sequence[AdapterSource]]:
    sources = manifest.sources
    if model is None:
        if sources is None:
            raise QuantkitError(
                f"{package}: its manifest does not say what it was built from",
                hint=f"say it: quantkit prove {package} --model MODEL [--adapter DIR]",
            )
        missing = "" if adapters else " --adapter DIR" * len(sources.adapters)
        base = _recorded(package, sources.model, f"--model MODEL{missing}")
    else:
        base = read_source("model", model)
    if adapters or sources is None:
        return base, adapters
    weights = _weights(manifest.recipe or {}, len(sources.adapters))
    options = ("" if model is None else f"--model {base} ") + " ".join(["--adapter DIR"] * len(sources.adapters))
    return base, [
        AdapterSource(_recorded(package, entry, options), weight)
        for entry, weight in zip(sources.adapters, weights, strict=True)
    ]


def _weights(recipe: Mapping[str, Any], count: int) -> list[float]:
    """The weights of the adapters, as the manifest's recipe has them: a label, or a table with ``weight``."""
    listed = list(recipe.get("adapters") or ())
    listed += [None] * (count - len(listed))
    return [float(one["weight"]) if isinstance(one, Mapping) else 1.0 for one in listed[:count]]


def _recorded(package: Path, entry: SourceEntry, option: str) -> Source:
    """A source that the manifest names.

    Raises:
        QuantkitError: it names a folder that is neither beside the package nor here.
    """
    if entry.id:
        return HubId(entry.id, entry.revision, entry.hub or "huggingface")
    places = [package.resolve().parent / entry.folder, Path(entry.folder)]
    for place in places:
        if entry.folder and place.is_dir():
            return place
    raise QuantkitError(
        f"{package}: it was built from a folder {entry.folder!r}, which is neither beside it nor here",
        hint=f"say where it is: quantkit prove {package} {option}",
    )


def _origin(folders: Sequence[Path], manifest: Manifest) -> Origin | None:
    """The tokenizer of the adapter that has one, else the base's; None if there is none that can be read as text."""
    for folder in folders:
        if tokenizer_file(folder) is not None:
            return open_origin(folder, template=manifest.own_template)
    return None
