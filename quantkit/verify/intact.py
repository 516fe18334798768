"""Is a package what its manifest says? Its files are compared, none is loaded as a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantkit.gguf.model import GGUFModel
from quantkit.package.manifest import Manifest
from quantkit.package.manifest_entries import ModelEntry
from quantkit.system.progress import Reporter
from quantkit.verify.manifest_fields import check_fields
from quantkit.verify.report import Check
from quantkit.verify.structure import check_files, check_modelfiles, check_models
from quantkit.verify.sums import file_sums


@dataclass(frozen=True)
class Contents:
    """What was found of a package.

    Attributes:
        checks: of files, weights, Modelfiles and the manifest's fields.
        sound: the models whose headers can be read, in the manifest's order.
        readable: the GGUF files whose headers can be read, by name.
        sums: sha256 of each file that is there, if requested.
    """

    checks: tuple[Check, ...]
    sound: tuple[Path, ...]
    readable: Mapping[str, GGUFModel]
    sums: Mapping[str, str]


def check_contents(
    folder: Path,
    manifest: Manifest,
    *,
    weights: bool = True,
    sha256: bool = False,
    threads: int | None = None,
    reporter: Reporter,
) -> Contents:
    """Compare a package's files with its manifest.

    Args:
        folder: the package.
        manifest: its manifest.
        weights: read the weights and compare their checksums.
        sha256: also compute the sha256 of each whole file.
        threads: how many tensors to read at a time; None for one per processor.
        reporter: receives the progress.
    """
    checks = check_files(folder, manifest)
    sound: list[Path] = []
    readable: dict[str, GGUFModel] = {}
    total = (weights + sha256) * sum(gguf.size for gguf in manifest.ggufs)
    with reporter.phase("reading", total, "bytes") as advance:
        for listed, model, found in check_models(folder, manifest, sha256=weights, threads=threads, advance=advance):
            checks += found
            if model is not None:
                readable[listed.file] = model
            if model is not None and isinstance(listed, ModelEntry):
                sound.append(model.path)
        sums = file_sums(folder, manifest, threads=threads, advance=advance) if sha256 else {}
    checks += [*check_modelfiles(folder, manifest), *check_fields(folder, manifest, readable)]
    return Contents(tuple(checks), tuple(sound), readable, sums)
