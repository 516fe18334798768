"""The layout that ARCHITECTURE.md draws, held by the imports themselves.

Imports are read from the source, in functions and under TYPE_CHECKING too: what a type needs is a dependency.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(importlib.util.find_spec("quantkit").submodule_search_locations[0])  # type: ignore[union-attr, index]

# From the ground up: a package imports only from lines above its own.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("system",),
    ("ggml",),
    ("cluster", "files"),
    ("gguf", "hub"),
    ("checkpoint", "ollama", "plan"),
    ("advise", "kernels"),
    ("engine", "vocab"),
    ("arch", "chat_template"),
    ("adapter", "material"),
    ("model",),
    ("package",),
    ("run",),
    ("calibrate", "choose", "serve", "verify"),
    ("evaluate", "extract", "page", "prove"),
    ("jobs",),
    ("demo", "farm"),
    ("cli",),
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}

# What may be imported without paying for torch: everything that plain weights and LoRA need, from reading to writing.
WITHOUT_TORCH = (
    "adapter", "advise", "arch", "calibrate", "chat_template", "checkpoint", "choose", "cli", "cluster", "demo",
    "engine", "evaluate", "extract", "farm", "files", "ggml", "gguf", "hub", "jobs", "kernels",
    "material", "model", "ollama", "package", "page", "plan", "prove", "run", "serve", "system", "verify", "vocab",
)  # fmt: skip
# But for these, imported when needed: they read pickles, merge what PEFT's own layers merge, or ask transformers.
WITH_TORCH = (
    "adapter.module_tree", "adapter.peft_layer", "checkpoint.pickle_file",
    "extract.changed", "extract.factors",
    "prove.judge", "prove.layerwise", "prove.peft_adapters", "prove.weights",
)  # fmt: skip


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def imports_of(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The project's modules that these statements import, without ``quantkit.``; other libraries' by their name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            if top != "quantkit":
                yield top
                continue
            while inner not in MODULES:  # the last part is a name in a module
                inner = inner.rpartition(".")[0]
            if inner:
                yield inner


@cache
def all_imports(module: str) -> frozenset[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset(imports_of(ast.walk(tree))) - {module}


def at_once(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported."""
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        for block in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from at_once(getattr(node, block, []))


@cache
def imports_at_once(module: str) -> frozenset[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset(imports_of(at_once(tree.body)))


def way_to(goal: str, module: str) -> list[str] | None:
    """The chain of imports from a module to a library, None where there is none."""
    seen, waiting = {module}, [[module]]
    while waiting:
        way = waiting.pop(0)
        for further in sorted(imports_at_once(way[-1])):
            if further == goal:
                return [*way, goal]
            if further in MODULES and further not in seen:
                seen.add(further)
                waiting.append([*way, further])
    return None


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_a_level_and_nothing_lies_loose() -> None:
    loose = {"", "__main__"}  # the face of the package, and the door of ``python -m``
    assert {package_of(module) for module in MODULES} - loose == {*LEVEL}
    assert sorted(name for name in MODULES if "." not in name and MODULES[name].name != "__init__.py") == [
        "__main__",
        "errors",
    ]


@pytest.mark.parametrize("package", LEVEL)
def test_imports_go_down(package: str) -> None:
    upward = {
        (module, imported)
        for module in MODULES
        if package_of(module) == package
        for imported in all_imports(module)
        if imported in MODULES and package_of(imported) != package and LEVEL[package_of(imported)] >= LEVEL[package]
    }
    assert upward == set()


def test_no_ring_of_modules() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for imported in sorted(all_imports(module) & MODULES.keys()):
                visit(imported, (*way, module))
            done.add(module)

    for module in MODULES:
        if module:  # the face of the package names modules of all levels, and none of them imports it
            visit(module, ())


def test_the_init_of_a_package_is_empty() -> None:
    """Importing a name costs what the name needs, and nothing that its neighbours need."""
    code = {
        name: [ast.unparse(node) for node in ast.parse(file.read_text(encoding="utf-8")).body]
        for name, file in MODULES.items()
        if name and file.name == "__init__.py"
    }
    assert {name: body for name, body in code.items() if len(body) > 1 or not all(b[0] in "'\"" for b in body)} == {}


PROMISED = [
    module
    for module in MODULES
    for promise in WITHOUT_TORCH
    if module not in WITH_TORCH and (module == promise or module.startswith(f"{promise}."))
]


@pytest.mark.parametrize("heavy", ["torch", "transformers", "peft"])
def test_modules_that_do_without_torch(heavy: str) -> None:
    assert [way for module in PROMISED if (way := way_to(heavy, module))] == []


@pytest.mark.parametrize("module", WITH_TORCH)
def test_modules_that_need_torch_are_imported_when_they_are_needed(module: str) -> None:
    assert way_to("torch", module) is not None
    assert [name for name in MODULES if module in imports_at_once(name) and name not in WITH_TORCH] == []


def test_what_runs_agrees() -> None:
    """The source is read by the tests above; this is one look at a real process."""
    code = f"import sys, importlib; [importlib.import_module('quantkit.' + m) for m in {PROMISED}]"
    code += "; print(sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_tests_above_can_fail() -> None:
    """On small sources with each fault, as far as it can be planted without a package of its own."""
    source = "import torch\nif TYPE_CHECKING:\n    import numpy\ndef f():\n    import peft\n"
    tree = ast.parse(source)
    assert list(imports_of(ast.walk(tree))) == ["torch", "numpy", "peft"]
    assert list(imports_of(at_once(tree.body))) == ["torch"]
    assert way_to("torch", "checkpoint.pickle_file") == ["checkpoint.pickle_file", "torch"]
    assert way_to("numba", "kernels.lane_blocks") in (
        ["kernels.lane_blocks", "numba"],
        ["kernels.lane_blocks", "kernels.lane_common", "numba"],
    )
    inside: Mapping[str, str] = {
        "from quantkit.jobs.build import build": "jobs.build",
        "import quantkit.jobs.build": "jobs.build",
        "from quantkit.jobs import build": "jobs.build",
    }
    for line, module in inside.items():
        assert list(imports_of(ast.walk(ast.parse(line)))) == [module]
