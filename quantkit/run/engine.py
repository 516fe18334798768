"""The part of llama.cpp's C API that a conversation needs.

llama-cpp-python's ``Llama`` class is not used: it compiles the model's chat template on loading (untrusted text, which
only quantkit.chat_template.render may run), allocates the model's whole context by default (16 GB of cache for a
128k Llama), truncates long token texts and long metadata, and prints. The functions below are those of ``llama.h``.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import GGUFError, QuantkitError
from quantkit.ggml.llama import llama_cpp
from quantkit.ggml.llama_log import captured_log
from quantkit.ggml.llama_vocabulary import tokenize
from quantkit.ggml.long_texts import SHORT, LongTexts, long_texts, tokenize_long
from quantkit.gguf.lora import ScaledLora, check_loras
from quantkit.gguf.model import read_whole_model
from quantkit.run.interrupts import always, interrupts_deferred
from quantkit.run.lanes import Lanes
from quantkit.run.load_log import count_offloaded, failure_reason
from quantkit.run.loras import apply_loras, load_loras
from quantkit.run.prompt_cache import sequences
from quantkit.system.processors import MOST_THREADS, llama_threads
from quantkit.system.shell import command

# Tokens per call of llama_decode. Small on the CPU, where a long call would delay Ctrl-C for seconds.
_CHUNK_CPU, _CHUNK_GPU = 64, 512


class Engine:
    """A loaded model with one context. Close it to free its memory.

    Attributes:
        load_seconds: time to load, including the context.
        vocabulary: llama.cpp's.
        n_layers: transformer layers.
        n_ctx: tokens of context.
        n_ctx_train: tokens of context that the model was trained with.
        n_vocab: tokens in the vocabulary.
        n_embd: numbers of a hidden state.
        size: bytes of the weights.
        supports_offload: whether this build of llama.cpp can use a GPU.
        offloaded_layers: layers that llama.cpp put on a GPU; the output layer counts as one.
        n_threads: CPU threads of the context that was opened last.
        lanes: the context, for one answer at a time.
        loras: the LoRA files that were loaded.
        scales: of each of them, for answers that do not say otherwise; 0 leaves one out.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int,
        n_ctx: int | None,
        max_ctx: int,
        threads: int | None,
        only_vocabulary: bool = False,
        loras: Sequence[ScaledLora] = (),
    ) -> None:
        """Load *path*.

        Args:
            path: a GGUF file.
            n_gpu_layers: layers to put on the GPU, -1 for all; no effect in a build without GPU support.
            n_ctx: tokens of context, None for the model's own up to *max_ctx*.
            max_ctx: see n_ctx; no effect if that is given.
            threads: CPU threads, None for the processors that are free.
            only_vocabulary: load no weights and open no context.
            loras: LoRA files to compute with.

        Raises:
            GGUFError: no such file, not a valid GGUF model, or llama.cpp rejects it, with llama.cpp's reason.
            QuantkitError: not enough memory for the context, or a number out of range.
        """
        base = read_whole_model(path)  # llama.cpp aborts the process at some of the files that this rejects
        for name, value, most in (
            ("num_ctx", n_ctx, 2**31 - 1),
            ("max_ctx", max_ctx, 2**31 - 1),
            ("num_thread", threads, MOST_THREADS),
        ):
            if value is not None and not 1 <= value <= most:
                hint = f"pass --param {name}=N, or build the package with it"
                raise QuantkitError(f"{name} is {value}; it must be from 1 to {most}", hint=hint)
        check_loras(base, loras)
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # on an assertion llama.cpp would start a debugger
        self._stack, started = ExitStack(), time.perf_counter()
        try:
            with captured_log():  # the CUDA backend says what it found
                llama_cpp.llama_backend_init()
            self._model, log = self._load(path, n_gpu_layers, only_vocabulary)
            self.vocabulary = llama_cpp.llama_model_get_vocab(self._model)
            self.n_layers = int(llama_cpp.llama_model_n_layer(self._model))
            self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self.vocabulary))
            self.n_embd = int(llama_cpp.llama_model_n_embd(self._model))
            self.size = int(llama_cpp.llama_model_size(self._model))
            self.supports_offload = bool(llama_cpp.llama_supports_gpu_offload())
            self.offloaded_layers = count_offloaded(log)
            self.n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(self._model))
            self.n_ctx = n_ctx or min(self.n_ctx_train, max_ctx)
            self._chunk = _CHUNK_GPU if self.offloaded_layers else _CHUNK_CPU
            self._path, self._threads, self.loras = path, threads, tuple(loras)
            self.scales = tuple(lora.scale for lora in loras)
            if not only_vocabulary:
                self._loaded_loras = load_loras(self._model, loras)
                self.lanes = self.open_lanes(1)
        except BaseException:
            self._stack.close()
            raise
        self.load_seconds = time.perf_counter() - started

    def _load(self, path: Path, n_gpu_layers: int, only_vocabulary: bool) -> tuple[Any, str]:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers, params.vocab_only = n_gpu_layers, only_vocabulary
        with captured_log() as log, interrupts_deferred() as interrupted:
            go_on = llama_cpp.llama_progress_callback(lambda progress, data: not interrupted())
            params.progress_callback = go_on
            model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
            if model is not None:
                self._stack.callback(llama_cpp.llama_model_free, model)
        if model is None:
            raise GGUFError(
                f"{path}: llama.cpp cannot load it: {failure_reason(log.text)}",
                hint=f"see what is in it: {command('quantkit', 'inspect', path)}; or build or download it again",
            )
        return model, log.text

    def open_lanes(self, parallel: int) -> Lanes:
        """Open a context for so many answers at a time, each of which has :attr:`n_ctx` tokens.

        Raises:
            QuantkitError: not enough memory for it.
        """
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = parallel * self.n_ctx, sequences(parallel)
        # Cells for all sequences together, so that they can share what they have in common.
        params.kv_unified = parallel > 1
        room = min(params.n_ctx, max(self._chunk, parallel))
        params.n_batch = params.n_ubatch = room
        context = self._open(params)
        whole = llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model)
        return Lanes(
            context,
            parallel=parallel,
            room=room,
            whole=bool(whole),
            n_vocab=self.n_vocab,
            use=partial(self.use_loras, context),
        )

    def open_embedding_context(self) -> tuple[Any, int]:
        """Open a context that gives the hidden states of all tokens, for :attr:`n_ctx` of them.

        Returns:
            llama.cpp's handle, and how many tokens a step of it takes.

        Raises:
            QuantkitError: not enough memory for it.
        """
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.embeddings = self.n_ctx, True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        params.n_batch = params.n_ubatch = room = min(self.n_ctx, self._chunk)
        return self._open(params), int(room)

    def _open(self, params: Any) -> Any:
        self.n_threads = params.n_threads = params.n_threads_batch = llama_threads(self._threads)
        with captured_log() as log, interrupts_deferred():
            context = llama_cpp.llama_init_from_model(self._model, params)
            if context is not None:
                self._stack.callback(llama_cpp.llama_free, context)
        if context is None:
            raise QuantkitError(
                f"{self._path}: not enough memory for a context of {params.n_ctx} tokens: {failure_reason(log.text)}",
                hint="use a smaller context with --param num_ctx=N, or put fewer layers on the GPU with --n-gpu-layers",
            )
        self.use_loras(context, self.scales)
        return context

    def use_loras(self, context: Any, scales: Hashable) -> None:
        """Let a context compute with LoRA files from now on.

        Args:
            context: llama.cpp's.
            scales: of each of :attr:`loras`; 0 leaves one out.
        """
        if self._loaded_loras:
            assert isinstance(scales, tuple), "a lane says which adapters it is computed with"
            apply_loras(context, self._loaded_loras, scales)

    def close(self) -> None:
        """Free the memory. No other method may be called afterwards."""
        with captured_log():
            self._stack.close()

    # -- the file ----------------------------------------------------------------------------------------------------

    def metadata(self, key: str) -> str | None:
        """Return the value of a GGUF key as text, None if the file does not have the key."""
        name = key.encode()
        size = llama_cpp.llama_model_meta_val_str(self._model, name, ctypes.create_string_buffer(1), 1)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self._model, name, buffer, size + 1)
        return buffer.value.decode(errors="replace")

    def chat_template(self) -> str:
        """Return the chat template in the file, "" if there is none."""
        template = llama_cpp.llama_model_chat_template(self._model, None)
        return "" if template is None else template.decode(errors="replace")

    # -- the vocabulary ----------------------------------------------------------------------------------------------

    @property
    def bos(self) -> int | None:
        """The beginning-of-sequence token."""
        return _token(llama_cpp.llama_vocab_bos(self.vocabulary))

    @property
    def eos(self) -> int | None:
        """The end-of-sequence token."""
        return _token(llama_cpp.llama_vocab_eos(self.vocabulary))

    @property
    def gap_tokens(self) -> tuple[int, int, int] | None:
        """The tokens before a prefix, a suffix and the middle to be filled in; None if the model has none."""
        vocab = self.vocabulary
        found = (
            llama_cpp.llama_vocab_fim_pre(vocab),
            llama_cpp.llama_vocab_fim_suf(vocab),
            llama_cpp.llama_vocab_fim_mid(vocab),
        )
        return None if min(found) < 0 else (int(found[0]), int(found[1]), int(found[2]))

    @property
    def adds_bos(self) -> bool:
        """Whether the file says that prompts begin with BOS."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self.vocabulary))

    @property
    def adds_eos(self) -> bool:
        """Whether the file says that texts end with EOS."""
        return bool(llama_cpp.llama_vocab_get_add_eos(self.vocabulary))

    def tokenize(self, text: str, *, special: bool, add: bool = False) -> list[int]:
        """Return the tokens of *text*.

        Args:
            text: any text.
            special: whether texts of special tokens are parsed as these tokens.
            add: whether llama.cpp adds BOS, EOS and separators, as the file says.

        Raises:
            QuantkitError: the text is not valid Unicode.
        """
        return tokenize(self.vocabulary, text, special=special, add=add)

    def tokenize_prompt(self, prompt: str, go_on: Callable[[], bool] = always) -> list[int]:
        """The tokens of a prompt, as :meth:`tokenize` with special tokens, in time that grows with its length.

        Args:
            prompt: the prompt.
            go_on: called from time to time; False leaves out the rest.
        """
        return tokenize_long(lambda: self._long_texts, prompt, lambda text: self.tokenize(text, special=True), go_on)

    def least_tokens(self, prompt: str) -> int:
        """A number of tokens that a prompt has at least; 0 for a short one. Takes no time to speak of."""
        return 0 if len(prompt) <= SHORT else self._long_texts.least_tokens(prompt)

    @cached_property
    def _long_texts(self) -> LongTexts:
        return long_texts(self.vocabulary, self.metadata("tokenizer.ggml.model"))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of *token*; those of a control token only with *special*."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = int(llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, room, 0, special))
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def text(self, token: int) -> str:
        """Return *token* as the vocabulary stores it: plain text for special tokens, else byte-encoded."""
        return str(llama_cpp.llama_vocab_get_text(self.vocabulary, token).decode(errors="replace"))

    def is_eog(self, token: int) -> bool:
        """Whether llama.cpp ends an answer at *token*."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))

    def is_special(self, token: int) -> bool:
        """Whether *token* is a control token or an added token rather than a piece of plain text."""
        wanted = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        return bool(llama_cpp.llama_vocab_get_attr(self.vocabulary, token) & wanted)

    # -- the context -------------------------------------------------------------------------------------------------

    @property
    def context(self) -> Any:
        """llama.cpp's context of :attr:`lanes`."""
        return self.lanes.handle

    @property
    def evaluated(self) -> list[int]:
        """The tokens of the lane that was evaluated last."""
        return self.lanes.latest

    def logits(self) -> npt.NDArray[np.float32]:
        """Return the logits of the last evaluated token, float32, shape [n_vocab]; a copy.

        Raises:
            QuantkitError: nothing has been evaluated.
        """
        if not self.evaluated:
            raise QuantkitError("no token has been evaluated, so there are no logits")
        return self.lanes.logits()


def _token(token: int) -> int | None:
    return None if token < 0 else int(token)
