"""Checks a package's files against the manifest and against each other. No model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from quantkit.chat_template.format import derive
from quantkit.errors import QuantkitError
from quantkit.files.fileio import blocks, sha256_of
from quantkit.gguf.layout import layout_faults
from quantkit.gguf.model import GGUFModel, read_model, read_whole_model
from quantkit.ollama.modelfile import parse_modelfile
from quantkit.ollama.read_modelfile import small_text
from quantkit.package.file_names import PAGE, REPORT
from quantkit.package.inside import require_inside
from quantkit.package.manifest import MANIFEST, GGUFEntry, Manifest
from quantkit.package.manifest_entries import MatrixEntry, ModelEntry, TextEntry
from quantkit.package.manifest_modelfile import text_sha256
from quantkit.package.own_files import FOLDER, foreign, is_own
from quantkit.verify.report import Check
from quantkit.verify.sums import changed_tensors
from quantkit.vocab.from_gguf import gguf_vocabulary, token_texts

TEXTS_CHECK = "text files"
"""The name of the check that compares the texts with the manifest."""

_MODELFILE = "Modelfile"
_NAMES = 20


def check_files(folder: Path, manifest: Manifest) -> list[Check]:
    """Check that every file of the manifest exists and the texts are unchanged; list files not in the manifest."""
    listed = manifest.file_names
    foreigners = _foreigners(folder, (*listed, REPORT, PAGE))
    missing = [file for file in listed if file not in foreigners and not is_own(folder, file)]
    sound = unchanged_texts(folder, manifest)
    changed = [text.file for text in manifest.files if is_own(folder, text.file) and text.file not in sound]
    matrix = manifest.imatrix
    if matrix is not None and is_own(folder, matrix.file) and _changed(folder, matrix):
        changed.append(matrix.file)
    others = sorted({path.name for path in folder.iterdir()} - {*listed, MANIFEST, REPORT, PAGE})
    strangers = {name: what for name, what in _foreigners(folder, others).items() if what != FOLDER}
    texts = len(manifest.files) + (matrix is not None)
    faults = [f"{name} is {what}" for name, what in foreigners.items()]
    faults += [f"missing: {_some(missing)}"] if missing else []
    return [
        Check(
            "files",
            not faults,
            f"{len(listed) - len(missing) - len({*listed} & {*foreigners})} of {len(listed)}",
            "all files of the manifest, in its folder",
            "; ".join(faults) or "all exist",
        ),
        Check(
            TEXTS_CHECK,
            not changed,
            f"{len(changed)} changed",
            "0 changed",
            f"changed since the package was made: {_some(changed)}" if changed else f"sha256 of {texts} files",
        ),
        Check(
            "unexpected files",
            not strangers,
            _some(others) or "none",
            "no links to elsewhere" if strangers else "",
            "; ".join(f"{name} is {what}" for name, what in strangers.items()) or "files that are not in the manifest",
        ),
    ]


def _foreigners(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: what for name in names if (what := foreign(folder, name)) is not None}


def unchanged_texts(folder: Path, manifest: Manifest) -> frozenset[str]:
    """Return the names of the text files whose bytes are those of the manifest."""
    there = (text for text in manifest.files if is_own(folder, text.file))
    return frozenset(text.file for text in there if not _changed(folder, text))


def _some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    left = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {left} more" if left > 0 else "")


def _changed(folder: Path, text: TextEntry | MatrixEntry) -> bool:
    path = folder / text.file
    return path.stat().st_size != text.size or sha256_of(blocks(path, 0, text.size)) != text.sha256


def check_models(
    folder: Path,
    manifest: Manifest,
    *,
    sha256: bool,
    threads: int | None = None,
    advance: Callable[[int], None],
) -> Iterator[tuple[GGUFEntry, GGUFModel | None, list[Check]]]:
    """Check each GGUF file that exists.

    Args:
        folder: the package.
        manifest: its manifest.
        sha256: also read the tensors and compare their checksums.
        threads: how many tensors to read at a time; None for one per processor.
        advance: called with the number of bytes read.

    Returns:
        Each model of the manifest, its headers (None if they cannot be read), and its checks.
    """
    for listed in manifest.ggufs:
        yield listed, *_check_model(folder, manifest, listed, sha256, threads, advance)


def _check_model(
    folder: Path,
    manifest: Manifest,
    listed: GGUFEntry,
    sha256: bool,
    threads: int | None,
    advance: Callable[[int], None],
) -> tuple[GGUFModel | None, list[Check]]:
    path = folder / listed.file
    name = f"{path.name}: header"
    if not all(is_own(folder, file) for file in listed.files):
        return None, []  # the check of the files names it
    try:
        model = read_whole_model(path) if isinstance(listed, ModelEntry) else read_model(path)
    except QuantkitError as error:
        return None, [Check(name, False, "damaged", "readable", str(error))]
    wrong = list(_header_faults(listed, model))
    evidence = "; ".join(wrong) or f"{len(model.header.tensors)} tensors, {len(model.header.metadata)} entries"
    checks = [Check(name, not wrong, "changed" if wrong else "ok", "the manifest's", evidence)]
    if sha256:
        checks.append(_check_tensors(listed, model, threads, advance))
    if isinstance(listed, ModelEntry):
        checks.append(_check_template(manifest, path, model))
    return model, checks


def _header_faults(listed: GGUFEntry, model: GGUFModel) -> Iterator[str]:
    if model.nbytes != listed.size:
        yield f"{model.nbytes} bytes, but the manifest says {listed.size}"
    found = {name: info.type.label for name, info in model.header.tensors.items()}
    known = {name: tensor.type for name, tensor in listed.tensors.items()}
    if found != known:
        names = sorted(name for name in {*found, *known} if found.get(name) != known.get(name))
        yield f"tensors differ: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    for file, header in zip(model.files, model.headers, strict=True):
        if file.name in listed.headers and sha256_of(blocks(file, 0, header.data_offset)) != listed.headers[file.name]:
            yield f"the header of {file.name} has a different sha256: metadata or vocabulary were changed"
        yield from (f"{file.name}: {fault}" for fault in layout_faults(file, header))


def _check_tensors(listed: GGUFEntry, model: GGUFModel, threads: int | None, advance: Callable[[int], None]) -> Check:
    name = f"{model.path.name}: tensors"
    try:
        wrong = changed_tensors(model, listed.tensors, threads=threads, advance=advance)
    except OSError as error:
        return Check(name, False, "unreadable", "0 changed", f"{error.filename or model.path}: {error.strerror}")
    count = len(model.header.tensors)
    evidence = f"changed: {_some(wrong)}" if wrong else f"sha256 of {count} tensors"
    return Check(name, not wrong, f"{len(wrong)} changed", "0 changed", evidence)


def _check_template(manifest: Manifest, path: Path, model: GGUFModel) -> Check:
    """Check that the file's chat template is the format for which the package's texts were written."""
    wanted = manifest.chat
    name, threshold = f"{path.name}: chat template", f"{wanted.template}, ending at {', '.join(wanted.stops)}"
    vocabulary = gguf_vocabulary(model.header)
    if not vocabulary.chat_template:
        return Check(name, False, "none", threshold, "the file does not have a chat template")
    try:
        chat = derive(
            vocabulary.chat_template,
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
            tokens=token_texts(model.header),
        )
    except QuantkitError as error:
        return Check(name, False, "broken", threshold, str(error))
    same = chat.name == wanted.template and bool(wanted.stops) and set(wanted.stops) <= set(chat.stops)
    evidence = f"{chat.name}, ending at {', '.join(chat.stops)}"
    if wanted.template_sha256 not in ("", text_sha256(vocabulary.chat_template)):
        same, evidence = False, f"{evidence}, but its text is not that of chat.template_sha256"
    return Check(name, same, chat.name, threshold, evidence)


def check_modelfiles(folder: Path, manifest: Manifest) -> Iterator[Check]:
    """Check that each Modelfile is valid by Ollama's rules, and belongs to a model of the package."""
    models = {model.file for model in manifest.models}
    for text in manifest.files:
        path = folder / text.file
        if not text.file.startswith(_MODELFILE) or not is_own(folder, text.file):
            continue
        threshold = "FROM a model of the package"
        try:
            commands = parse_modelfile(small_text(path))
        except (OSError, ValueError, QuantkitError) as error:
            yield Check(text.file, False, "broken", threshold, str(error))
            continue
        # Ollama takes all of them: a model, and what it sees with.
        model, *others = [command.value for command in commands if command.keyword == "FROM"]
        listed = {f"./{name}" for name in models}, {f"./{manifest.mmproj.file}"} if manifest.mmproj else set()
        right = model in listed[0] and {*others} == listed[1]
        there = right and all(is_own(folder, name) for name in (model, *others))
        adapters = [command.value for command in commands if command.keyword == "ADAPTER"]
        there = there and adapters == [f"./{lora.file}" for lora in manifest.loras]
        evidence = f"FROM {' and '.join((model, *others))}" + ("" if there or not right else ", which does not exist")
        evidence += "".join(f", ADAPTER {name}" for name in adapters)
        yield Check(text.file, there, f"{len(commands)} commands", threshold, evidence)
    yield from _further_modelfiles(folder, manifest)


def _further_modelfiles(folder: Path, manifest: Manifest) -> Iterator[Check]:
    """Check that Modelfiles beside those of the package, if they are any, take nothing from elsewhere."""
    listed = {text.file for text in manifest.files}
    for path in sorted(folder.iterdir()):
        if path.name in listed or not path.name.lower().startswith(_MODELFILE.lower()) or not is_own(folder, path.name):
            continue
        try:
            require_inside(path, parse_modelfile(small_text(path)))
        except (OSError, ValueError, QuantkitError) as error:
            yield Check(path.name, False, "not of the package", "FROM files of the package", str(error))
