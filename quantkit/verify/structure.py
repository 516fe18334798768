"""Is the package what was made? Its files against the manifest, and against each other. No model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from quantkit.chat_template.format import derive
from quantkit.errors import QuantkitError
from quantkit.files.fileio import blocks, sha256_of
from quantkit.gguf.model import GGUFModel, read_model, read_whole_model
from quantkit.ollama.modelfile import parse_modelfile
from quantkit.package.built import MANIFEST
from quantkit.verify.listing import REPORT, ListedModel, ListedText, Listing
from quantkit.verify.report import Check
from quantkit.vocab.from_gguf import gguf_vocabulary

_MODELFILE = "Modelfile"
_NAMES = 20


def check_files(listing: Listing) -> list[Check]:
    """Whether every file of the manifest is there, the texts as they were written, and what else there is."""
    folder, listed = listing.folder, listing.files
    missing = [file for file in listed if not os.path.isfile(folder / file)]
    gone = set(missing)
    changed = [text.file for text in listing.texts if text.file not in gone and _changed(folder, text)]
    others = sorted({path.name for path in folder.iterdir()} - {*listed, MANIFEST, REPORT})
    texts = len(listing.texts)
    return [
        Check(
            "files",
            not missing,
            f"{len(listed) - len(missing)} of {len(listed)}",
            "all files of the manifest",
            f"missing: {_some(missing)}" if missing else "all are there",
        ),
        Check(
            "text files",
            not changed,
            f"{len(changed)} changed",
            "0 changed",
            f"changed since the package was made: {_some(changed)}" if changed else f"sha256 of {texts} files",
        ),
        Check("further files", True, _some(others) or "none", "", "what is here and not in the manifest"),
    ]


def _some(names: Sequence[str]) -> str:
    """Names, and how many more."""
    left = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {left} more" if left > 0 else "")


def _changed(folder: Path, text: ListedText) -> bool:
    path = folder / text.file
    return path.stat().st_size != text.size or sha256_of(blocks(path, 0, text.size)) != text.sha256


def check_models(
    listing: Listing, *, sha256: bool, advance: Callable[[int], None]
) -> Iterator[tuple[ListedModel, GGUFModel | None, list[Check]]]:
    """Look at each GGUF file, as far as it is there.

    Args:
        listing: the package.
        sha256: read the tensors too, and compare their sums.
        advance: told of the bytes read.

    Returns:
        Each model of the manifest, its headers (None where they cannot be read), and its checks.
    """
    for listed in listing.models:
        yield listed, *_check_model(listing, listed, sha256=sha256, advance=advance)


def _check_model(
    listing: Listing, listed: ListedModel, *, sha256: bool, advance: Callable[[int], None]
) -> tuple[GGUFModel | None, list[Check]]:
    path = listing.folder / listed.files[0]
    name = f"{path.name}: header"
    if not all((listing.folder / file).is_file() for file in listed.files):
        return None, []  # named by the check of the files
    try:
        model = read_model(path) if listed.adapter else read_whole_model(path)
    except QuantkitError as error:
        return None, [Check(name, False, "broken", "sound", str(error))]
    wrong = list(_header_faults(listed, model))
    evidence = "; ".join(wrong) or f"{len(model.header.tensors)} tensors, {len(model.header.metadata)} entries"
    checks = [Check(name, not wrong, "changed" if wrong else "sound", "as in the manifest", evidence)]
    if sha256:
        checks.append(_check_tensors(listed, model, advance))
    if not listed.adapter:
        checks.append(_check_template(listing, path, model))
    return model, checks


def _header_faults(listed: ListedModel, model: GGUFModel) -> Iterator[str]:
    if model.nbytes != listed.size:
        yield f"{model.nbytes} bytes, the manifest says {listed.size}"
    found = {name: info.type.label for name, info in model.header.tensors.items()}
    known = {name: kind for name, (kind, _) in listed.tensors.items()}
    if found != known:
        names = sorted(name for name in {*found, *known} if found.get(name) != known.get(name))
        yield f"tensors differ: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    for file, header in zip(model.files, model.headers, strict=True):
        if file.name in listed.headers and sha256_of(blocks(file, 0, header.data_offset)) != listed.headers[file.name]:
            yield f"the header of {file.name} has another sha256: metadata or vocabulary were changed"


def _check_tensors(listed: ListedModel, model: GGUFModel, advance: Callable[[int], None]) -> Check:
    wrong = []
    for file, header in zip(model.files, model.headers, strict=True):
        for name, info in header.tensors.items():
            size = info.type.nbytes(info.shape)
            digest = sha256_of(blocks(file, header.data_offset + info.offset, size))
            if name in listed.tensors and digest != listed.tensors[name][1]:
                wrong.append(name)
            advance(size)
    count = len(model.header.tensors)
    evidence = f"changed: {_some(wrong)}" if wrong else f"sha256 of {count} tensors"
    return Check(f"{model.path.name}: tensors", not wrong, f"{len(wrong)} changed", "0 changed", evidence)


def _check_template(listing: Listing, path: Path, model: GGUFModel) -> Check:
    """The chat template in the file is the format that the package's texts were written for."""
    name, threshold = f"{path.name}: chat template", f"{listing.template}, ending at {', '.join(listing.stops)}"
    vocabulary = gguf_vocabulary(model.header)
    if not vocabulary.chat_template:
        return Check(name, False, "none", threshold, "the file has no chat template")
    tokens: list[str] = model.value("tokenizer.ggml.tokens", [])
    try:
        chat = derive(
            vocabulary.chat_template,
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
            tokens=tokens,
        )
    except QuantkitError as error:
        return Check(name, False, "broken", threshold, str(error))
    same = (chat.name, chat.stops) == (listing.template, listing.stops)
    evidence = f"{chat.name}, ending at {', '.join(chat.stops)}"
    return Check(name, same, chat.name, threshold, evidence)


def check_modelfiles(listing: Listing) -> Iterator[Check]:
    """Whether each Modelfile can be read by Ollama's rules, and is for a model of the package."""
    models = {model.files[0] for model in listing.models if not model.adapter}
    for text in listing.texts:
        path = listing.folder / text.file
        if not text.file.startswith(_MODELFILE) or not path.is_file():
            continue
        threshold = "FROM a model of the package"
        try:
            commands = parse_modelfile(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, QuantkitError) as error:
            yield Check(text.file, False, "broken", threshold, str(error))
            continue
        # Ollama takes the last FROM.
        source = [command.value for command in commands if command.keyword == "FROM"][-1]
        file = PurePosixPath(source)
        right = source.startswith("./") and len(file.parts) == 1 and file.name in models
        there = right and (listing.folder / file.name).is_file()
        evidence = f"FROM {source}" + ("" if there or not right else ", which is not there")
        yield Check(text.file, there, f"{len(commands)} commands", threshold, evidence)


def file_sums(listing: Listing, advance: Callable[[int], None]) -> dict[str, str]:
    """sha256 of each whole file that is there."""
    sums = {}
    for name in listing.files:
        path = listing.folder / name
        if path.is_file():
            size = path.stat().st_size
            sums[name] = sha256_of(blocks(path, 0, size))
            advance(size)
    return sums
