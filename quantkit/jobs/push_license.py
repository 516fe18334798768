"""Under which license a package would be pushed, and what that asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import HubError
from quantkit.gguf.model import GGUFModel
from quantkit.hub.base_card import BaseCard, read_base_card
from quantkit.hub.target import PushTarget, is_repository
from quantkit.ollama.modelfile import parse_modelfile
from quantkit.package.license_terms import LicenseTerms, license_of_texts, license_terms
from quantkit.package.manifest import Manifest

HUBS = {"hf": "huggingface", "modelscope": "modelscope"}
"""The hub of a place, as manifests name it."""


@dataclass(frozen=True)
class PushLicense:
    """The license of a package, and what its base model's card says.

    Attributes:
        terms: of the license.
        objections: why it should not be pushed without thinking; empty if the license allows it.
        bases: the models that it was made from, as ``org/name``.
        languages: codes that the base model's card names.
        pipeline: what that card says the model does.
        notes: what could not be found out.
    """

    terms: LicenseTerms
    objections: tuple[str, ...]
    bases: tuple[str, ...]
    languages: tuple[str, ...] = ()
    pipeline: str = ""
    notes: tuple[str, ...] = ()


def push_license(
    texts: Iterable[str], bases: Sequence[str], target: PushTarget, *, stated: str | None = None
) -> PushLicense:
    """Find out the license: as stated, else by the license text in the package, else by the base model's card.

    Args:
        texts: license texts of the package, or names of licenses.
        bases: ``org/name`` of the models that it is made from, the base model first.
        target: where it would be pushed.
        stated: the license's name as the user gives it; None if it is not given.

    Raises:
        HubError: a base model that is not ``org/name``.
    """
    if wrong := [name for name in bases if not is_repository(name)]:
        raise HubError(f"base model {wrong[0]!r} is not the name of a repository", hint="write it as ORG/NAME")
    card = read_base_card(bases[0]) if bases and target.place == "hf" else BaseCard()
    own = license_of_texts(texts)
    name = stated or own or card.license
    terms = license_terms(name, card.license_link if name == card.license else "")
    objections = list(terms.objections(target.short.partition(":")[0]))
    if stated and own and license_terms(stated).name != own:
        objections.append(f"you say that the license is {stated}, and the package's own text is that of {own}")
    notes = (f"{bases[0]}: its card could not be read ({card.trouble})",) if card.trouble else ()
    return PushLicense(terms, tuple(objections), tuple(bases), card.languages, card.pipeline, notes)


def require_accepted(target: PushTarget, found: PushLicense) -> None:
    """Refuse to push against the objections.

    Raises:
        HubError: there are some.
    """
    if found.objections:
        hint = "if you may do it all the same: add --accept-license"
        if not found.terms.name:
            hint = "name it with --license, such as apache-2.0; or, if you may share the model: --accept-license"
        raise HubError(f"{target}: not pushed: {'; '.join(found.objections)}", hint=hint)


def known_bases(manifest: Manifest, target: PushTarget) -> tuple[str, ...]:
    """The repositories of the target's hub that the package was built from: the base model, and its adapters."""
    if manifest.sources is None:
        return ()
    hub = HUBS.get(target.place, "huggingface")
    sources = (manifest.sources.model, *manifest.sources.adapters)
    return tuple(dict.fromkeys(one.id for one in sources if one.hub == hub and is_repository(one.id)))


def package_licenses(folder: Path, manifest: Manifest, models: Iterable[GGUFModel]) -> list[str]:
    """License texts of the Modelfiles, and the names of licenses that the GGUF files have."""
    files = [folder / text.file for text in manifest.files if text.file.startswith("Modelfile")]
    found = [
        command.value
        for file in files
        if file.is_file()
        for command in parse_modelfile(file.read_text(encoding="utf-8"))
        if command.keyword == "LICENSE"
    ]
    return [*found, *(str(model.value("general.license", "")) for model in models)]
