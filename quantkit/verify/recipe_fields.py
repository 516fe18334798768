"""Holds the recipe in a build's manifest to the rest of the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantkit.chat_template.format import FORMAT_NAMES, named_template
from quantkit.gguf.model import GGUFModel
from quantkit.model.sampling import sampling_parameters
from quantkit.ollama.parameters import merge_parameters
from quantkit.package.manifest import Manifest
from quantkit.package.plan_entries import settings_of

Difference = tuple[str, Any, str, Any]


def recipe_differences(manifest: Manifest, model: GGUFModel) -> Iterator[Difference]:
    """Where the recipe asks for something else than the rest says.

    A key that is not there was not known to the version that made the package.

    Args:
        manifest: of the package.
        model: its first model.

    Returns:
        A field, what it says, what says something different, and what that is.
    """
    recipe = manifest.recipe
    if recipe is None:
        return
    chat = manifest.chat
    said: dict[str, Any] = {
        "name": manifest.name,
        "system": chat.system,
        "mmproj": manifest.mmproj is not None,
        "messages": [[message["role"], message["content"]] for message in chat.messages],
    }
    for key, value in said.items():
        if key in recipe and _plain(recipe[key]) != value:
            yield (f"recipe.{key}", recipe[key], "the rest of it", value)
    yield from _recipe_parameters(recipe, manifest, model)
    quants = [entry.quant for entry in manifest.models]
    asked = recipe.get("quants")
    kept = [recipe.get("outtype")] if recipe.get("keep_f16") else []
    chosen = [manifest.choice.label] if manifest.choice else []
    if isinstance(asked, list) and quants != list(dict.fromkeys((*chosen, *asked, *kept))):
        yield ("recipe.quants", asked, "models", quants)
    name, template = recipe.get("template"), model.value("tokenizer.chat_template")
    if name in FORMAT_NAMES and template != named_template(str(name)):
        yield ("recipe.template", name, f"tokenizer.chat_template of {model.path.name}", template)


def _recipe_parameters(recipe: Mapping[str, Any], manifest: Manifest, model: GGUFModel) -> Iterator[Difference]:
    try:
        asked = tuple((str(name), str(value)) for name, value in recipe.get("parameters", ()))
    except (TypeError, ValueError):
        asked = (("?", repr(recipe.get("parameters"))),)
    own = sampling_parameters(model.header.metadata.values())
    if settings_of(merge_parameters(own, asked)) != dict(manifest.chat.parameters):
        yield ("recipe.parameters", recipe.get("parameters"), "chat.parameters", dict(manifest.chat.parameters))


def _plain(value: Any) -> Any:
    """JSON's lists for tuples."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
