"""``quantkit chat``: chat with a model, or let it answer a file of prompts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from quantkit.cli.main import EXIT_INTERRUPTED
from quantkit.cli.model_options import lora_option, model_threads_option, quant_option
from quantkit.cli.options import FOLDER, THINKING, json_option, pairs
from quantkit.cli.output import print_json, reporter
from quantkit.system.interrupts import ENDING

if TYPE_CHECKING:
    from quantkit.gguf.lora import ScaledLora
    from quantkit.run.batch import Prompt
    from quantkit.run.chat import ChatLoop
    from quantkit.run.session import ChatModel
    from quantkit.run.settings import Settings


@click.command(name="chat")
@click.argument("path", metavar="GGUF|DIR", type=FOLDER)
@quant_option
@click.option("--system", metavar="TEXT", help="System prompt (default: the one the folder was built with).")
@click.option(
    "--param", "parameters", multiple=True, callback=pairs, metavar="KEY=VALUE",
    help="Override a parameter of the folder, e.g. temperature=0.2 or num_ctx=4096. Repeatable; stop adds one.",
)  # fmt: skip
@click.option(
    "--n-gpu-layers",
    type=click.IntRange(min=-1),
    default=None,
    help="Layers to put on the GPU, 0 for none (default: num_gpu of the folder, else all).",
)
@model_threads_option
@lora_option("Chat with this LoRA file of llama.cpp beside the model; SCALE 0.5 for half of it.")
@click.option("--thinking", type=click.Choice(["on", "off"]), help=THINKING)
@click.option(
    "--no-history", is_flag=True, envvar="QUANTKIT_NO_HISTORY", show_envvar=True,
    help="Do not read or save the history of what you type.",
)  # fmt: skip
@click.option(
    "--data-file", type=FOLDER, metavar="FILE",
    help="Answer these prompts instead of chatting: one per line, or .jsonl with {\"prompt\"} or {\"messages\"}.",
)  # fmt: skip
@click.option(
    "--predictions-file", type=FOLDER, metavar="FILE", help="Write the answers here, one JSON object per line."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing --predictions-file.")
@json_option
def command(
    path: Path,
    quant: str | None,
    system: str | None,
    parameters: tuple[tuple[str, str], ...],
    n_gpu_layers: int | None,
    threads: int | None,
    loras: tuple[ScaledLora, ...],
    thinking: str | None,
    no_history: bool,
    data_file: Path | None,
    predictions_file: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Chat with a GGUF file or a built folder, offline.

    What a model thinks before it answers is shown dimmed, and its chat template decides what stays of it in the
    conversation.

    /help lists the commands. Ctrl-C stops an answer, Ctrl-D or /bye ends the chat. In a pipe, each line is one turn of
    the conversation.

    Temperature and other parameters come from --param, else from the folder, else from the GGUF file, else from
    llama.cpp's defaults (temperature 0.8, top_k 40, top_p 0.95, min_p 0.05).

    With --data-file each prompt is a separate conversation. To continue a stopped run, run the same command again.

    Example: quantkit chat my-model --param temperature=0.2
    """
    from quantkit.ggml.llama import begin

    begin()  # before anything that imports numpy
    from quantkit.errors import QuantkitError
    from quantkit.package.built import open_package
    from quantkit.run.batch import read_prompts
    from quantkit.run.chat import ChatLoop
    from quantkit.run.context_size import context_note
    from quantkit.run.screen import Screen
    from quantkit.run.session import ChatModel
    from quantkit.run.set_command import origins
    from quantkit.run.settings import chat_settings, load_options, with_parameters, with_thinking
    from quantkit.run.transcript import Conversation
    from quantkit.system.streams import begin_chat

    if (data_file is None) != (predictions_file is None):
        raise click.UsageError("--data-file and --predictions-file go together.")
    if data_file and predictions_file and os.path.realpath(predictions_file) == os.path.realpath(data_file):
        raise click.UsageError("--predictions-file and --data-file are the same file.")
    if data_file is None and (as_json or overwrite):
        raise click.UsageError("--json and --overwrite need --data-file.")
    if sys.stdout is None or (sys.stdin is None and data_file is None):  # the shell's >&- and <&-
        raise QuantkitError(
            "standard input or output is closed, and a chat needs both",
            hint="leave them open, or use --data-file FILE --predictions-file FILE, which needs no input",
        )
    opened = open_package(path, quant)
    package = with_parameters(opened, parameters)
    if system is None:
        system = package.system
    prompts = None if data_file is None else read_prompts(data_file, system)
    options = load_options(package.parameters, n_gpu_layers, threads)
    typed_in = begin_chat()
    screen = Screen(sys.stdout, sys.stderr, lively=data_file is None and sys.stdin.isatty())
    with screen.waiting(f"loading {package.gguf.name}"):
        model = ChatModel.load(package.gguf, **asdict(options), loras=(*package.loras, *loras))
    with model:
        if note := context_note(model.engine):
            screen.say(note)
        settings = with_thinking(chat_settings(model, package), model, thinking)
        if prompts is not None and predictions_file is not None:
            _answer_file(model, settings, prompts, predictions_file, overwrite=overwrite, as_json=as_json)
        else:
            given = {
                **{name: "--param" for name, _ in parameters},
                **({} if threads is None else {"num_thread": "--threads"}),
                **({} if n_gpu_layers is None else {"num_gpu": "--n-gpu-layers"}),
            }
            origin = origins(opened, model.engine.metadata, given)
            loop = ChatLoop(model, settings, Conversation(system=system), screen, origin)
            _talk(loop, typed_in, others=package.others, keep=not no_history)


def _talk(loop: ChatLoop, typed_in: str, *, others: Sequence[str], keep: bool) -> None:
    from quantkit.run.chat import opening
    from quantkit.run.completion import readline_completer
    from quantkit.run.history import History, history_path
    from quantkit.run.prompt_input import terminal_reader
    from quantkit.system.streams import piped_lines

    if sys.stdin.isatty():
        for number in ENDING:  # in other commands they act like Ctrl-C, which does not end a chat
            signal.signal(number, _leave)
        loop.screen.say(opening(loop.model, loop.conversation.system, others))
        loop.run_terminal(*terminal_reader(History(history_path() if keep else None), readline_completer))
    else:
        loop.run_lines(piped_lines(sys.stdin, typed_in))


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_INTERRUPTED)


def _answer_file(
    model: ChatModel, settings: Settings, prompts: list[Prompt], out: Path, *, overwrite: bool, as_json: bool
) -> None:
    from quantkit.run.batch import answer_prompts

    summary = answer_prompts(model, settings, prompts, out, overwrite=overwrite, reporter=reporter(as_json))
    if as_json:
        print_json(summary.to_json())
    else:
        rate = f", {summary.generated_tokens / summary.seconds:.1f} tokens/s" if summary.generated_tokens else ""
        click.echo(f"{out}  {summary.answers} answers, {summary.generated_tokens} tokens{rate}")
