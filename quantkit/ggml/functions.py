"""llama.cpp's functions without llama-cpp-python's classes, for a process that needs nothing else.

The package imports both, and what the classes import (numpy, jinja2, diskcache) takes three quarters of its time. So
this module puts a package with only the functions in its place, for the whole process: import it before anything that
imports ``llama_cpp``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

_PACKAGE = "llama_cpp"


def _load() -> None:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or _PACKAGE in sys.modules:
        return
    package = sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        functions = importlib.import_module(f"{_PACKAGE}.llama_cpp")
    except (ImportError, OSError, RuntimeError):  # quantkit.ggml.llama imports the package, and says what is wrong
        del sys.modules[_PACKAGE]
        return
    vars(package).update({name: value for name, value in vars(functions).items() if not name.startswith("_")})


_load()
