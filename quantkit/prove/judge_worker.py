"""The process that asks transformers, from inside: it loads torch, and never the other engine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.prove.judged import Judged
from quantkit.prove.sequences import TokenSequence
from quantkit.system.child_process import answer_module
from quantkit.system.memory import peak_memory


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Write the logits of ``judged`` for ``sequences`` to the file ``out``; without one, only see whether it can."""
    import torch

    from quantkit.prove.judge import check_known, write_logits

    if question["threads"]:
        torch.set_num_threads(question["threads"])
    judged = Judged.from_json(question["judged"])
    judged = replace(judged, device=_device(judged.device))
    if question["out"] is None:
        check_known(judged)
        return {}
    sequences = [TokenSequence.from_json(one) for one in question["sequences"]]
    by_layer = write_logits(judged, sequences, Path(question["out"]))
    return {"by_layer": by_layer, "device": judged.device, "memory": peak_memory()}


def _device(name: str) -> str:
    """The device for torch: CUDA if it can use one, unless another is asked for."""
    import torch

    there = torch.cuda.is_available()
    if name.startswith("cuda") and not there:
        raise QuantkitError(f"device {name!r}: this torch cannot use CUDA", hint="pass --device cpu")
    return ("cuda" if there else "cpu") if name == "auto" else name


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the folders
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    answer_module(answer)
