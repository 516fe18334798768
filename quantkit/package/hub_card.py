"""The card that a hub shows: the package's own with metadata before it, the quantized files, and notices.

Metadata are YAML as https://huggingface.co/docs/hub/model-cards describes it, written by huggingface_hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.hub.target import PushTarget
from quantkit.package.card import UNSTATED
from quantkit.package.license_terms import LicenseTerms
from quantkit.package.manifest import Manifest
from quantkit.package.text import fill, markdown_plain
from quantkit.system.units import size

# Before this section of a card stands what a hub's card adds.
_USE = "\n## Use\n"
_FENCE = "---\n"
UNQUANTIZED = frozenset({"f16", "bf16", "f32"})
_ADDRESS = {"hf": "hf.co", "modelscope": "modelscope.cn"}


@dataclass(frozen=True)
class HubFacts:
    """What a card says beyond the package's own.

    Attributes:
        target: where it is shown.
        bases: the models that the package was made from, as ``org/name``; empty if that is not known.
        terms: of the license.
        languages: codes, such as ``en``.
        pipeline: what the base model's card says it does; "" for text generation.
        figures: what report.json says of each file's evaluation, by its name.
    """

    target: PushTarget
    bases: tuple[str, ...]
    terms: LicenseTerms
    languages: tuple[str, ...] = ()
    pipeline: str = ""
    figures: Mapping[str, Mapping[str, Any]] | None = None


def hub_card(text: str, manifest: Manifest, facts: HubFacts) -> str:
    """A package's card as a hub shows it.

    Args:
        text: the package's README.md. Metadata that it begins with stay as they are, and only get what they lack.
        manifest: of the package.
        facts: what the card says beyond it.

    Raises:
        ValueError: the text begins with metadata that are not YAML.
    """
    own, body = _split(text)
    metadata = {**_metadata(manifest, facts), **own}
    if facts.terms.name:  # the package may not know it, but its metadata must not say something else
        body = body.replace(f"\n| license | {UNSTATED} |\n", f"\n| license | {markdown_plain(facts.terms.name)} |\n", 1)
    added = fill("hub.md", _values(manifest, facts))
    at = body.find(_USE)
    body = body[:at] + added + body[at:] if at >= 0 else body.rstrip("\n") + "\n" + added
    return f"{_FENCE}{_yaml(metadata)}\n{_FENCE}\n{body.lstrip(chr(10))}"


def relation(manifest: Manifest) -> str:
    """How the hub calls what the package is to its base: ``quantized``, or ``finetune`` for whole weights alone.

    A package always has whole models, so it is never an ``adapter``, which only adds to its base.
    """
    changed = bool(manifest.sources and manifest.sources.adapters)
    whole = all(model.quant in UNQUANTIZED for model in manifest.models)
    return "finetune" if changed and whole else "quantized"


def _metadata(manifest: Manifest, facts: HubFacts) -> dict[str, Any]:
    terms = facts.terms
    listed = {"license": terms.name} if terms.listed else {"license": "other", "license_name": terms.name}
    link = {"license_link": terms.link} if terms.link else {}
    seeing = "image-text-to-text" if manifest.mmproj else "text-generation"
    return {
        **({"base_model": list(facts.bases), "base_model_relation": relation(manifest)} if facts.bases else {}),
        **(listed | link if terms.name else {}),
        **({"language": list(facts.languages)} if facts.languages else {}),
        "pipeline_tag": seeing if facts.pipeline in ("", "text-generation", "image-text-to-text") else facts.pipeline,
        "library_name": "gguf",
        "tags": ["gguf", "llama.cpp", "ollama", "quantkit", *_adapter_tag(manifest)],
        "quantized_by": facts.target.name.partition("/")[0],
    }


def _adapter_tag(manifest: Manifest) -> Sequence[str]:
    return ("lora",) if manifest.adapter_files or (manifest.sources and manifest.sources.adapters) else ()


def _values(manifest: Manifest, facts: HubFacts) -> dict[str, Any]:
    figures = facts.figures or {}
    models = manifest.models
    first = models[0]
    return {
        "rows": [
            {"file": model.file, "quant": model.quant, "size": size(model.size), **_figures(figures.get(model.file))}
            for model in models
        ],
        "measured": any(model.file in figures for model in models),
        "place": facts.target.place,
        "name": facts.target.name,
        "short": facts.target.short,
        "address": f"{_ADDRESS[facts.target.place]}/{facts.target.name}" if facts.target.place in _ADDRESS else "",
        "tag": first.quant.upper(),
        # By its address alone, nobody loads a LoRA file; Ollama does not support split files.
        "whole": not manifest.loras,
        "runs": not first.parts and not manifest.loras,
        "notices": facts.terms.notices,
    }


def _figures(found: Mapping[str, float] | None) -> dict[str, str]:
    """The figures of a file as they are printed; a file without any is the reference, or was not evaluated."""
    kl, same, perplexity = ((found or {}).get(key) for key in ("kl_mean", "same_top", "perplexity"))
    return {
        "kl": "" if kl is None else f"{kl:.4f}",
        "same_top": "" if same is None else f"{100 * same:.1f} %",
        "perplexity": "" if perplexity is None else f"{perplexity:.4g}",
    }


def _split(text: str) -> tuple[dict[str, Any], str]:
    """The metadata that a text begins with, and the rest."""
    if not text.startswith(_FENCE):
        return {}, text
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import ModelCard

    try:
        found = ModelCard(text, ignore_metadata_errors=True)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    metadata: dict[str, Any] = found.data.to_dict()  # type: ignore[no-untyped-call]
    return metadata, str(found.text)


def _yaml(values: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    return str(ModelCardData(**values).to_yaml(line_break="\n"))
