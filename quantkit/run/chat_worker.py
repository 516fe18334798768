"""The process that holds a model for :class:`quantkit.jobs.chat.Chat`: questions as lines of JSON in, pieces out.

The first line says what to load. It ends when nobody can ask it any more; Ctrl-C is for whoever asked.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import quantkit.errors
from quantkit.chat_template.answer_reader import Part, Text, Thought
from quantkit.errors import QuantkitError
from quantkit.ggml.llama import begin
from quantkit.gguf.lora import ScaledLora
from quantkit.package.built import open_package
from quantkit.run.asking import stream_answer
from quantkit.run.session import ChatModel
from quantkit.run.settings import (
    Settings,
    change,
    chat_settings,
    check_system,
    load_options,
    with_parameters,
    with_thinking,
)
from quantkit.system.child_process import end_with_parent


class Questions:
    """The lines of stdin, read in a thread, so that an answer can be stopped while it is made."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stopped = 0
        self._ended = False
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._waiting.get, None)

    def wanted(self, number: int) -> bool:
        """Whether somebody still waits for the answer to this question."""
        return self._stopped < number and not self._ended

    def _read(self, lines: Iterator[str]) -> None:
        for line in lines:
            message = json.loads(line)
            if "stop" in message:
                self._stopped = message["stop"]
            else:
                self._waiting.put(message)
        self._ended = True
        self._waiting.put(None)


def main() -> None:
    """Load the model, and answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with os.fdopen(os.dup(1), "w", encoding="ascii") as out:
        os.dup2(2, 1)  # what a library prints is no answer
        questions = Questions(iter(sys.stdin))
        first = next(iter(questions), None)
        if first is None:
            return
        try:
            _serve(first, questions, out)
        except QuantkitError as error:
            _write(out, refusal(error))


def refusal(error: QuantkitError) -> dict[str, str]:
    """An error as JSON: the nearest class of :mod:`quantkit.errors`, message and hint."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == quantkit.errors.__name__)
    return {"refused": kind.__name__, "message": str(error), "hint": error.hint}


def _serve(asked: Mapping[str, Any], questions: Questions, out: TextIO) -> None:
    package = with_parameters(open_package(Path(asked["path"])), map(tuple, asked["parameters"]))
    options = load_options(package.parameters, asked["n_gpu_layers"])
    loras = [*package.loras, *(ScaledLora(Path(path), scale) for path, scale in asked["loras"])]
    with ChatModel.load(package.gguf, **asdict(options), loras=loras) as model:
        settings = with_thinking(chat_settings(model, package), model, asked["thinking"])
        system = package.system if asked["system"] is None else asked["system"]
        check_system(model, system)
        _write(out, {"gguf": str(package.gguf), "system": system, "n_ctx": model.n_ctx})
        for question in questions:
            try:
                messages = _with_system(question["messages"], system)
                for part in _answer(model, settings, question, messages, questions):
                    if isinstance(part, Text | Thought):
                        _write(out, {"piece" if isinstance(part, Text) else "thought": part.text})
                assert model.last_stats is not None
                _write(out, {"stats": asdict(model.last_stats)})
            except QuantkitError as error:
                _write(out, refusal(error))


def _with_system(messages: Sequence[Mapping[str, str]], system: str | None) -> list[Mapping[str, str]]:
    """A conversation with the model's system prompt where it has none; an empty one stands for none at all."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages] if system else [*messages]
    return [*messages] if messages[0]["content"] else [*messages[1:]]


def _answer(
    model: ChatModel,
    settings: Settings,
    question: Mapping[str, Any],
    messages: Sequence[Mapping[str, str]],
    questions: Questions,
) -> Iterator[Part]:
    changed = settings
    for name, text in question["parameters"]:
        changed = change(changed, settings, name, text)
    return stream_answer(model, messages, changed, go_on=lambda: questions.wanted(question["number"]))


def _write(out: TextIO, reply: Mapping[str, Any]) -> None:
    out.write(json.dumps(reply) + "\n")
    out.flush()


if __name__ == "__main__":
    begin()
    main()
