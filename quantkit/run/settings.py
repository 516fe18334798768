"""How a model is loaded and how it answers, from a package's parameters (which have Ollama's names).

Parameters come from three places: the package, ``--param`` of the command and ``/set`` in a chat. Those of the user are
checked more strictly than those of a package: a parameter that would have no effect is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from quantkit.errors import ChatFormatError, QuantkitError
from quantkit.ollama.parameters import PARAMETERS, check_parameters
from quantkit.package.built import RunnablePackage
from quantkit.run.held_answer import Held
from quantkit.run.options import MOST_SEED, Sampling, SamplingOptions, chat_sampling, number, sampling_value
from quantkit.run.session import ChatModel
from quantkit.run.transcript import Conversation
from quantkit.system.unicode_text import check_text

LOADING = ("num_ctx", "num_thread", "num_gpu")
"""Parameters that apply when the model loads."""

ANSWERING = (*SamplingOptions.__annotations__, "num_predict", "stop")
"""Parameters that apply to each answer."""


@dataclass(frozen=True)
class Settings:
    """How answers are generated.

    Attributes:
        sampling: how tokens are sampled.
        max_tokens: the longest answer; None for no limit but the context.
        stops: stop sequences.
        told: variables of the chat template, such as ``enable_thinking``.
        held: the grammar that answers are held to, None for none.
        bias: token -> what is added to its logit.
        loras: scale of each LoRA file that was loaded; None for those of the model's engine.
    """

    sampling: SamplingOptions
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    held: Held | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    loras: tuple[float, ...] | None = None

    @property
    def is_random(self) -> bool:
        """Whether the answer is another one each time."""
        sampling = Sampling(**self.sampling)
        return sampling.seed is None and sampling.temperature > 0

    def for_answer(self, index: int) -> Settings:
        """The settings of one of several answers to the same question: a seed is the given one plus the index."""
        seed = self.sampling.get("seed")
        if not index or seed is None:
            return self
        return replace(self, sampling={**self.sampling, "seed": (seed + index) % (MOST_SEED + 1)})

    def shown(self) -> dict[str, str]:
        """Return each parameter of :data:`ANSWERING` with its value as shown to people."""
        sampling = Sampling(**self.sampling)
        values = {name: f"{getattr(sampling, name):g}" for name in ANSWERING[:-2] if name != "seed"}
        return {
            **values,
            "seed": "random" if sampling.seed is None else str(sampling.seed),
            "num_predict": "no limit but the context" if self.max_tokens is None else str(self.max_tokens),
            "stop": "  ".join(map(repr, self.stops)) or "only the model's end of turn",
        }


@dataclass(frozen=True)
class LoadOptions:
    """How the model is loaded; the keyword arguments of :meth:`ChatModel.load`.

    Attributes:
        n_ctx: tokens of context, None for the model's own up to a limit.
        threads: CPU threads, None for the processors that are free.
        n_gpu_layers: layers to put on the GPU, -1 for all.
    """

    n_ctx: int | None
    threads: int | None
    n_gpu_layers: int


def with_parameters(package: RunnablePackage, asked: Iterable[tuple[str, str]]) -> RunnablePackage:
    """Return the package with the user's parameters; ``stop`` adds a stop sequence.

    Raises:
        QuantkitError: an unknown name, a value of the wrong type, or a parameter that has no effect here.
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


def load_options(
    parameters: Mapping[str, str], n_gpu_layers: int | None = None, threads: int | None = None
) -> LoadOptions:
    """Return the load options that num_ctx, num_thread and num_gpu of a package ask for.

    Args:
        parameters: the package's parameters.
        n_gpu_layers: used instead of num_gpu, unless it is None.
        threads: used instead of num_thread, unless it is None.

    Raises:
        QuantkitError: a value is not a whole number.
    """

    def value(name: str) -> int | None:
        return int(number(name, parameters[name], integer=True)) if name in parameters else None

    threads = value("num_thread") if threads is None else threads
    layers = value("num_gpu") if n_gpu_layers is None else n_gpu_layers
    return LoadOptions(
        n_ctx=value("num_ctx"),
        threads=None if threads is None or threads <= 0 else threads,  # 0 or less: as in Ollama, the program chooses
        n_gpu_layers=-1 if layers is None else layers,
    )


def check_system(model: ChatModel, system: str | None) -> None:
    """Refuse a system prompt that the model cannot take, and a model without a usable chat template.

    Raises:
        QuantkitError: it is not valid Unicode.
        ChatFormatError: the model has no chat template, or the template rejects the system prompt.
    """
    check_text(system or "", "the system prompt")
    try:
        model.render(Conversation(system=system).asking("."))
    except ChatFormatError as error:
        model.render(Conversation().asking("."))  # raises, if it is not the system prompt
        raise ChatFormatError(
            f"{error} (with a system prompt)",
            hint='use no system prompt: --system "" on the command line, /system "" in a chat',
        ) from None


def chat_settings(model: ChatModel, package: RunnablePackage) -> Settings:
    """Return the package's settings, else the model's own, else llama.cpp's defaults.

    Parameters that change how Ollama runs a model but not what it answers (num_batch, main_gpu, num_keep, use_mmap)
    are ignored here.

    Raises:
        QuantkitError: a parameter is not a number, or out of llama.cpp's range.
    """
    sampling = chat_sampling(model.engine.metadata, package.parameters)
    Sampling(**sampling)
    limit = package.parameters.get("num_predict")
    return Settings(sampling=sampling, max_tokens=None if limit is None else _limit(limit), stops=package.stops)


def change(settings: Settings, initial: Settings, name: str, text: str) -> Settings:
    """Return the settings with one parameter changed.

    Args:
        settings: the current settings.
        initial: the settings that the value ``default`` restores.
        name: the parameter.
        text: its value; for ``stop`` an additional stop sequence.

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


def with_thinking(settings: Settings, model: ChatModel, thinking: str | None) -> Settings:
    """The settings with which a model thinks (``on``) or does not (``off``); None leaves it to its chat template.

    Raises:
        ChatFormatError: the chat template has no such choice.
    """
    if thinking is None:
        return settings
    if not (switches := model.answers.switches):
        raise ChatFormatError(
            f"--thinking {thinking}: {model.path.name}: its chat template has no choice of thinking",
            hint="leave --thinking out: the chat template decides",
        )
    return replace(settings, told={**settings.told, **dict.fromkeys(switches, thinking == "on")})


def require_answering(name: str) -> None:
    """Refuse a parameter that cannot be changed in a chat.

    Raises:
        QuantkitError: an unknown name, one that applies when the model loads, or one that has no effect here.
    """
    if name not in PARAMETERS:
        check_parameters([(name, "")])
    if name in LOADING:
        raise QuantkitError(f"{name} is set when the model loads", hint=f"leave, and restart with --param {name}=VALUE")
    _require_meaning(name)


def _require_meaning(name: str) -> None:
    if name not in LOADING and name not in ANSWERING:
        raise QuantkitError(
            f"{name} only affects Ollama, so it has no effect here",
            hint=f"choose one of: {', '.join((*ANSWERING, *LOADING))}",
        )


def _limit(text: str) -> int | None:
    """Return the longest answer; a negative number means no limit, as in Ollama."""
    limit = int(number("num_predict", text, integer=True))
    return None if limit < 0 else limit
