"""``quantkit serve``: an OpenAI-compatible API, and a chat page for the browser."""

from __future__ import annotations

import json
import socket
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from quantkit.cli.model_options import lora_option, model_threads_option, quant_option
from quantkit.cli.options import FOLDER, THINKING, json_option, pairs
from quantkit.run.prompt_cache import MOST_PARALLEL
from quantkit.system.shell import installation
from quantkit.system.terminal_text import one_line

if TYPE_CHECKING:
    from quantkit.gguf.lora import ScaledLora

# Key: whether an API key is set.
_RISK = {
    False: "anyone on your network can use this server; set a key with --api-key",
    True: "requests over the network are not encrypted, and neither is the key",
}


_WORDS = "quantkit.serve.words"


class _Remembered(click.Command):
    """A command that knows its arguments as they were typed, with which another process does the same."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = tuple(args)
        return super().parse_args(ctx, args)


def _origins(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or value != f"{parts.scheme}://{parts.netloc}":
            raise click.BadParameter(f"{value!r} is not an address such as https://app.example.org")
    return values


@click.command(name="serve", cls=_Remembered)
@click.argument("path", metavar="GGUF|DIR", type=FOLDER)
@quant_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for the network.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
    help="Port to listen on; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--n-gpu-layers", type=click.IntRange(min=-1),
    help="Layers to put on the GPU, 0 for none (default: num_gpu of the package, else all).",
)  # fmt: skip
@click.option("--system", metavar="TEXT", help="System prompt for requests without one (default: the package's).")
@click.option(
    "--param", "parameters", multiple=True, callback=pairs, metavar="KEY=VALUE",
    help="Override a parameter of the package, e.g. temperature=0.2 or num_ctx=4096. Repeatable; stop adds one.",
)  # fmt: skip
@model_threads_option
@click.option(
    "--parallel", type=click.IntRange(1, MOST_PARALLEL), metavar="N",
    help="Answers at a time, each with the whole context (default: 4, fewer where memory is short).",
)  # fmt: skip
@lora_option("Serve the model with this LoRA file of llama.cpp beside it; SCALE 0.5 for half of it.")
@click.option(
    "--lora-init-without-apply", "without_apply", is_flag=True,
    help="Use LoRA files only in requests that choose them.",
)  # fmt: skip
@click.option("--thinking", type=click.Choice(["on", "off"]), help=f"{THINKING[:-1]}; requests can set it too.")
@click.option("--embeddings", "embeds", is_flag=True, help="Give embeddings of texts too, under /v1/embeddings.")
@click.option(
    "--pooling", type=click.Choice(["mean", "cls", "last"]),
    help="How --embeddings makes one vector of a text's many, for a file that does not say it.",
)  # fmt: skip
@click.option(
    "--api-key", metavar="KEY", envvar="QUANTKIT_API_KEY", show_envvar=True,
    help="Require this key in requests (Authorization: Bearer KEY).",
)  # fmt: skip
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME",
    help="Answer to this name too, such as a proxy's: chat.example.org. Its own pages may use the server. Repeatable.",
)  # fmt: skip
@click.option(
    "--allow-origin", "origins", multiple=True, metavar="URL", callback=_origins,
    help="Let web pages from this address use the API: https://app.example.org. Repeatable.",
)  # fmt: skip
@click.option("--open", "opens", is_flag=True, help="Open the chat page in the browser.")
@click.option(
    "--no-restart", "alone", is_flag=True, help="End when llama.cpp crashes or is killed, instead of starting it again."
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    path: Path,
    quant: str | None,
    host: str,
    port: int,
    n_gpu_layers: int | None,
    threads: int | None,
    parallel: int | None,
    system: str | None,
    parameters: tuple[tuple[str, str], ...],
    loras: tuple[ScaledLora, ...],
    without_apply: bool,
    thinking: str | None,
    embeds: bool,
    pooling: str | None,
    api_key: str | None,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    opens: bool,
    alone: bool,
    as_json: bool,
) -> None:
    """Serve a GGUF file or a built folder: an OpenAI-compatible API under /v1, and a chat page for the browser.

    Answers are the same as in `quantkit chat`. What a request leaves out (system prompt, temperature and so on) comes
    from the package; stop sequences are added to the package's. An empty system message means no system prompt.

    Prints the URL on a line of its own when the server is ready. Stop it with Ctrl-C or SIGTERM.

    Example: quantkit serve my-model --port 8080
    """
    from quantkit.errors import QuantkitError
    from quantkit.serve.last_words import LastWords
    from quantkit.serve.listening import address_on_network, listen, url_of
    from quantkit.serve.supervisor import can_supervise, supervise, supervised

    if pooling is not None and not embeds:
        raise click.UsageError("--pooling has no effect without --embeddings")
    if api_key is not None and not (api_key and api_key.isprintable()):
        raise QuantkitError("--api-key must not be empty or contain unprintable characters", hint="choose another key")
    given = supervised()
    if given is None and not alone and can_supervise():
        with listen(host, port) as listening:
            context.exit(supervise(context.meta[_WORDS], listening, path, _note))

    from quantkit.ggml.llama import begin

    begin()  # before anything that imports numpy
    from quantkit.package.built import open_package
    from quantkit.run.context_size import context_note
    from quantkit.run.embeddings import Embedder, pooling_of
    from quantkit.run.parallel import open_parallel
    from quantkit.run.session import ChatModel
    from quantkit.run.settings import chat_settings, check_system, load_options, with_parameters, with_thinking

    try:
        from quantkit.serve.adapters import adapters_of
        from quantkit.serve.answering import Answers
        from quantkit.serve.app import make_app
        from quantkit.serve.completions import Served
        from quantkit.serve.guard import Access, is_loopback
        from quantkit.serve.server import serve
        from quantkit.serve.worker import all_idle
    except ModuleNotFoundError as error:
        raise QuantkitError(f"the server needs the package {error.name}", hint=installation("serve")) from None

    package = with_parameters(open_package(path, quant), parameters)
    system = package.system if system is None else system
    options = load_options(package.parameters, n_gpu_layers, threads)
    loras = (*package.loras, *loras)
    restarts = 0 if given is None else given.restarts
    words = LastWords() if given is None else given.words
    with (
        listen(host, port) if given is None else given.listening as listening,
        ChatModel.load(package.gguf, **asdict(options), loras=loras) as model,
    ):
        check_system(model, system)
        if without_apply:
            model.engine.scales = (0.0,) * len(loras)
        adapters = adapters_of(model.engine, package.gguf.stem, words)
        embedder = Embedder(model, pooling_of(model, pooling)) if embeds else None
        lanes = open_parallel(model.engine, package.gguf, parallel)
        url, loopback = url_of(listening), is_loopback(listening.getsockname()[0])
        served = Served(
            name=package.gguf.stem,
            answers=Answers(model, _note, lanes),
            system=system,
            settings=with_thinking(chat_settings(model, package), model, thinking),
            note=_note,
            embedder=embedder,
            adapters=adapters,
            shared=not loopback,
            words=words,
            restarts=restarts,
        )
        if model.chat_template:
            _ = model.answers  # found out now, and not by the first request while others wait
        if note := context_note(model.engine):
            _note(note)

        def started() -> None:
            words.say_ready()
            if restarts:
                _note(f"serving {served.name} again")
                return
            click.echo(json.dumps({"schema": 1, "url": url}) if as_json else url)
            several = f"  {lanes.parallel} answers at a time" if lanes.parallel > 1 else ""
            _note(f"serving {served.name}  chat page: {url}/  API: {url}/v1{several}  stop with Ctrl-C")
            if not loopback:
                if reached := address_on_network(listening):
                    _note(f"on the network: {reached}/")
                _note(f"warning: {_RISK[api_key is not None]}")
            if opens and not webbrowser.open(f"{url}/"):
                _note(f"warning: no browser was found; open {url}/ yourself")

        def closing() -> None:
            served.bodies.end()
            if embedder is not None:
                embedder.stop()

        def is_idle(seconds: float) -> bool:
            idle = served.answers.is_idle(seconds) and (embedder is None or embedder.is_idle(seconds))
            return idle and all_idle(seconds)

        access = Access(api_key, loopback, (host, socket.gethostname()), hosts, origins)
        with served.renderer:
            serve(
                make_app(served, access),
                listening,
                started=started,
                stop=served.answers.stop,
                closing=closing,
                is_idle=is_idle,
                note=_note,
            )


def _note(line: str) -> None:
    click.echo(one_line(line), err=True)
