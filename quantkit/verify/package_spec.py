"""What the texts of a package are to say, from its manifest and the header of its first model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quantkit.chat_template.answers import answer_format
from quantkit.chat_template.format import ChatFormat, OwnTemplate, derive
from quantkit.errors import QuantkitError
from quantkit.gguf.model import GGUFModel
from quantkit.package.known_stops import known_stops
from quantkit.package.manifest import Manifest
from quantkit.package.spec import PackagedLora, PackagedModel, PackageSpec
from quantkit.vocab.from_gguf import gguf_vocabulary, token_texts
from quantkit.vocab.special import adds_bos


def package_spec(manifest: Manifest, model: GGUFModel) -> PackageSpec | None:
    """What the texts of this manifest's package would be made from; None where the file has no sound chat template.

    Of licenses and of a TEMPLATE of the user's own a manifest has only sums, so they are not in it.
    """
    vocabulary, header = gguf_vocabulary(model.header), model.header
    context = context_length(model)
    if not vocabulary.chat_template or not isinstance(context, int):
        return None
    try:
        chat = derive(
            vocabulary.chat_template,
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
            tokens=token_texts(header),
        )
    except QuantkitError:
        return None  # the check of the chat template says why
    parameters = manifest.chat.parameters.items()
    return PackageSpec(
        name=manifest.name,
        models=tuple(packaged(manifest)),
        chat=_with_stops(chat, manifest, model),
        system=manifest.chat.system,
        parameters=tuple(
            (name, one) for name, value in parameters for one in ((value,) if isinstance(value, str) else value)
        ),
        context_length=context,
        base="",
        adapters=(),
        licenses=(),
        architecture=str(header.value("general.architecture")),
        parameter_count=0,
        loras=packaged_loras(manifest),
        mmproj=manifest.mmproj.file if manifest.mmproj else None,
        messages=tuple((message["role"], message["content"]) for message in manifest.chat.messages),
        adds_bos=adds_bos({key: entry.value for key, entry in header.metadata.items()}),
        requires=(manifest.modelfile and manifest.modelfile.requires) or None,
        answers=answer_format(vocabulary.chat_template, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token),
    )


def context_length(model: GGUFModel) -> Any:
    """What the header says: a whole number, if nobody has changed it."""
    return model.value(f"{model.value('general.architecture')}.context_length")


def packaged(manifest: Manifest) -> list[PackagedModel]:
    """The models, as the texts name them."""
    return [PackagedModel(model.file, model.quant, len(model.files)) for model in manifest.models]


def packaged_loras(manifest: Manifest) -> tuple[PackagedLora, ...]:
    """The LoRA files that the models are run with, as the texts name them."""
    return tuple(PackagedLora(lora.file, lora.scale) for lora in manifest.loras if lora.scale is not None)


def _with_stops(chat: ChatFormat | OwnTemplate, manifest: Manifest, model: GGUFModel) -> ChatFormat | OwnTemplate:
    """With the stops that the file marks as ends, if the package has those alone, as ``quantkit package`` makes it."""
    known = known_stops(chat, model.header)
    return replace(chat, stops=known) if known and known == manifest.chat.stops else chat
