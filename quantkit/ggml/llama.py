"""The one way into llama.cpp: the first import of every process that loads libllama.

``llama_cpp`` must be imported before numpy. With some builds (a CUDA build of llama-cpp-python next to numpy's own C++
runtime) a libllama that is loaded after numpy crashes when it loads a model. And torch must never be there: with other
builds, whichever of the two is loaded second crashes. Everything takes ``llama_cpp`` from here, and the processes begin
with :func:`begin`; tests hold both.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from typing import Any

from quantkit.errors import QuantkitError

try:
    import llama_cpp
except (ImportError, OSError, RuntimeError) as error:  # also libraries that it needs
    raise QuantkitError(
        f"llama-cpp-python does not load: {error}",
        hint="quantkit doctor; pip install --force-reinstall --no-cache-dir llama-cpp-python",
    ) from None

__all__ = ["begin", "computing", "libmtmd", "llama_cpp"]


def begin() -> None:
    """Begin a process that loads libllama: from here on, a crash says in which call it happened."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no stderr, or one without a file
        faulthandler.enable(sys.stderr)


def computing() -> str:
    """What llama.cpp computes with here: the processor's features that it uses, and its devices' backends."""
    llama_cpp.llama_backend_init()
    return str(llama_cpp.llama_print_system_info().decode(errors="replace"))


def libmtmd() -> Any:
    """The module of the library through which llama.cpp sees pictures.

    Raises:
        QuantkitError: this llama-cpp-python has none.
    """
    try:
        from llama_cpp import mtmd_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise QuantkitError(
            f"this llama-cpp-python cannot show pictures: {error}", hint="pip install --upgrade llama-cpp-python"
        ) from None
    return mtmd_cpp
