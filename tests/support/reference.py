"""llama.cpp's own converter and quantizer.

The converter runs in one process for the whole test session: importing it takes seconds, converting a tiny checkpoint
tenths of one. ``tests/parity/test_oracle.py`` checks that this changes nothing against a plain run of the script.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import gguf
import numpy as np

from tests.support.patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
_SERVER = Path(__file__).with_name("reference_server.py")


class ReferenceError(RuntimeError):
    """The reference refused, with its own words."""


@cache
def reference_folder() -> Path:
    """llama.cpp's converter, vocabularies and templates; fetched by ``scripts/reference`` on the first call."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "reference")], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise ReferenceError("scripts/reference failed; its messages are above")
    return Path(done.stdout.strip())


def reference_environment() -> dict[str, str]:
    """The environment of the converter: its own gguf package first, and no network."""
    return {
        **os.environ,
        "PYTHONPATH": str(reference_folder() / "gguf-py"),
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def reference_convert(model: Path, out: Path, outtype: str) -> Path:
    """One plain run of ``convert_hf_to_gguf.py``, as a user would start it."""
    command = [sys.executable, str(reference_folder() / "convert_hf_to_gguf.py"), str(model)]
    command += ["--outfile", str(out), "--outtype", outtype]
    done = subprocess.run(command, env=reference_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReferenceError(done.stderr)
    return out


class ReferenceConverter:
    """``convert_hf_to_gguf.py`` in a process of its own that takes one request after another."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait(timeout=PATIENCE)

    def convert(
        self,
        model: Path,
        out: Path,
        outtype: str,
        *,
        pre: str | None = None,
        vocab_only: bool = False,
        no_mtp: bool = False,
    ) -> Path:
        """Convert a checkpoint.

        Args:
            model: the Hugging Face folder.
            out: the GGUF file to write.
            outtype: ``f16``, ``bf16`` or ``f32``.
            pre: name of the pre-tokenizer, for vocabularies whose hash the converter does not know; None lets it
                find the name by itself.
            vocab_only: no tensors; the folder needs no weights then.
            no_mtp: its option of this name, without which it fails where layers for multi-token prediction are lost.

        Raises:
            ReferenceError: the converter failed; the message is its traceback.
        """
        options = ["vocab-only"] if vocab_only else []
        return self._ask(out, model=str(model), outtype=outtype, pre=pre, adapter=None, options=options, no_mtp=no_mtp)

    def convert_mmproj(self, model: Path, out: Path, outtype: str) -> Path:
        """The mmproj file of a checkpoint that also sees, otherwise as :meth:`convert`."""
        return self._ask(out, model=str(model), outtype=outtype, pre=None, adapter=None, options=["mmproj"])

    def convert_lora(self, model: Path, adapter: Path, out: Path, outtype: str) -> Path:
        """Convert a PEFT adapter of *model* with ``convert_lora_to_gguf.py``, otherwise as :meth:`convert`."""
        return self._ask(out, model=str(model), outtype=outtype, pre=None, adapter=str(adapter), options=[])

    def _ask(self, out: Path, **request: str | list[str] | None) -> Path:
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"out": str(out), **request}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise ReferenceError(f"the converter's process ended:\n{self._log.read_text(encoding='utf-8')[-4000:]}")
        if failure := json.loads(answer)["error"]:
            raise ReferenceError(failure)
        return out

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self._log.open("w", encoding="utf-8") as log:
                self._process = subprocess.Popen(
                    [sys.executable, str(_SERVER), str(reference_folder())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    env=reference_environment(),
                )
        return self._process


def reference_quantize(
    source: Path,
    out: Path,
    quant: str,
    *,
    imatrix: Mapping[str, np.ndarray] | None = None,
    pure: bool = False,
    leave_output: bool = False,
    output: str | None = None,
    embedding: str | None = None,
    tensors: Sequence[tuple[str, str]] = (),
    allow_requantize: bool = False,
    threads: int = 2,
) -> Path:
    """``llama_model_quantize`` as llama-quantize calls it.

    Args:
        source: a GGUF file, or the first part of a split one.
        out: the file to write.
        quant: ``q4_k_m``, ``f16``, ...: llama.cpp's name of a file type.
        imatrix: by tensor name, float32, one number a column.
        pure: one type for all tensors.
        leave_output: the output layer keeps its type.
        output: ggml type of the output layer, by its name in :class:`gguf.GGMLQuantizationType`.
        embedding: of the token embedding.
        tensors: (regular expression, type) of tensors by name.
        allow_requantize: encode again what is encoded already.
        threads: does not change the bytes.

    Raises:
        ReferenceError: llama.cpp refused; its reason is in the test's captured stderr.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    name = "ALL_F32" if quant == "f32" else f"MOSTLY_{quant.upper()}"
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{name}")
    params.nthread, params.pure, params.allow_requantize = threads, pure, allow_requantize
    params.quantize_output_tensor = not leave_output
    if output:
        params.output_tensor_type = gguf.GGMLQuantizationType[output]
    if embedding:
        params.token_embedding_type = gguf.GGMLQuantizationType[embedding]
    overrides = (llama_cpp.llama_model_tensor_override * (len(tensors) + 1))()  # closed by an empty entry
    for override, (pattern, kind) in zip(overrides, tensors, strict=False):
        override.pattern, override.type = pattern.encode(), gguf.GGMLQuantizationType[kind]
    if tensors:
        params.tt_overrides = overrides
    if imatrix:
        entries = (llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()  # closed by an empty entry
        kept = {key.encode(): np.ascontiguousarray(values, dtype=np.float32) for key, values in imatrix.items()}
        for entry, (key, values) in zip(entries, kept.items(), strict=False):
            entry.name, entry.size = key, values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params)):
        raise ReferenceError(f"llama_model_quantize refused {quant} for {source.name}")
    return out
