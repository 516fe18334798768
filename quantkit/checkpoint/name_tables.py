"""The closed tables of what wrappers, trainers and heads do to the names of a checkpoint's tensors.

``docs/tensor_names.md`` is rendered from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PEFT_PREFIX = "base_model.model."
# Parts of a path that only name the wrapper of a module, with who writes them.
WRAPPERS: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
}
PARALLEL = "module."  # DDP and DeepSpeed, before everything else


@dataclass(frozen=True)
class Reading:
    """One way in which a file's names may differ from the architecture's.

    Attributes:
        who: what saves such names.
        pairs: prefix in the file and prefix in the architecture, the first that matches counts. ``{}`` stands for the
            decoder's own prefix, such as ``model.``.
        vision: the names are those of a vision-language model, which has other parts.
    """

    who: str
    pairs: tuple[tuple[str, str], ...]
    vision: bool = False

    def read(self, name: str, trunk: str) -> str:
        """The architecture's name for *name*."""
        for stored, own in self.pairs:
            if name.startswith(stored):
                return own.replace("{}", trunk) + name.removeprefix(stored)
        return name


def held_as(prefix: str) -> Reading:
    """The names of a module that holds the model under a name of its own: *prefix*, with its dot."""
    return Reading(f"a module that holds the model as `{prefix[:-1]}`", ((prefix, ""),))


PLAIN = Reading("the model itself", ())
READINGS: tuple[Reading, ...] = (
    PLAIN,
    Reading("the decoder alone (AutoModel)", (("lm_head.", "lm_head."), ("", "{}"))),
    Reading("transformers itself, with the name that it loads the decoder under", (("model.", "{}"),)),
    held_as("model."),
    Reading("a module that holds the model as `pretrained_model` (TRL)", (("pretrained_model.", ""),)),
    held_as("llm."),
    Reading(
        "a vision-language model",
        (
            ("model.language_model.model.", "{}"),
            ("model.language_model.lm_head.", "lm_head."),
            ("model.language_model.", "{}"),
            ("language_model.model.", "{}"),
            ("language_model.lm_head.", "lm_head."),
            ("language_model.", "{}"),
            ("model.text_model.", "{}"),
        ),
        vision=True,
    ),
)
# The parts of a vision-language model other than its language model, with and without ``model.``.
VISION = (
    *("vision_tower.", "multi_modal_projector.", "vision_model.", "visual.", "mm_projector.", "image_newline"),
    *("audio_tower.", "embed_vision.", "embed_audio.", "connector.", "mlp1.", "vision_embedder."),
)
# The name that transformers 5 has for a module, by the one before.
_BEFORE_5 = (("vision_tower.vision_model.", "vision_tower."),)
# Heads of trainers beside the language model: what they are.
VALUE_HEADS: Mapping[str, str] = {
    "v_head.": "the value head of PPO training (TRL, LLaMA-Factory)",
    "value_head.": "the value head of PPO training (OpenRLHF)",
}
# Layers for multi-token prediction, which may stand beside the decoder.
MTP = "mtp."
# Heads that take the place of the language model's.
CLASSIFIERS: Mapping[str, str] = {
    "score.": "a classifier or reward model",
    "classifier.": "a classifier",
    "qa_outputs.": "a model that marks answers in a text",
    "reward_head.": "a reward model",
}
CHAT_HINT = "it scores texts and cannot chat: build from the chat model that it was trained from"
# What PEFT's methods train beside a module's own weight: the beginnings of those names.
FACTORS = ("lora_", "ia3_l", "hada_", "lokr_", "oft_", "boft_", "vera_", "trainable_tokens_")


def vision_name(name: str) -> str:
    """The one name for a tensor beside the language model, whichever release of transformers saved it."""
    name = name.removeprefix("model.")
    return next((after + name.removeprefix(before) for before, after in _BEFORE_5 if name.startswith(before)), name)
