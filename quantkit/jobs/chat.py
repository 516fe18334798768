"""A model that answers, for Python: the model runs in a process of its own.

Some builds of torch and llama.cpp crash each other in one process, and a build in this process has imported torch. So
llama.cpp never runs in the caller's process, whatever that has imported; if it crashes, that is an error here.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import quantkit.errors
from quantkit.errors import QuantkitError
from quantkit.jobs.argument_kinds import LORAS, PARAMETERS, TEXT
from quantkit.jobs.arguments import LorasInput, ParametersInput, PathInput, read_choice, read_path
from quantkit.run.generation_stats import GenerationStats
from quantkit.run.transcript import check_messages
from quantkit.system.child_process import ended_how, start_module
from quantkit.system.temporary import temporary_root

_LEAVES = 5.0  # seconds that the process may take to end by itself


class Chat:
    """A GGUF file or a package, loaded and ready to answer. A context manager; not for several threads at once.

    Each question is a conversation of its own: nothing is remembered but what *messages* says.

    ::

        with quantkit.Chat("my-model") as chat:
            print(chat.answer("Who are you?"))

    Attributes:
        gguf: the model file.
        system: the system prompt of conversations that have none.
        n_ctx: tokens of context.
        last_stats: how the last answer went, None before the first; also of an answer that was not read to its end.
        last_thought: what the model thought before it, "" for nothing.
    """

    def __init__(
        self,
        path: PathInput,
        *,
        system: str | None = None,
        parameters: ParametersInput = (),
        n_gpu_layers: int | None = None,
        thinking: str | None = None,
        loras: LorasInput = (),
    ) -> None:
        """Start the process and load the model.

        Args:
            path: a .gguf file, or a folder made by ``build``, of which it is the first model.
            system: system prompt; None for the package's, "" for none.
            parameters: in place of the package's, such as ``{"temperature": 0.2, "num_ctx": 4096}``; ``stop`` adds one.
            n_gpu_layers: layers to put on the GPU, -1 for all; None for the package's ``num_gpu``, else all.
            thinking: ``on`` or ``off``, for a chat template that has the choice; None leaves it to the template.
            loras: LoRA files of llama.cpp that belong to the model; with a scale as (path, scale).

        Raises:
            QuantkitError: the path or an argument is not what it should be, or the model cannot be loaded.
        """
        folder = read_path("path", path)
        if n_gpu_layers is not None and (not isinstance(n_gpu_layers, int) or isinstance(n_gpu_layers, bool)):
            raise QuantkitError(
                f"n_gpu_layers is {n_gpu_layers!r}; expected a whole number", hint="write it as n_gpu_layers=-1"
            )
        question = {
            "path": str(folder),
            "system": None if system is None else TEXT.read("system", system),
            "parameters": PARAMETERS.read("parameters", parameters),
            "n_gpu_layers": n_gpu_layers,
            "loras": [(str(lora.path), lora.scale) for lora in LORAS.read("loras", loras)],
            "thinking": None if thinking is None else read_choice("thinking", thinking, ("on", "off")),
        }
        self._path = folder
        self._number = 0
        self._answering = False
        self._log = tempfile.TemporaryFile(dir=temporary_root())  # noqa: SIM115  closed with the process
        self._process = start_module("quantkit.run.chat_worker", stderr=self._log)
        self._end = weakref.finalize(self, _end, self._process, self._log)
        self.last_stats: GenerationStats | None = None
        self.last_thought = ""
        try:
            self._send(question)
            loaded = self._receive()
            _raise_refused(loaded)
        except BaseException:
            self.close()
            raise
        self.gguf = Path(loaded["gguf"])
        self.system: str | None = loaded["system"]
        self.n_ctx: int = loaded["n_ctx"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and free the model's memory."""
        self._end()

    def answer(self, messages: str | Sequence[Mapping[str, str]], *, parameters: ParametersInput = ()) -> str:
        """The whole answer.

        Args:
            messages: a question; or a conversation as a list of ``{"role": ..., "content": ...}``: user and assistant
                in turn, the user last, with a system message before them if it is not to be the model's.
            parameters: of this answer, in place of the model's, such as ``{"temperature": 0, "num_predict": 100}``.

        Raises:
            QuantkitError: it is not a conversation or not a parameter, or the process ended.
            ContextFullError: the conversation does not fit into the context.
        """
        return "".join(self.stream(messages, parameters=parameters))

    def stream(self, messages: str | Sequence[Mapping[str, str]], *, parameters: ParametersInput = ()) -> Iterator[str]:
        """The answer piece by piece, as it is generated. Who stops reading stops the model too.

        Args:
            messages, parameters: as in :meth:`answer`.

        Raises:
            QuantkitError: as :meth:`answer`.
        """
        talk = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        checked = check_messages(list(talk) if isinstance(talk, tuple) else talk, where="the conversation", last="user")
        return self._stream({"messages": checked, "parameters": PARAMETERS.read("parameters", parameters)})

    def _stream(self, question: dict[str, Any]) -> Iterator[str]:
        if not self._end.alive:
            raise QuantkitError(f"{self._path}: the model is closed", hint="open it again: quantkit.Chat(...)")
        if self._answering:
            raise QuantkitError(
                "the last answer is still being read",
                hint="read it to its end, or close() it, before you ask again",
            )
        self._number += 1
        self._answering = True
        self.last_thought = ""
        reply: dict[str, Any] = {"piece": ""}
        try:
            self._send({**question, "number": self._number})
            while _is_part(reply := self._receive()):
                self.last_thought += reply.get("thought", "")
                if "piece" in reply:
                    yield reply["piece"]
            _raise_refused(reply)
        finally:
            if self._end.alive and _is_part(reply):  # the reader went away
                self._send({"stop": self._number})
                while _is_part(reply):
                    reply = self._receive()
            self._answering = False
            if "stats" in reply:
                self.last_stats = GenerationStats(**reply["stats"])

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended: there is no answer then
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            reply: dict[str, Any] = json.loads(line)
            return reply
        how = ended_how(self._process.wait())
        self._log.seek(0)
        *_, said = self._log.read().decode(errors="replace").strip()[-500:].split("\n")
        self.close()
        raise QuantkitError(
            f"{self._path}: the process that runs the model ended with {how}: {said or 'it said nothing'}",
            hint='open it again, with less memory if that was short: parameters={"num_ctx": 2048}',
        )


def _is_part(reply: Mapping[str, Any]) -> bool:
    return "piece" in reply or "thought" in reply


def _raise_refused(reply: Mapping[str, Any]) -> None:
    if "refused" in reply:
        kind: type[QuantkitError] = getattr(quantkit.errors, reply["refused"])
        raise kind(reply["message"], hint=reply["hint"])


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """End the process, at once if it does not end by itself."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_LEAVES)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(OSError), process:  # closes the pipes and waits
        log.close()
