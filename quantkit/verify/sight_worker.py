"""The process that shows a model two pictures, from inside; :mod:`quantkit.verify.sight` starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.ggml.llama import begin, llama_cpp
from quantkit.run.eyes import Eyes, Picture, opened_eyes
from quantkit.run.inference import LoadedModel, Token, context_params, decode, forget, loaded_model, opened_context
from quantkit.system.child_process import answer_module

_SIDE = 224
_ANSWERED = 16
_PROMPT = "What is in this picture? {}\nIn the picture there is"
_HINT = "close other programs, or build without --mmproj"


def look(question: dict[str, Any]) -> dict[str, Any]:
    """Answer with the values of :class:`~quantkit.verify.sight.Looked`."""
    threads = question["threads"]
    with (
        loaded_model(Path(question["gguf"]), n_gpu_layers=-1) as model,
        opened_eyes(Path(question["mmproj"]), model, threads=threads) as eyes,
    ):
        import numpy as np  # after llama.cpp

        picture = _stripes() if question["image"] is None else eyes.read(Path(question["image"]))
        black = Picture(picture.width, picture.height, bytes(len(picture.pixels)))
        first, tokens, answer = _shown(model, eyes, picture, threads)
        second, _, _ = _shown(model, eyes, black, threads)
        finite = bool(np.isfinite(first).all() and np.isfinite(second).all())
        moved = float(np.abs(first - second).max() / max(float(np.abs(first).max()), 1e-30)) if finite else 0.0
        return {"tokens": tokens, "finite": finite, "moved": moved, "answer": answer}


def _stripes() -> Picture:
    """A picture with red, green and blue stripes that grow brighter."""
    row = b"".join(bytes(level if x // 16 % 3 == color else 0 for color in range(3)) for x, level in _levels())
    return Picture(_SIDE, _SIDE, row * _SIDE)


def _levels() -> list[tuple[int, int]]:
    return [(x, 64 + 191 * x // _SIDE) for x in range(_SIDE)]


def _shown(model: LoadedModel, eyes: Eyes, picture: Picture, threads: int | None) -> tuple[Any, int, str]:
    """The logits after the prompt with a picture, the places that it takes, and how the model goes on."""
    import numpy as np

    vocabulary = llama_cpp.llama_model_get_vocab(model.handle)
    with eyes.show(_PROMPT.format(eyes.marker), picture) as shown:
        params = context_params(shown.tokens + _ANSWERED, threads)
        with opened_context(model, params, _HINT) as (context, _):
            place = eyes.look(context, shown)
            logits = _logits(context, model)
            first, pieces = logits.copy(), []
            for step in range(_ANSWERED):
                token = int(np.argmax(logits))
                if llama_cpp.llama_vocab_is_eog(vocabulary, token):
                    break
                pieces.append(_piece(vocabulary, token))
                if decode(context, [Token(token, place + step, 0, True)])[0]:
                    break
                logits = _logits(context, model)
            forget(context)
        return first, shown.seen, b"".join(pieces).decode(errors="replace")


def _logits(context: Any, model: LoadedModel) -> Any:
    import numpy as np

    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), shape=(model.vocabulary,))


def _piece(vocabulary: Any, token: int) -> bytes:
    import ctypes

    room = ctypes.create_string_buffer(256)
    size = int(llama_cpp.llama_token_to_piece(vocabulary, token, room, len(room), 0, False))
    return room.raw[: max(size, 0)]


if __name__ == "__main__":
    begin()
    answer_module(look)
