"""llama.cpp's logits after a prompt with a picture, from a process of its own (no torch in it)."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def picture_logits(gguf: Path, mmproj: Path, prompt: str, picture: dict[str, Any], out: Path) -> dict[str, Any]:
    """Ask the process.

    Args:
        gguf: the language model.
        mmproj: its vision part.
        prompt: with ``<__media__>`` where the picture is.
        picture: width, height, and the path of a file with the pixels.
        out: a file for the logits after the last token.

    Returns:
        ``parts``: the ids of each text, and the number of tokens of each picture.
    """
    question = {"gguf": str(gguf), "mmproj": str(mmproj), "prompt": prompt, "picture": picture, "out": str(out)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.picture_logits", json.dumps(question)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from quantkit.ggml.llama import llama_cpp
    from quantkit.run.eyes import Picture, opened_eyes
    from quantkit.run.inference import context_params, loaded_model, opened_context

    picture = question["picture"]
    pixels = Path(picture["file"]).read_bytes()
    with (
        loaded_model(Path(question["gguf"]), n_gpu_layers=0) as model,
        opened_eyes(Path(question["mmproj"]), model, threads=1, exact=True) as eyes,
        eyes.show(question["prompt"], Picture(picture["width"], picture["height"], pixels)) as shown,
    ):
        params = context_params(max(shown.tokens, 64), 1)
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with opened_context(model, params, "") as (context, _):
            eyes.look(context, shown)
            logits = llama_cpp.llama_get_logits_ith(context, -1)
            import numpy as np

            np.save(question["out"], np.ctypeslib.as_array(logits, shape=(model.vocabulary,)))
        return {"parts": list(_parts(shown.chunks))}


def _parts(chunks: Any) -> Iterator[list[int] | int]:
    """The ids of each text, and the number of tokens of each picture."""
    from llama_cpp import mtmd_cpp

    for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
        chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, i)
        count = ctypes.c_size_t()
        if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
            ids = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            yield ids[: count.value]
        else:
            yield int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
