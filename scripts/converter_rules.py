"""The rules of llama.cpp's converter as text: for each registered class its code, read and never run."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before the names of classes that convert what sees or hears.
MMPROJ = "mmproj:"
# What the converter calls by the class of its vision part.
_BY_PART = dict.fromkeys(("InternVLChatModel", "InternVLForConditionalGeneration"), "InternVisionModel")
# The classes that all others build on: a change there says nothing about one architecture.
_COMMON = ("ModelBase", "TextModel", "MmprojModel")
_TENSORS = "MODEL_TENSORS"


@dataclass(frozen=True)
class Rules:
    """What the converter does for one name in ``architectures``.

    Attributes:
        name: the class that is registered for it.
        module: its file in conversion/, without ending.
        mmproj: it converts the part that sees or hears, not the language model.
        sha256: of the code of the class and its base classes, and of the list of its tensors.
    """

    name: str
    module: str
    mmproj: bool
    sha256: str


@dataclass(frozen=True)
class Comparison:
    """Names in ``architectures``, each list sorted; those of projectors begin with ``mmproj:``.

    Attributes:
        changed: supported, with other rules than at the last look.
        gone: supported and seen, and no longer registered.
        new: registered since the last look.
        changed_elsewhere: with other rules, and not supported.
        lacking: registered and not supported.
    """

    changed: tuple[str, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    changed_elsewhere: tuple[str, ...]
    lacking: tuple[str, ...]

    def by_module(self, found: Mapping[str, Rules], *, mmproj: bool) -> dict[str, list[str]]:
        """What is lacking of text models, or of projectors, by file of conversion/."""
        grouped: dict[str, list[str]] = {}
        for name in self.lacking:
            if found[name].mmproj is mmproj:
                grouped.setdefault(found[name].module, []).append(name.removeprefix(MMPROJ))
        return dict(sorted(grouped.items()))

    def as_json(self) -> dict[str, object]:
        return {**vars(self)}


def projector(name: str) -> str:
    """The key of :func:`read_rules` for the part of a model that sees or hears."""
    return MMPROJ + _BY_PART.get(name, name)


def compare(found: Mapping[str, Rules], seen: Mapping[str, str], supported: Collection[str]) -> Comparison:
    """Compare a tree with the hashes of the last look.

    Args:
        found: the rules of a tree, by key of :func:`read_rules`.
        seen: the first digits of the hashes, by the same keys.
        supported: what quantkit has, by the same keys.
    """
    other = {key for key in found.keys() & seen.keys() if not found[key].sha256.startswith(seen[key])}
    ours = other & set(supported)
    return Comparison(
        changed=tuple(sorted(ours)),
        gone=tuple(sorted(set(supported) & seen.keys() - found.keys())),
        new=tuple(sorted(found.keys() - seen.keys())),
        changed_elsewhere=tuple(sorted(other - ours)),
        lacking=tuple(sorted(found.keys() - set(supported))),
    )


def read_rules(tree: Path) -> dict[str, Rules]:
    """The rules by name in ``architectures``; those of projectors by ``mmproj:NAME``.

    Raises:
        OSError: the tree has no conversion/.
        SyntaxError: a file is not Python.
        ValueError: no class is registered, so the converter is written differently than this one knows.
    """
    classes: dict[str, tuple[str, ast.ClassDef]] = {}
    texts: dict[str, str] = {}
    for path in sorted((tree / "conversion").iterdir()):
        if path.suffix == ".py":
            source = path.read_text(encoding="utf-8")
            lines = source.splitlines()
            for node in ast.parse(source).body:
                if isinstance(node, ast.ClassDef):
                    classes[node.name], texts[node.name] = (path.stem, node), _code(lines, node)
    tensors = _tensor_lists(tree / "gguf-py" / "gguf" / "constants.py")
    found: dict[str, Rules] = {}
    for name, (module, node) in classes.items():
        lineage = list(_lineage(name, classes))
        mmproj = "MmprojModel" in lineage
        code = [texts[one] for one in lineage if one in classes and one not in _COMMON]
        listed = [tensors[arch] for arch in _arches(node) if arch in tensors]
        digest = hashlib.sha256("\n".join([*code, *listed]).encode()).hexdigest()
        for registered in _registered(node):
            found[f"{MMPROJ}{registered}" if mmproj else registered] = Rules(name, module, mmproj, digest)
    if not found:
        raise ValueError("no class of conversion/ is registered as a model")
    return found


def _code(lines: Sequence[str], node: ast.stmt | ast.expr) -> str:
    """The lines of a part of a file, without those that are empty or a comment. (What ``ast`` makes of code depends on
    Python's version.)"""
    own = (line.strip() for line in lines[node.lineno - 1 : node.end_lineno])
    return "\n".join(line for line in own if line and not line.startswith("#"))


def _registered(node: ast.ClassDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(".register"):
            yield from (str(one.value) for one in decorator.args if isinstance(one, ast.Constant))


def _lineage(name: str, classes: Mapping[str, tuple[str, ast.ClassDef]]) -> Iterator[str]:
    """A class and its base classes, each before its own."""
    yield name
    if name in classes:
        for base in classes[name][1].bases:
            yield from _lineage(ast.unparse(base).rpartition(".")[2], classes)


def _arches(node: ast.ClassDef) -> Iterator[str]:
    """``gguf.MODEL_ARCH.X`` wherever the class names it."""
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and ast.unparse(one.value).endswith("MODEL_ARCH"):
            yield one.attr


def _tensor_lists(constants: Path) -> dict[str, str]:
    """By name of ``MODEL_ARCH``, the list of its tensors as text; empty where the tree has none."""
    if not constants.is_file():
        return {}
    source = constants.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == _TENSORS:
            assert isinstance(node.value, ast.Dict)
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {key.attr: _code(lines, value) for key, value in pairs if isinstance(key, ast.Attribute)}
    return {}
