"""``quantkit edit``: metadata of a GGUF file changed, without a touch of its tensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from quantkit.chat_template.end_of_turn import chat_format, stop_metadata
from quantkit.errors import GGUFError, OutputError, QuantkitError
from quantkit.files.cleaning import clean_after_killed_runs
from quantkit.files.fileio import blocks
from quantkit.files.in_place import alone, change_beginning, finish_change, may_change
from quantkit.files.output_file import OutputFile
from quantkit.files.workspace import Workspace, workspace
from quantkit.gguf.editable import NAME, PRE, TEMPLATE
from quantkit.gguf.edited import Change, asked_entries, changes, check_removable, edited
from quantkit.gguf.header import Header, encode_header
from quantkit.gguf.kv import KV, string
from quantkit.gguf.model import GGUFModel, read_model
from quantkit.gguf.split import part_name
from quantkit.jobs.argument_kinds import FLAG, TEXT, TEXTS
from quantkit.jobs.argument_kinds import TEMPLATE as TEMPLATE_KIND
from quantkit.jobs.arguments import PathInput, TextsInput, read_path
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.jobs.run_stream import check_space
from quantkit.package.manifest import MANIFEST, PACKAGE_MARK, read_manifest
from quantkit.system.shell import command
from quantkit.vocab.from_gguf import gguf_vocabulary
from quantkit.vocab.pretokenizer import PRE_TOKENIZERS

ValuesInput = Mapping[str, str | int | float | bool | Sequence[Any]] | Sequence[tuple[str, str]]

IN_PLACE, REWRITTEN, COPIED, UNCHANGED = "in place", "rewritten", "copied", "unchanged"


@dataclass(frozen=True)
class Edited:
    """What an edit did, or would do.

    Attributes:
        file: the file, or the first part of a split model.
        changes: by entry.
        written: ``in place``, ``rewritten``, ``copied`` (to another file) or ``unchanged``.
        nbytes: bytes that were written for it.
    """

    file: Path
    changes: tuple[Change, ...]
    written: str
    nbytes: int


@dataclass(frozen=True)
class _Plan:
    model: GGUFModel
    header: bytes
    written: str
    changes: tuple[Change, ...]
    nbytes: int


def edit(
    gguf: PathInput,
    *,
    values: ValuesInput = (),
    remove: TextsInput = (),
    template: PathInput | None = None,
    name: str | None = None,
    out: PathInput | None = None,
    dry_run: bool = False,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> Edited:
    """Change metadata of a GGUF file.

    Where the new header has the length of the old one, it is written in place; else the file is written once more, and
    replaces the old one when it is complete. Tensors are copied as they are.

    Args:
        gguf: the file, or the first part of a split model: the other parts have no metadata.
        values: by key. An entry keeps its type; a new one has the type that llama.cpp reads, else it is a text.
        remove: keys of entries to remove.
        template: the name of a chat format, or a Jinja file. It is proven against the vocabulary as in a build, and the
            token that ends its turns becomes one at which llama.cpp stops.
        name: the model's name, ``general.name``.
        out: the file to write; None to change the file itself.
        dry_run: change nothing.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; *device* and *threads* have no effect.

    Raises:
        QuantkitError: by name, whatever is wrong, or may not be changed.
    """
    run = run_options(run, **keywords)
    path = read_path("gguf", gguf)
    target = None if out is None else read_path("out", out)
    asked = _texts(values)
    if name is not None:
        asked.append((NAME, TEXT.read("name", name)))
    removed: tuple[str, ...] = TEXTS.read("remove", remove)
    option = None if template is None else TEMPLATE_KIND.read("template", template)
    if not asked and not removed and option is None:
        raise QuantkitError("nothing is to be changed", hint="give a value: --set general.name='My model'")
    pretends = FLAG.read("dry_run", dry_run)
    with nullcontext() if pretends or target is not None else alone(path):
        if not pretends and target is None and path.is_file():
            finish_change(path, clear=True)
            clean_after_killed_runs(path, overwrite=True)
        state = _state(path)
        model = read_model(path)
        metadata, notes = _new_metadata(path, model.headers[0], asked, removed, option)
        plan = _planned(model, metadata, target)
        for note in notes:
            run.reporter.note(note)
        if not pretends and plan.written != UNCHANGED:
            path = _write(plan, target or path, run, state)
    return Edited(path if target is None or not dry_run else target, plan.changes, plan.written, plan.nbytes)


def _texts(values: ValuesInput) -> list[tuple[str, str]]:
    pairs = values.items() if isinstance(values, Mapping) else values
    return [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in pairs]


def _new_metadata(
    path: Path, header: Header, asked: Sequence[tuple[str, str]], removed: Sequence[str], option: str | None
) -> tuple[Mapping[str, KV], list[str]]:
    """The metadata of the first file as it is to be, and notes."""
    entries = asked_entries(path, header, asked)
    if both := [key for key in removed if key in entries]:
        raise GGUFError(f"{both[0]} is both set and removed", hint="leave one of them out")
    check_removable(path, header, removed)
    _check_pre_tokenizer(path, entries)
    if option is not None and TEMPLATE in entries:
        raise GGUFError(f"{TEMPLATE} is given twice", hint="leave out --template or --set")
    metadata = edited(header.metadata, entries, removed)
    if option is None and TEMPLATE not in entries:
        return metadata, []
    vocabulary = gguf_vocabulary(replace(header, metadata=metadata))
    if "tokenizer.ggml.tokens" not in metadata:
        raise GGUFError(f"{path}: there is no vocabulary that a chat template could use")
    chat, jinja = chat_format(vocabulary, option=option or "auto", model=path)
    stops, notes = stop_metadata(chat, vocabulary)
    return edited(metadata, {entry.key: entry for entry in (string(TEMPLATE, jinja), *stops)}), notes


def _check_pre_tokenizer(path: Path, entries: Mapping[str, KV]) -> None:
    names = {known.name for known in PRE_TOKENIZERS}
    if PRE in entries and entries[PRE].value not in names:
        raise GGUFError(
            f"{path}: {PRE} is {entries[PRE].value!r}, which quantkit does not know",
            hint=f"use one of: {', '.join(sorted(names))}",
        )


def _planned(model: GGUFModel, metadata: Mapping[str, KV], out: Path | None) -> _Plan:
    first = model.headers[0]
    whole = model.path.stat().st_size
    header = encode_header(metadata.values(), list(first.tensors.values()), first.alignment)
    found = changes(first.metadata, metadata)
    if out is not None:
        written = COPIED
    elif not found:
        written = UNCHANGED
    else:
        # A file without tensors may end before its header's padding does.
        fits = len(header) == first.data_offset <= whole and may_change(model.path)
        written = IN_PLACE if fits else REWRITTEN
    if out is None and found:
        _check_own(model.path)
    size = len(header) + max(0, whole - first.data_offset)
    others = sum(file.stat().st_size for file in model.files[1:])
    nbytes = {UNCHANGED: 0, IN_PLACE: len(header), REWRITTEN: size, COPIED: size + others}
    return _Plan(model, header, written, found, nbytes[written])


def _check_own(path: Path) -> None:
    """Refuse to change a file that others vouch for."""
    elsewhere = f"write another file: {command('quantkit', 'edit', path, '...', '-o', 'OUT.gguf')}"
    if path.is_symlink():
        raise OutputError(
            f"{path}: this is a link to {os.path.realpath(path)}, which may be a download's only copy", hint=elsewhere
        )
    folder = path.parent
    if PACKAGE_MARK.is_on(folder) and path.name in read_manifest(folder).file_names:
        raise OutputError(
            f"{path}: belongs to the package {folder}, whose {MANIFEST} has its sha256",
            hint=f"{elsewhere}; then make a package of it: quantkit package OUT.gguf -o DIR",
        )


def _state(path: Path) -> tuple[int, ...]:
    """What differs after a change of a file."""
    try:
        found = path.stat()
    except OSError:  # whoever reads it says why
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_unchanged(path: Path, state: tuple[int, ...]) -> None:
    if _state(path) != state:
        raise GGUFError(f"{path}: changed while it was read", hint="try again when no program is writing to it")


def _write(plan: _Plan, final: Path, run: RunOptions, state: tuple[int, ...]) -> Path:
    source = plan.model.path
    if plan.written == IN_PLACE:
        old = b"".join(blocks(source, 0, len(plan.header)))
        change_beginning(source, old, plan.header)
        return source
    if plan.written == REWRITTEN:
        with workspace(final, overwrite=True, file=True, fsync=run.fsync) as work:
            check_space(work, plan.nbytes)
            with run.reporter.phase("copying", plan.nbytes, "bytes") as advance:
                _copy(source, plan.model.headers[0].data_offset, plan.header, work, final.name, advance)
            _check_unchanged(source, state)
            shutil.copymode(source, work.path / final.name)
            return work.publish_files([final.name])
    return _write_copy(plan, final, run, state)


def _write_copy(plan: _Plan, final: Path, run: RunOptions, state: tuple[int, ...]) -> Path:
    files = plan.model.files
    with workspace(final, overwrite=run.overwrite, inputs=files, file=True, fsync=run.fsync) as work:
        count = len(files)
        names = [part_name(final.stem, i, count) if count > 1 else work.final.name for i in range(count)]
        work.reserve(names)
        for name in names:
            _check_own(work.place / name)
        check_space(work, plan.nbytes)
        with run.reporter.phase("copying", plan.nbytes, "bytes") as advance:
            _copy(files[0], plan.model.headers[0].data_offset, plan.header, work, names[0], advance)
            for file, name in zip(files[1:], names[1:], strict=True):
                _copy(file, 0, b"", work, name, advance)
        _check_unchanged(files[0], state)
        return work.publish_files(names)


def _copy(path: Path, start: int, header: bytes, work: Workspace, name: str, advance: Any) -> None:
    """Write a header, and after it what a file has from *start* on."""
    size = len(header) + max(0, path.stat().st_size - start)
    with OutputFile(work.path / name, header, size, shown=work.place / name) as out:
        offset = len(header)
        advance(offset)
        for block in blocks(path, start):
            out.write(offset, block)
            offset += len(block)
            advance(len(block))
    if offset != size:
        _check_unchanged(path, ())
