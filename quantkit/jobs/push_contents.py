"""What would be pushed of a package, and what speaks against it. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quantkit.errors import HubError, QuantkitError, VerificationError
from quantkit.files.json_file import read_json
from quantkit.gguf.model import GGUFModel
from quantkit.hub.outgoing import OutgoingFile, outgoing_bytes
from quantkit.hub.target import PushTarget
from quantkit.jobs.evaluated_card import CARD
from quantkit.jobs.push_license import PushLicense
from quantkit.package.file_names import REPORT
from quantkit.package.hub_card import HubFacts, hub_card
from quantkit.package.manifest import MANIFEST, Manifest, manifest_bytes, read_manifest
from quantkit.package.manifest_entries import LARGEST_TEXT, TextEntry
from quantkit.package.own_files import is_own
from quantkit.package.private_text import Finding, find_private, this_machine
from quantkit.system.progress import Reporter
from quantkit.system.shell import command
from quantkit.verify.intact import Contents, check_contents
from quantkit.verify.report_file import read_evaluated
from quantkit.verify.structure import TEXTS_CHECK, unchanged_texts

# Metadata of a GGUF file that are words of people; the vocabulary is not.
_VOCABULARY = "tokenizer.ggml."


@dataclass(frozen=True)
class Package:
    """A package that is what its manifest says.

    Attributes:
        folder: where it is.
        manifest: its manifest.
        models: headers of its GGUF files, by name.
        sums: sha256 of its files, by name.
        own_card: whether somebody has changed its README.md.
        notes: what the user should know.
        evaluated: what report.json says of each evaluated file.
    """

    folder: Path
    manifest: Manifest
    models: Mapping[str, GGUFModel]
    sums: Mapping[str, str]
    own_card: bool
    notes: tuple[str, ...]
    evaluated: Mapping[str, Mapping[str, float]]


def read_package(folder: Path, *, threads: int | None, reporter: Reporter) -> Package:
    """Read a package that is to be pushed, and compare every byte with its manifest.

    A README.md that somebody has changed is pushed as it is.

    Raises:
        QuantkitError: it is not a package, or its manifest lists a hidden file.
        VerificationError: a check of its build failed, or it was changed since.
    """
    manifest = read_manifest(folder, own_files=False)  # the check of the files names what is not
    if hidden := [name for name in manifest.file_names if name.startswith(".")]:
        raise QuantkitError(
            f"{folder}: the manifest lists {hidden[0]}, and hidden files are never pushed", hint="build it again"
        )
    report = read_json(folder / REPORT) if is_own(folder, REPORT) else {}
    if report.get("passed") is False:
        raise VerificationError(
            f"{folder}: a check failed when it was built, so it is not pushed", hint=f"read {folder / REPORT}"
        )
    notes = []
    if report.get("passed") is None:
        notes.append(f"no check has loaded these models; to do it: {command('quantkit', 'verify', folder)}")
    contents = check_contents(folder, manifest, sha256=True, threads=threads, reporter=reporter)
    own_card = _require_unchanged(folder, manifest, contents)
    if own_card:
        notes.append(f"{CARD} is not as it was made: its text is pushed, with the metadata that it lacks")
    return Package(
        folder=folder,
        manifest=manifest,
        models=contents.readable,
        sums=contents.sums,
        own_card=own_card,
        notes=tuple(notes),
        evaluated=read_evaluated(folder),
    )


def _require_unchanged(folder: Path, manifest: Manifest, contents: Contents) -> bool:
    """Refuse a package that was changed; returns whether its card was, which everybody may do.

    Raises:
        VerificationError: anything else was.
    """
    sound = unchanged_texts(folder, manifest)
    others = [text.file for text in manifest.files if text.file not in sound and text.file != CARD]
    # A link would send a file of some other place; what was changed may have any size.
    own = is_own(folder, CARD) and (folder / CARD).stat().st_size <= LARGEST_TEXT
    card = own and any(text.file == CARD and text.file not in sound for text in manifest.files)
    matrix = manifest.imatrix
    if matrix is not None and contents.sums.get(matrix.file) != matrix.sha256:
        others.append(matrix.file)
    failed = [one for one in contents.checks if not one.passed and (one.name != TEXTS_CHECK or others or not card)]
    if failed:
        raise VerificationError(
            f"{folder}: not pushed, because check {failed[0].name!r} failed: {failed[0].evidence or failed[0].figure}",
            hint=f"see all checks: {command('quantkit', 'verify', folder)}",
        )
    return card


def outgoing_files(package: Package, target: PushTarget, terms: PushLicense) -> tuple[tuple[OutgoingFile, ...], str]:
    """The files for a hub, weights last, and the card's text.

    They are those of the manifest, and the manifest itself, which then lists the card as the hub shows it; so what
    others download is a package that ``quantkit verify`` accepts.

    Raises:
        QuantkitError: the card begins with metadata that are not YAML.
    """
    folder, manifest = package.folder, package.manifest
    facts = HubFacts(target, terms.bases, terms.terms, terms.languages, terms.pipeline, package.evaluated)
    plain = (folder / CARD).read_bytes().decode("utf-8", "replace") if (folder / CARD).is_file() else ""
    try:
        text = hub_card(plain, manifest, facts)
    except ValueError as error:
        raise QuantkitError(
            f"{folder / CARD}: what it begins with is not YAML ({str(error).splitlines()[0]})", hint="correct it"
        ) from None
    card = outgoing_bytes(CARD, text.encode())
    entry = TextEntry(card.name, card.nbytes, card.sha256)
    texts = tuple(entry if one.file == CARD else one for one in manifest.files)
    listed = replace(manifest, files=texts)
    own = outgoing_bytes(MANIFEST, manifest_bytes(listed))
    rest = [
        OutgoingFile(name, (folder / name).stat().st_size, package.sums[name], folder / name)
        for name in manifest.file_names
        if name != CARD
    ]
    return (card, own, *sorted(rest, key=lambda file: (file.nbytes, file.name))), text


def package_texts(package: Package) -> Iterator[tuple[str, str]]:
    """Every text that would be pushed, with where it stands: text files, and the words in the headers of GGUF files."""
    folder = package.folder
    for name in (*(text.file for text in package.manifest.files), MANIFEST):
        if (folder / name).is_file():
            yield name, (folder / name).read_bytes().decode("utf-8", "replace")
    for name, model in package.models.items():
        for entry in model.header.metadata.values():
            if isinstance(entry.value, str) and not entry.key.startswith(_VOCABULARY):
                yield f"{name}, {entry.key}", entry.value


def refuse_private(package: Package, target: PushTarget) -> tuple[str, ...]:
    """Refuse what would tell a token or a path of this machine; returns notes of what only looks private.

    Raises:
        HubError: with where it stands.
    """
    found = list(find_private(package_texts(package), this_machine(package.folder)))
    certain = [one for one in found if one.certain]
    if certain:
        raise HubError(
            f"{target}: not pushed, because {certain[0].where} contains {certain[0].what}"
            + (f", and {len(certain) - 1} more texts something private" if len(certain) > 1 else ""),
            hint="build or package it again without that; quantkit edit changes the metadata of a GGUF file",
        )
    return tuple(map(_note, found))


def _note(found: Finding) -> str:
    return f"{found.where} contains {found.what}, which will be seen"
