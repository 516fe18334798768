"""A model that answers: prompts from the file's own chat template, llama.cpp's tokens, text as it is generated.

quantkit builds the prompt itself instead of using llama-cpp-python's chat handlers, so that what is checked here (one
BOS, special tokens as single tokens, an end-of-turn token that ends the answer) is what every llama.cpp program does
with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from quantkit.chat_template.answer_format import AnswerFormat
from quantkit.chat_template.answers import THOUGHT, answer_format, as_template_reads
from quantkit.chat_template.format import FORMAT_NAMES, render_jinja
from quantkit.chat_template.render import Message
from quantkit.errors import ChatFormatError
from quantkit.gguf.lora import ScaledLora
from quantkit.package.spec import DEFAULT_CONTEXT
from quantkit.run.answer import Answer, AnswerOptions, PreparedOptions, alone, prepared
from quantkit.run.context_size import context_full
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.interrupts import always
from quantkit.run.options import SamplingOptions
from quantkit.run.placement import offload_figure
from quantkit.system.overlap import common_start

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from quantkit.run.engine import Engine

Messages = Sequence[Message]


class ChatModel:
    """A GGUF file, loaded without messages and ready to answer. A context manager; not thread-safe.

    Attributes:
        path: the file.
        load_seconds: time to load.
        n_layers: transformer layers.
        offloaded_layers: layers that are really on a GPU; the output layer counts as one.
        supports_offload: whether this build of llama.cpp can use a GPU.
        n_ctx: tokens of context.
        chat_template: the Jinja template in the file, "" if there is none.
        bos_token: text of the beginning-of-sequence token, "" if there is none.
        eos_token: text of the end-of-sequence token, "" if there is none.
        last_stats: statistics of the last answer; None before the first. Also set when the answer was interrupted.
    """

    def __init__(self, path: Path, engine: Engine) -> None:
        """Wrap a loaded engine; callers use :meth:`load`."""
        self.path = path
        self.engine = engine
        self.load_seconds = engine.load_seconds
        self.n_layers = engine.n_layers
        self.offloaded_layers = engine.offloaded_layers
        self.supports_offload = engine.supports_offload
        self.n_ctx = engine.n_ctx
        self.chat_template = engine.chat_template()
        self.bos_token = "" if engine.bos is None else engine.text(engine.bos)
        self.eos_token = "" if engine.eos is None else engine.text(engine.eos)
        self.last_stats: GenerationStats | None = None

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        n_gpu_layers: int = -1,
        n_ctx: int | None = None,
        max_ctx: int = DEFAULT_CONTEXT,
        threads: int | None = None,
        only_vocabulary: bool = False,
        loras: Sequence[ScaledLora] = (),
    ) -> ChatModel:
        """Load a GGUF file; llama.cpp's messages are captured and used in errors.

        Args:
            path: the file.
            n_gpu_layers: layers to put on the GPU, -1 for all; no effect in a build without GPU support.
            n_ctx: tokens of context, None for the model's own up to *max_ctx*.
            max_ctx: see n_ctx; no effect if that is given.
            threads: CPU threads, None for the processors that are free.
            only_vocabulary: see :class:`~quantkit.run.engine.Engine`.
            loras: LoRA files that belong to the model.

        Raises:
            GGUFError: no such file, not a GGUF file, or llama.cpp rejects it.
            QuantkitError: not enough memory for the context, or a number out of range.
        """
        from quantkit.run.engine import Engine

        engine = Engine(
            path,
            n_gpu_layers=n_gpu_layers,
            n_ctx=n_ctx,
            max_ctx=max_ctx,
            threads=threads,
            only_vocabulary=only_vocabulary,
            loras=loras,
        )
        return cls(path, engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory."""
        self.engine.close()

    @property
    def offload_figure(self) -> str:
        """The layers on a GPU, such as "33/33" or "0/33 (CPU build)"; the output layer counts as one."""
        return offload_figure(self.offloaded_layers, self.n_layers + 1, supported=self.supports_offload)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return llama.cpp's tokens of *text*, with nothing added; with *special*, special tokens are parsed."""
        return self.engine.tokenize(text, special=special)

    def is_eog(self, token: int) -> bool:
        """Whether llama.cpp ends an answer at *token*."""
        return self.engine.is_eog(token)

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Token text -> id, for the whole vocabulary; the first id of equal texts."""
        ids: dict[str, int] = {}
        for token in range(self.engine.n_vocab):
            ids.setdefault(self.engine.text(token), token)
        return ids

    @cached_property
    def answers(self) -> AnswerFormat:
        """How the chat template lets the model answer: thoughts, calls of tools."""
        self.require_template()
        return answer_format(self.chat_template, bos_token=self.bos_token, eos_token=self.eos_token)

    @cached_property
    def marker_tokens(self) -> frozenset[int]:
        """The control tokens that separate the parts of an answer."""
        found = (self.tokenize(marker) for marker in self.answers.markers)
        return frozenset(token for tokens in found for token in tokens if self.engine.is_special(token))

    def render(
        self, messages: Messages, *, add_generation_prompt: bool = True, told: Mapping[str, Any] | None = None
    ) -> str:
        """Render the prompt of a conversation with the file's chat template.

        Args:
            messages: the conversation; answers may have ``reasoning_content`` and ``tool_calls``, as OpenAI's do.
            add_generation_prompt: whether the prompt asks for an answer.
            told: further variables of the template, such as ``enable_thinking`` or ``tools``.

        Raises:
            ChatFormatError: the file has no chat template, or the template rejects the conversation.
        """
        self.require_template()
        if any(THOUGHT in message or "tool_calls" in message or message["role"] == "tool" for message in messages):
            messages = as_template_reads(messages, self.answers)
        return render_jinja(
            self.chat_template,
            messages,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
            add_generation_prompt=add_generation_prompt,
            told=told,
        )

    def opening(self, messages: Messages, told: Mapping[str, Any] | None = None) -> str:
        """What a prompt writes of the answer already, such as the marker that begins a thought.

        Raises:
            ChatFormatError: as :meth:`render`.
        """
        asked, ended = (self.render(messages, add_generation_prompt=asks, told=told) for asks in (True, False))
        return asked[len(common_start(asked, ended)) :]

    def require_template(self) -> None:
        """Check that the file has a chat template.

        Raises:
            ChatFormatError: it has none.
        """
        if not self.chat_template:
            raise ChatFormatError(
                f"{self.path}: the file has no chat template, so the model's prompt format is unknown",
                hint=f"build it with the format it was trained on: --template NAME, one of {', '.join(FORMAT_NAMES)}",
            )

    def prompt_tokens(self, messages: Messages, told: Mapping[str, Any] | None = None) -> list[int]:
        """Return the tokens of a prompt, with BOS first if the file asks for it and the template did not write it.

        Raises:
            ChatFormatError: as :meth:`render`.
        """
        return self.text_tokens(self.render(messages, told=told))

    def prompt_size(self, messages: Messages, told: Mapping[str, Any] | None = None) -> int:
        """Return the number of tokens of a prompt; of one that is too long for the context, a lower bound."""
        prompt = self.render(messages, told=told)
        least = self.engine.least_tokens(prompt)
        return least if least > self.n_ctx else len(self.text_tokens(prompt))

    def text_tokens(self, prompt: str, go_on: Callable[[], bool] = always) -> list[int]:
        """The tokens of a rendered prompt, with BOS as in :meth:`prompt_tokens`; *go_on* ends it early."""
        tokens, bos = self.engine.tokenize_prompt(prompt, go_on), self.engine.bos
        if self.engine.adds_bos and bos is not None and tokens[:1] != [bos]:
            return [bos, *tokens]
        return tokens

    def leading_bos(self, tokens: Sequence[int]) -> int:
        """Return the number of BOS tokens that a prompt begins with.

        Only these matter: some templates begin every turn with BOS, and in some models BOS also ends a turn.
        """
        return next((i for i, token in enumerate(tokens) if token != self.engine.bos), len(tokens))

    def prompt_logits(self, messages: Messages) -> npt.NDArray[np.float32]:
        """Return the logits of the first token of the answer, float32, shape [n_vocab]."""
        lanes = self.engine.lanes
        lane = lanes.begin(self._that_fits(self.prompt_tokens(messages)), kind=self.engine.scales)
        try:
            while lane.pending:
                lanes.step([lane])
            return lanes.logits()
        finally:
            lanes.end(lane)

    def stream(self, messages: Messages, **options: Unpack[AnswerOptions]) -> Iterator[str]:
        """Answer a conversation piece by piece.

        The pieces are whole characters: a Chinese character or emoji that is split into several tokens is yielded when
        it is complete. Control tokens are left out, but for those that are asked for. Tokens that are already in the
        context are not evaluated again, unless there is a seed: a reused prefix was evaluated in other batches, so the
        answer would depend on what came before. :attr:`last_stats` is set when the answer ends.

        Args:
            messages: the conversation; the last message is the user's.
            **options: how to answer; greedy by default.

        Raises:
            ChatFormatError: as :meth:`render`.
            ContextFullError: the conversation does not fit into the context.
        """
        answer = self.prepare(messages, **options)
        try:
            yield from alone(answer.steps(self.engine.lanes))
        finally:
            self.last_stats = answer.stats

    def prepare(
        self, messages: Messages, *, told: Mapping[str, Any] | None = None, **options: Unpack[PreparedOptions]
    ) -> Answer:
        """Prepare what :meth:`stream` answers: nothing is evaluated, so this may happen while the model is working."""
        prompt = self.fitting_tokens(self.render(messages, told=told), options.get("go_on", always))
        return self.prepare_tokens(prompt, **options)

    def prepare_tokens(self, prompt: list[int], **options: Unpack[PreparedOptions]) -> Answer:
        """Prepare an answer that continues the tokens of a prompt.

        Raises:
            ContextFullError: they do not fit into the context.
        """
        return prepared(self.engine, self._that_fits(prompt), **options)

    def fitting_tokens(self, prompt: str, go_on: Callable[[], bool] = always) -> list[int]:
        """:meth:`text_tokens` of a prompt that may be far too long, which is refused before it takes any time.

        Raises:
            ContextFullError: it cannot fit into the context.
        """
        if (least := self.engine.least_tokens(prompt)) > self.n_ctx:
            raise context_full(self.engine, least, least=True)
        return self.text_tokens(prompt, go_on)

    def answer(
        self, messages: Messages, *, max_tokens: int, stops: Sequence[str] = (), **sampling: Unpack[SamplingOptions]
    ) -> str:
        """Return the whole answer; otherwise as :meth:`stream`."""
        return "".join(self.stream(messages, max_tokens=max_tokens, stops=stops, **sampling))

    def _that_fits(self, prompt: list[int]) -> list[int]:
        if len(prompt) >= self.n_ctx:
            raise context_full(self.engine, len(prompt))
        return prompt
