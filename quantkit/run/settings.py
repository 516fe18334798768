"""How a model is loaded and how it answers, in the words of a package's parameters (Ollama's).

Parameters come from three sides: the package, ``--param`` of the command and ``/set`` in a chat. What the user asks for
is checked more strictly than what a package says: a parameter that would change nothing is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from quantkit.errors import ChatFormatError, QuantkitError
from quantkit.ollama.parameters import PARAMETERS, check_parameters
from quantkit.package.built import RunnablePackage
from quantkit.run.interrupts import always
from quantkit.run.options import Sampling, SamplingOptions, chat_sampling, number, sampling_value
from quantkit.run.session import ChatModel, Messages
from quantkit.run.transcript import Conversation
from quantkit.system.unicode_text import check_text

LOADING = ("num_ctx", "num_thread", "num_gpu")
"""Parameters that count when the model is loaded."""

ANSWERING = (*SamplingOptions.__annotations__, "num_predict", "stop")
"""Parameters that count for each answer."""


@dataclass(frozen=True)
class Settings:
    """How answers are generated.

    Attributes:
        sampling: how tokens are chosen.
        max_tokens: the longest answer; None is up to the end of the context.
        stops: texts that end an answer.
    """

    sampling: SamplingOptions
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()

    def shown(self) -> dict[str, str]:
        """Each parameter of :data:`ANSWERING` and its value, as people read it."""
        sampling = Sampling(**self.sampling)
        values = {name: f"{getattr(sampling, name):g}" for name in ANSWERING[:-2] if name != "seed"}
        return {
            **values,
            "seed": "a new one each time" if sampling.seed is None else str(sampling.seed),
            "num_predict": "up to the end of the context" if self.max_tokens is None else str(self.max_tokens),
            "stop": "  ".join(map(repr, self.stops)) or "none but the model's end of turn",
        }


@dataclass(frozen=True)
class LoadOptions:
    """How the model is loaded; the keyword arguments of :meth:`ChatModel.load`.

    Attributes:
        n_ctx: tokens of context, None for the model's own up to a limit.
        threads: CPU threads, None for the processors this process may use.
        n_gpu_layers: layers to put on the GPU, -1 for all.
    """

    n_ctx: int | None
    threads: int | None
    n_gpu_layers: int


def with_parameters(package: RunnablePackage, asked: Iterable[tuple[str, str]]) -> RunnablePackage:
    """The package with the parameters that the user asks for; ``stop`` adds one.

    Raises:
        QuantkitError: an unknown name, a value of the wrong type, or a parameter that changes nothing here.
    """
    parameters, stops = dict(package.parameters), list(package.stops)
    for name, text in asked:
        check_parameters([(name, text)])
        check_text(text, f"parameter {name}")
        _require_meaning(name)
        if name == "stop":
            stops.append(text)
        else:
            parameters[name] = text
    return replace(package, parameters=parameters, stops=tuple(stops))


def load_options(parameters: Mapping[str, str], n_gpu_layers: int | None = None) -> LoadOptions:
    """What num_ctx, num_thread and num_gpu of a package ask for.

    Args:
        parameters: the package's.
        n_gpu_layers: in place of num_gpu, None for that.

    Raises:
        QuantkitError: a value is not a whole number.
    """

    def value(name: str) -> int | None:
        return int(number(name, parameters[name], integer=True)) if name in parameters else None

    threads = value("num_thread")
    layers = value("num_gpu") if n_gpu_layers is None else n_gpu_layers
    return LoadOptions(
        n_ctx=value("num_ctx"),
        threads=None if threads is None or threads <= 0 else threads,  # up to 0: Ollama, too, chooses
        n_gpu_layers=-1 if layers is None else layers,
    )


def check_system(model: ChatModel, system: str | None) -> None:
    """Refuse a system prompt that the model cannot be given, and a model that nobody can talk to.

    Raises:
        QuantkitError: it is not valid Unicode.
        ChatFormatError: the model has no chat template, or that refuses the system prompt.
    """
    check_text(system or "", "the system prompt")
    try:
        model.render(Conversation(system=system).asking("."))
    except ChatFormatError as error:
        model.render(Conversation().asking("."))  # raises, if it is not the system prompt
        raise ChatFormatError(
            f"{error} (with a system prompt)", hint='go without one: --system "" at the start, /system "" in a chat'
        ) from None


def chat_settings(model: ChatModel, package: RunnablePackage) -> Settings:
    """The package's settings, else the model's own, else llama.cpp's defaults.

    Parameters that change how Ollama runs a model but not what it answers (num_batch, main_gpu, num_keep, use_mmap)
    have no meaning here.

    Raises:
        QuantkitError: a parameter is not a number, or not one that llama.cpp can do with.
    """
    sampling = chat_sampling(model.engine.metadata, package.parameters)
    Sampling(**sampling)
    limit = package.parameters.get("num_predict")
    return Settings(sampling=sampling, max_tokens=None if limit is None else _limit(limit), stops=package.stops)


def change(settings: Settings, initial: Settings, name: str, text: str) -> Settings:
    """The settings with one parameter changed.

    Args:
        settings: those of now.
        initial: those that the text ``default`` stands for.
        name: the parameter.
        text: its value; of ``stop`` one text more.

    Raises:
        QuantkitError: an unknown name, a value of the wrong type, or a parameter that cannot be changed in a chat.
    """
    require_answering(name)
    default = text == "default"
    if not default:
        check_parameters([(name, text)])
    if name == "stop":
        return replace(settings, stops=initial.stops if default else (*settings.stops, text))
    if name == "num_predict":
        return replace(settings, max_tokens=initial.max_tokens if default else _limit(text))
    sampling: dict[str, Any] = {key: value for key, value in settings.sampling.items() if key != name}
    before = cast(dict[str, Any], initial.sampling)
    if not default:
        sampling[name] = sampling_value(name, text)
    elif name in before:
        sampling[name] = before[name]
    changed = cast(SamplingOptions, sampling)
    Sampling(**changed)
    return replace(settings, sampling=changed)


def stream_answer(
    model: ChatModel, messages: Messages, settings: Settings, *, go_on: Callable[[], bool] = always
) -> Iterator[str]:
    """:meth:`ChatModel.stream` with these settings."""
    limit = model.n_ctx if settings.max_tokens is None else settings.max_tokens
    return model.stream(messages, max_tokens=limit, stops=settings.stops, go_on=go_on, **settings.sampling)


def require_answering(name: str) -> None:
    """Refuse what is not a parameter that can be changed in a chat.

    Raises:
        QuantkitError: an unknown name, one that counts when the model is loaded, or one that changes nothing here.
    """
    if name not in PARAMETERS:
        check_parameters([(name, "")])
    if name in LOADING:
        raise QuantkitError(
            f"{name} counts when the model is loaded", hint=f"leave, and start again with --param {name}=VALUE"
        )
    _require_meaning(name)


def _require_meaning(name: str) -> None:
    if name not in LOADING and name not in ANSWERING:
        raise QuantkitError(
            f"{name} changes nothing here: it is for Ollama", hint=f"choose of: {', '.join((*ANSWERING, *LOADING))}"
        )


def _limit(text: str) -> int | None:
    """The longest answer; a negative number is Ollama's way to say: as long as it takes."""
    limit = int(number("num_predict", text, integer=True))
    return None if limit < 0 else limit
