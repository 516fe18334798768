"""Shows pictures to a model in llama.cpp through libmtmd, which turns a picture into rows like those of tokens.

As in :mod:`quantkit.ggml.llama`, the process must not have torch in it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import libmtmd, llama_cpp
from quantkit.ggml.llama_log import captured_log, receiver
from quantkit.run.inference import LoadedModel
from quantkit.run.load_log import failure_reason
from quantkit.system.processors import llama_threads


@dataclass(frozen=True)
class Picture:
    """A picture in memory: *width* times *height* pixels, three bytes each, row by row."""

    width: int
    height: int
    pixels: bytes


@dataclass(frozen=True)
class Shown:
    """A prompt with a picture, ready to be evaluated.

    Attributes:
        chunks: libmtmd's.
        tokens: how many places it takes in a context.
        seen: how many of them are the picture's.
    """

    chunks: Any
    tokens: int
    seen: int


class Eyes:
    """An open mmproj file beside its language model."""

    def __init__(self, handle: Any, mtmd: Any, model: LoadedModel) -> None:
        self._handle, self._mtmd, self._model = handle, mtmd, model

    @property
    def marker(self) -> str:
        """What stands for the picture in a prompt."""
        return str(self._mtmd.mtmd_default_marker().decode())

    def read(self, file: Path) -> Picture:
        """A picture from a file in a format that libmtmd reads, such as JPEG and PNG.

        Raises:
            QuantkitError: it is none.
        """
        mtmd = self._mtmd
        with captured_log():
            bitmap = mtmd.mtmd_helper_bitmap_init_from_file(self._handle, os.fsencode(file), False)
        if not bitmap:
            raise QuantkitError(f"{file}: not a picture that libmtmd can read", hint="give a JPEG or PNG file")
        try:
            width, height = int(mtmd.mtmd_bitmap_get_nx(bitmap)), int(mtmd.mtmd_bitmap_get_ny(bitmap))
            pixels = ctypes.string_at(mtmd.mtmd_bitmap_get_data(bitmap), int(mtmd.mtmd_bitmap_get_n_bytes(bitmap)))
        finally:
            mtmd.mtmd_bitmap_free(bitmap)
        if len(pixels) != 3 * width * height:  # a sound is a bitmap, too
            raise QuantkitError(f"{file}: not a picture", hint="give a JPEG or PNG file")
        return Picture(width, height, pixels)

    @contextmanager
    def show(self, prompt: str, picture: Picture) -> Iterator[Shown]:
        """Prepare a prompt that has :attr:`marker` once.

        Raises:
            QuantkitError: libmtmd cannot prepare it.
        """
        mtmd, pixels = self._mtmd, (ctypes.c_uint8 * len(picture.pixels)).from_buffer_copy(picture.pixels)
        bitmap = mtmd.mtmd_bitmap_init(picture.width, picture.height, pixels)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            data = prompt.encode()
            text = mtmd.mtmd_input_text(data, len(data), True, True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            with captured_log() as log:
                status = mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), bitmaps, 1)
            if status:
                reason = failure_reason(log.text) or f"status {status}"
                raise QuantkitError(f"{self._model.path}: libmtmd cannot prepare a picture: {reason}")
            kinds = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
            image = mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
            seen = sum(
                int(mtmd.mtmd_input_chunk_get_n_tokens(kind))
                for kind in kinds
                if mtmd.mtmd_input_chunk_get_type(kind) == image
            )
            yield Shown(chunks, int(mtmd.mtmd_helper_get_n_tokens(chunks)), seen)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def look(self, context: Any, shown: Shown) -> int:
        """Evaluate a prompt in an empty context, which then has the logits after its last token.

        Returns:
            The position of the next token.

        Raises:
            QuantkitError: llama.cpp cannot evaluate it.
        """
        place = llama_cpp.llama_pos(0)
        with captured_log() as log:
            status = self._mtmd.mtmd_helper_eval_chunks(
                *(self._handle, context, shown.chunks, 0, 0, shown.tokens, True, ctypes.byref(place))
            )
        if status:
            raise QuantkitError(
                f"{self._model.path}: llama.cpp cannot evaluate a picture: {failure_reason(log.text) or status}"
            )
        return int(place.value)


@contextmanager
def opened_eyes(mmproj: Path, model: LoadedModel, *, threads: int | None = None, exact: bool = False) -> Iterator[Eyes]:
    """Open an mmproj file beside its language model.

    Args:
        mmproj: the file.
        model: the language model.
        threads: CPU threads, None for the processors that are free.
        exact: without flash attention, which computes in half precision on some processors.

    Raises:
        GGUFError: libmtmd refuses the file, or it does not fit the model.
        QuantkitError: this llama-cpp-python has no libmtmd.
    """
    mtmd = libmtmd()
    mtmd.mtmd_helper_log_set(receiver(), ctypes.c_void_p(0))
    params = mtmd.mtmd_context_params_default()
    params.n_threads, params.print_timings, params.warmup = llama_threads(threads), False, False
    if exact:
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    with captured_log() as log:
        handle = mtmd.mtmd_init_from_file(os.fsencode(mmproj), model.handle, params)
    if handle is None:
        raise GGUFError(
            f"{mmproj}: llama.cpp cannot see with it: {failure_reason(log.text)}",
            hint=f"use the mmproj file that was built with {model.path.name}",
        )
    try:
        yield Eyes(handle, mtmd, model)
    finally:
        with captured_log():
            mtmd.mtmd_free(handle)
