"""The process that evaluates: it loads libllama, and never torch.

It reads questions from stdin, a line of JSON each, until stdin ends, and answers each with a line. The first file is
the reference, whose log-probabilities it keeps in a file; of every further one it tells the divergence from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from quantkit.ggml.llama import begin, llama_cpp

# isort: split
from quantkit.choose.evaluator import Evaluator
from quantkit.errors import QuantkitError


def main() -> None:
    """Answer questions until stdin ends."""
    llama_cpp.llama_backend_init()
    first = json.loads(sys.stdin.readline() or "null")
    if first is None:
        return
    gpu_layers = -1 if first["offload"] and llama_cpp.llama_supports_gpu_offload() else 0
    evaluator = Evaluator(first["sequences"], first["skip"], Path(first["kept"]), first["threads"], gpu_layers)
    _answer(partial(evaluator.reference, Path(first["gguf"])))
    for line in sys.stdin:
        gguf = Path(json.loads(line)["gguf"])
        _answer(partial(evaluator.divergence, gguf))


def _answer(ask: Callable[[], float | None]) -> None:
    try:
        found: dict[str, Any] = {"answer": ask()}
    except QuantkitError as error:
        found = {"refused": str(error), "hint": error.hint}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    begin()
    main()
