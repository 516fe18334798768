"""What the card of a package says of an evaluation: of that of its build, or of a later one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quantkit.errors import OutputError
from quantkit.evaluate.evaluation import Evaluation
from quantkit.files.fileio import blocks, sha256_of
from quantkit.files.replace_file import replace_file
from quantkit.package.card import with_quality
from quantkit.package.manifest import MANIFEST, manifest_bytes, read_manifest
from quantkit.package.manifest_entries import TextEntry
from quantkit.package.quality import Quality, QualityRow

CARD = "README.md"


def quality(found: Evaluation) -> Quality:
    """What the card says of an evaluation."""
    rows = [
        QualityRow(
            one.file.name,
            one.nbytes,
            one.bits,
            one.figures.kl.value,
            one.figures.kl.error,
            one.figures.same_top.value,
            one.figures.perplexity.value,
        )
        for one in found.files
    ]
    text = found.text
    return Quality(
        text.tokens.name, text.positions, found.reference.label, found.reference_perplexity.value, tuple(rows)
    )


def put_on_card(found: Evaluation, folder: Path) -> str | None:
    """Put an evaluation on the card of a package, in the place of an earlier one; the manifest stays true.

    Returns:
        Why it was not done, if it was not: somebody has changed the card.

    Raises:
        QuantkitError: the manifest cannot be read.
        OutputError: a file cannot be written.
    """
    manifest, path = read_manifest(folder), folder / CARD
    known = next((text for text in manifest.files if text.file == CARD), None)
    if known is None or not path.is_file():
        return f"{folder.name} does not have a {CARD}"
    if sha256_of(blocks(path)) != known.sha256:
        return f"{path} is not as it was made"
    try:
        text = with_quality(path.read_bytes().decode(), quality(found))
    except ValueError:
        return f"{path} has no list of files"
    content = text.encode()
    entry = TextEntry(CARD, len(content), sha256_of([content]))
    files = tuple(entry if one is known else one for one in manifest.files)
    try:
        replace_file(path, content)
        replace_file(folder / MANIFEST, manifest_bytes(replace(manifest, files=files)))
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error})", hint="print the evaluation instead: add --json"
        ) from None
    return None
