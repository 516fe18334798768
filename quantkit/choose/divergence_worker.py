"""The process that evaluates: it loads libllama, and never torch.

It reads questions from stdin, a line of JSON each, until stdin ends, and answers each with a line. The first file is
the reference, whose log-probabilities it keeps in a file. Then it tells the divergence from them: of the reference
itself, some of whose tensors are other ones now, or of another file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from quantkit.ggml.llama import begin, llama_cpp

# isort: split
from quantkit.choose.evaluator import Evaluator
from quantkit.errors import QuantkitError
from quantkit.system.child_process import end_with_parent


def main() -> None:
    """Answer questions until stdin ends."""
    end_with_parent()
    llama_cpp.llama_backend_init()
    first = json.loads(sys.stdin.readline() or "null")
    if first is None:
        return
    gpu_layers = -1 if first["offload"] and llama_cpp.llama_supports_gpu_offload() else 0
    evaluator = Evaluator(
        first["sequences"],
        first["skip"],
        Path(first["kept"]),
        threads=first["threads"],
        gpu_layers=gpu_layers,
        mapped=first["mapped"] and not gpu_layers,
    )
    if not _answer(evaluator, lambda: evaluator.open(Path(first["gguf"]))):
        return
    for line in sys.stdin:
        _answer(evaluator, partial(_about, evaluator, json.loads(line)))
    evaluator.close()


def _about(evaluator: Evaluator, question: Mapping[str, Any]) -> dict[str, Any]:
    if "changed" not in question:
        return {"divergence": evaluator.divergence(Path(question["gguf"]))}
    divergence, reloaded = evaluator.again(question["changed"])
    return {"divergence": divergence, "reloaded": reloaded}


def _answer(evaluator: Evaluator, ask: Callable[[], dict[str, Any] | None]) -> bool:
    evaluator.seconds = {}
    try:
        found: dict[str, Any] = {"answer": ask(), "seconds": evaluator.seconds}
    except QuantkitError as error:
        found = {"refused": str(error), "hint": error.hint}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    return "answer" in found


if __name__ == "__main__":
    begin()
    main()
