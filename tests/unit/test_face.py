"""``import quantkit``: it costs nothing, has what it says, and functions are not hidden by packages of their name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import quantkit

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_costs_nothing() -> None:
    code = "import sys; before = set(sys.modules); import quantkit; dir(quantkit)"
    code += "; print(sorted(m for m in set(sys.modules) - before if m.startswith('quantkit')))"
    code += "; print([m for m in ('torch', 'numpy', 'transformers', 'click', 'llama_cpp') if m in sys.modules])"
    assert run(code) == "['quantkit']\n[]\n"


def test_a_chat_needs_no_torch() -> None:
    code = "import sys, quantkit; quantkit.Chat, quantkit.QuantkitError, quantkit.Reporter, quantkit.Report"
    assert run(f"{code}; print({{'torch', 'llama_cpp'}} & sys.modules.keys())") == "set()\n"


@pytest.mark.parametrize("name", quantkit.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(quantkit, name)
    assert name in dir(quantkit)
    if name != "__version__":
        assert value.__doc__
        assert value.__name__ == name


def test_all_errors_are_there() -> None:
    import quantkit.errors as errors

    assert {name for name in vars(errors) if name.endswith("Error")} <= {*quantkit.__all__}


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'quantkit' has no attribute 'biuld'"):
        quantkit.biuld  # noqa: B018
    assert not hasattr(quantkit, "__path_of_something__")


CLASHES = {"advise": "advice", "package": "spec", "plan": "values", "prove": "proof", "verify": "report"}


@pytest.mark.parametrize("first", ["function", "package"])
def test_functions_win_over_packages_of_their_name(first: str) -> None:
    """Whichever is imported first; and the packages are still imported by their paths."""
    packages = "; ".join(f"import quantkit.{name}.{inside}" for name, inside in CLASHES.items())
    functions = "; ".join(f"quantkit.{name}" for name in CLASHES)
    order = (packages, functions) if first == "package" else (functions, packages)
    lines = ["import quantkit, types", *order, "from quantkit import advise, package, plan, prove, verify"]
    lines += [f"from quantkit.{name} import {inside}" for name, inside in CLASHES.items()]
    names = [*CLASHES, *(f"quantkit.{name}" for name in CLASHES), *CLASHES.values()]
    lines.append(f"print(*(type(one).__name__ for one in ({', '.join(names)})))")
    assert run("\n".join(lines)).split() == ["function"] * 2 * len(CLASHES) + ["module"] * len(CLASHES)


def test_the_type_marker_is_there() -> None:
    assert (ROOT / "quantkit" / "py.typed").is_file()
