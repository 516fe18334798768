"""The supported model families, one file each.

An :class:`~quantkit.arch.base.Architecture` says which GGUF metadata a config becomes, which GGUF tensor each tensor of
the checkpoint becomes (with the shape that it must have), and how its rows are laid out. To add a family, write its
file and add its name to ``FAMILIES``. A file is imported when its family is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quantkit.checkpoint.tensor_names import CHAT_HINT
from quantkit.errors import ArchitectureError

if TYPE_CHECKING:
    from quantkit.arch.base import Architecture


# The family's file, by the name in "architectures" of config.json.
FAMILIES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Mistral3ForConditionalGeneration": "mistral3",
    "MixtralForCausalLM": "mixtral",
    "QWenLMHeadModel": "qwen",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "GraniteForCausalLM": "granite",
    "SmolLM3ForCausalLM": "smollm3",
    "Olmo2ForCausalLM": "olmo2",
}

# What classes with these endings are, in place of a model that writes text.
NOT_CHAT: Mapping[str, str] = {
    "ForSequenceClassification": "a classifier or reward model",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "RewardModel": "a reward model",
    "CriticModel": "the critic of PPO training",
}


class _Architectures(Mapping[str, "Architecture"]):
    """The families by the same names, each imported on first use."""

    def __getitem__(self, name: str) -> Architecture:
        architecture: Architecture = importlib.import_module(f"quantkit.arch.{FAMILIES[name]}").ARCHITECTURE
        return architecture

    def __iter__(self) -> Iterator[str]:
        return iter(FAMILIES)

    def __len__(self) -> int:
        return len(FAMILIES)


ARCHITECTURES: Mapping[str, Architecture] = _Architectures()


def is_supported(config: Mapping[str, Any]) -> bool:
    """Whether :func:`find_architecture` knows the architecture of this config."""
    return _named(config) in FAMILIES


def _named(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def find_architecture(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture that a config names.

    Raises:
        ArchitectureError: the config names none, or one that is not supported; the hint lists the supported ones.
    """
    name = _named(config)
    supported = ", ".join(sorted(FAMILIES))
    if name is None:
        raise ArchitectureError(f"{where}: architectures is missing", hint=f"supported architectures: {supported}")
    if (kind := next((NOT_CHAT[end] for end in NOT_CHAT if name.endswith(end)), None)) is not None:
        raise ArchitectureError(f"{where}: {name} is {kind}", hint=CHAT_HINT)
    if name not in FAMILIES:
        raise ArchitectureError(
            f"{where}: architecture {name!r} is not supported",
            hint="try llama.cpp's own converter: pass --via-llama-cpp PATH with a llama.cpp checkout; architectures "
            f"that quantkit supports: {supported}",
        )
    return ARCHITECTURES[name]
