"""The command line: a command parses, calls one function and prints.

Each command is one module with a ``click.Command`` named ``command``, imported when it runs: ``--help`` of the group
must not import torch. :func:`main` is quantkit's only error boundary.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from quantkit import __version__
from quantkit.errors import QuantkitError, VerificationError
from quantkit.system.did_you_mean import did_you_mean
from quantkit.system.interrupts import ends_cleanly
from quantkit.system.out_of_memory import HINT, is_out_of_memory
from quantkit.system.streams import replace_unknown
from quantkit.system.terminal_text import one_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EXIT_ERROR = 1
EXIT_UNVERIFIED = 3
EXIT_INTERRUPTED = 130
_SHOWN = 200  # characters of a file's name

# Set by the scripts of `quantkit completion`, when a shell asks for completions.
COMPLETE_VARIABLE = "_QUANTKIT_COMPLETE"

# In the order in which a user needs them. The help lines are here so that the list needs no imports.
COMMANDS: dict[str, str] = {
    "build": "Merge, convert, quantize, package and check in one pass.",
    "farm": "Build many recipes on a Ray cluster, or on this machine.",
    "merge": "Merge adapters into a Hugging Face checkpoint.",
    "extract": "Make a LoRA adapter from the difference between two checkpoints.",
    "convert": "Convert a checkpoint (and its adapters) to one GGUF file.",
    "quantize": "Quantize a GGUF file to one type.",
    "edit": "Change metadata of a GGUF file, such as its chat template.",
    "imatrix": "Compute the importance matrix of a model from a text or conversations.",
    "package": "Write Modelfile, chat scripts, card and manifest for GGUF files.",
    "smoke": "Check that a GGUF file loads, answers and stops.",
    "verify": "Check a built package: files, weights, prompts token by token, an answer.",
    "prove": "Compare a built package's logits with transformers' own model.",
    "evaluate": "Measure how good quantized files are, against the unquantized one.",
    "report": "Show a built package in the browser: figures, plots, answers, checks.",
    "advise": "Show which types of a model this machine can run, and which one to take.",
    "inspect": "Show what is in a checkpoint, an adapter, a GGUF file or a package.",
    "chat": "Chat with a GGUF file or a built folder, offline.",
    "serve": "Serve an OpenAI-compatible API and a chat page for the browser.",
    "ollama": "Import a built model into Ollama, and test it with one question.",
    "push": "Push a built package to Hugging Face, ModelScope or Ollama's registry.",
    "demo": "Build the embedded model and talk to it.",
    "doctor": "Check this machine: libraries, GPU, Ollama, disk, memory.",
    "completion": "Print the completion script for a shell.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"quantkit.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "help":  # quantkit help build
            args = [*args[1:], "--help"]
        if args[0] == "--help":
            click.echo(ctx.get_help())
            ctx.exit()
        if args[0] not in COMMANDS:
            meant = did_you_mean(args[0], COMMANDS)
            ctx.fail(f"there is no command {args[0]!r}" + f"; {meant}" * bool(meant))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="quantkit")
def cli() -> None:
    """From a fine-tuned Llama-style model to files that chat on a laptop, offline, in one pass."""


def entry() -> NoReturn:
    """The ``quantkit`` program: run :func:`main`, then exit at once.

    A normal exit would spend 0.4 s on freeing torch and a vocabulary; mypy exits the same way.
    """
    code = EXIT_INTERRUPTED
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C while the first is cleaned up or reported
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the result is decided
    with contextlib.suppress(OSError):  # failures to print have already been reported
        _flush()
    os._exit(code)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code (0, 1, 2, 3 or 130)."""
    # A vocabulary is hundreds of thousands of small objects; looking for cycles among them costs as much as reading it.
    threshold = gc.get_threshold()
    gc.set_threshold(1_000_000)
    try:
        with ends_cleanly():
            sys.exit(_run(args))
    finally:
        gc.set_threshold(*threshold)


def _run(args: list[str] | None) -> int:
    """Run a command and turn its exceptions into a message and an exit code."""
    if COMPLETE_VARIABLE in os.environ:
        importlib.import_module("quantkit.cli.completion")  # which adds PowerShell to click's shells
    replace_unknown()
    color = False if os.environ.get("NO_COLOR") else None  # None: in a terminal; see no-color.org
    try:
        # Without standalone mode, click returns the code of ctx.exit() and raises everything else.
        code = cli.main(
            args=args, prog_name="quantkit", complete_var=COMPLETE_VARIABLE, standalone_mode=False, color=color
        )
        _flush()
    except QuantkitError as error:
        return _report(str(error), error.hint, _exit_code(error))
    except (click.exceptions.Abort, KeyboardInterrupt):
        _say("interrupted")
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _report(error.format_message(), _usage_hint(error), error.exit_code)
    except UnicodeEncodeError as error:  # only names of files: what is printed is replaced
        name = str(error.object)[-_SHOWN:]
        return _report(f"the name {name!r} cannot be written in {error.encoding}", "set PYTHONUTF8=1", EXIT_ERROR)
    except BrokenPipeError:
        # The reader of the output has closed it (`| head`): stop quietly, as other tools do.
        _drop_stdout()
        return EXIT_ERROR
    except (MemoryError, OSError, ImportError, RuntimeError, SystemError) as error:
        if is_out_of_memory(error):
            return _report("not enough memory", HINT, EXIT_ERROR)
        if not isinstance(error, OSError):
            raise
        if error.filename is not None:
            where = str(error.filename)[:_SHOWN]
            hint = "correct the path, or the permissions of its folders"
            return _report(f"{where}: {error.strerror or error}", hint, EXIT_ERROR)
        # What names no file is the output of the command itself.
        _drop_stdout()
        return _report(f"cannot print the result ({error.strerror or error})", "send the output elsewhere", EXIT_ERROR)
    return code if isinstance(code, int) else 0


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # the shell can close them
            stream.flush()


def _report(message: str, hint: str, code: int) -> int:
    """The two lines of every error."""
    _say(f"error: {one_line(message)}")
    _say(f"hint: {one_line(hint)}")
    return code


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is closed, a log on a full disk: the exit code says it too
        click.echo(line, err=True)


def _exit_code(error: QuantkitError) -> int:
    return EXIT_UNVERIFIED if isinstance(error, VerificationError) else EXIT_ERROR


def _usage_hint(error: click.ClickException) -> str:
    """What to type after wrong usage: the help of the command, where it is known."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{ctx.command_path if ctx else 'quantkit'} --help"


def _drop_stdout() -> None:
    """Discard all further output, including the interpreter's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
