"""Holds what people run to what quantkit writes: chat.sh and chat.ps1 to the byte, Modelfiles command by command.

A package is made again in memory from its manifest and its first model. Whatever is in a script beside that was not
written by quantkit, or by another version of it, and is not vouched for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from quantkit import __version__
from quantkit.errors import QuantkitError
from quantkit.ollama.modelfile import Command, parse_modelfile
from quantkit.ollama.read_modelfile import PASSTHROUGH, small_text
from quantkit.package.chat_script import chat_ps1, chat_sh
from quantkit.package.manifest import Manifest
from quantkit.package.manifest_modelfile import text_sha256
from quantkit.package.ollama_modelfile import modelfile_commands, modelfile_name
from quantkit.package.spec import PackageSpec
from quantkit.verify.report import Check
from quantkit.verify.structure import unchanged_texts

_SCRIPTS: dict[str, Callable[[PackageSpec], str]] = {"chat.sh": chat_sh, "chat.ps1": chat_ps1}
_OTHERS = ("REQUIRES", "TEMPLATE", "PARSER", "RENDERER", "DRAFT", "LICENSE")
"""The commands that :mod:`quantkit.verify.manifest_fields` does not compare."""

_MOST = 120  # characters of evidence


def check_written(folder: Path, manifest: Manifest, spec: PackageSpec) -> list[Check]:
    """Compare scripts and Modelfiles with what is written for this package; one failed check for each that differs.

    Texts that were changed since are left to the check of their sums.
    """
    sound = unchanged_texts(folder, manifest)
    scripts = [name for name in _SCRIPTS if name in sound]
    modelfiles = [(name, model) for n, model in enumerate(spec.models) if (name := modelfile_name(n, model)) in sound]
    faults = [fault for name in scripts for fault in _script(folder, name, manifest, spec)]
    for name, model in modelfiles:
        try:
            found = parse_modelfile(small_text(folder / name))
            wanted = modelfile_commands(spec, model)
        except (OSError, ValueError, QuantkitError):
            continue  # the check of the Modelfile says why
        faults += _modelfile(name, manifest, wanted, found)
    names = ", ".join((*scripts, *(name for name, _ in modelfiles)))
    return faults or [Check("scripts and Modelfiles", True, "ok", "", f"as quantkit writes them: {names or 'none'}")]


def _script(folder: Path, name: str, manifest: Manifest, spec: PackageSpec) -> Iterator[Check]:
    try:
        wanted = _SCRIPTS[name](spec)
        found = (folder / name).read_bytes().decode("utf-8")
    except (OSError, ValueError, QuantkitError) as error:
        yield Check(name, False, "broken", "what quantkit writes", str(error))
        return
    if found != wanted:
        yield Check(name, False, "differs", "what quantkit writes", f"{_difference(found, wanted)}{_other(manifest)}")


def _difference(found: str, wanted: str) -> str:
    pairs = zip_longest(found.split("\n"), wanted.split("\n"))
    number, (line, right) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return f"line {number} is {_short(line)}, where quantkit writes {_short(right)}"


def _other(manifest: Manifest) -> str:
    maker = manifest.versions.get("quantkit", "unknown")
    if maker == __version__:
        return ""
    return f"; quantkit {maker[:20]} is said to have made it, and this is {__version__}: to have its own, package again"


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return repr(text if len(text) <= _MOST else f"{text[:_MOST]}...")


def _modelfile(name: str, manifest: Manifest, wanted: Sequence[Command], found: Sequence[Command]) -> Iterator[Check]:
    entry = manifest.modelfile
    for keyword in _OTHERS:
        ours, theirs = _values(wanted, keyword), _values(found, keyword)
        if keyword == "LICENSE":
            if entry is not None and (sums := tuple(map(text_sha256, theirs))) != entry.licenses:
                yield _fault(f"{name}: LICENSE", sums, entry.licenses, "modelfile.licenses of the manifest")
        elif keyword == "TEMPLATE" and entry is not None and entry.template_sha256:
            if (sums := tuple(map(text_sha256, theirs))) != (entry.template_sha256,):
                yield _fault(f"{name}: TEMPLATE", sums, entry.template_sha256, "modelfile.template_sha256")
        elif keyword == "PARSER" and entry is not None and entry.template_sha256 and theirs == [PASSTHROUGH]:
            continue  # the user's own, with that TEMPLATE
        elif keyword == "REQUIRES" and entry is None:
            continue
        elif ours != theirs and len(ours) == len(theirs) == 1:
            evidence = f"{_difference(theirs[0], ours[0])}{_other(manifest)}"
            yield Check(f"{name}: {keyword}", False, "differs", "what quantkit writes", evidence)
        elif ours != theirs:
            yield _fault(f"{name}: {keyword}", theirs, ours, "what quantkit writes", _other(manifest))


def _fault(name: str, found: object, wanted: object, threshold: str, other: str = "") -> Check:
    evidence = f"is {_short(str(found) if found else None)}, not {_short(str(wanted) if wanted else None)}{other}"
    return Check(name, False, "differs", threshold, evidence)


def _values(commands: Sequence[Command], keyword: str) -> list[str]:
    return [command.value for command in commands if command.keyword == keyword]
