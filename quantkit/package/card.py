"""The package's README.md: what it is, what is in it, and how to chat with it."""

from __future__ import annotations

from typing import Any

from quantkit.package.ollama_modelfile import modelfile_name, no_modelfile, ollama_differences
from quantkit.package.quality import Quality
from quantkit.package.spec import PackageSpec
from quantkit.package.text import fill, without_controls
from quantkit.system.units import size

UNSTATED = "not stated by the base model"
"""What a card says of a license that the package does not know."""

_LONG_LICENSE = 80
# How a section begins; the two that figures are put between.
_SECTION = "\n## "
_FILES, _HEADING = f"{_SECTION}Files\n", f"{_SECTION}How good the files are\n"


def card(spec: PackageSpec) -> str:
    """Return the Markdown text of a package's card."""
    whys = [no_modelfile(model, spec.loras) for model in spec.models]
    return fill(
        "README.md",
        {
            "spec": spec,
            "parameters": _rounded(spec.parameter_count),
            "license": _license(spec),
            "models": [
                (model, modelfile_name(index, model) if whys[index] is None else None)
                for index, model in enumerate(spec.models)
            ],
            "no_modelfile": whys[0],
            "system": spec.system_text,
            "messages": spec.messages,
            "differences": ollama_differences(spec) if None in whys else (),
            "quality": spec.quality and _quality(spec.quality),
            "settings": [item for item in spec.parameters if item[0] != "num_ctx"],
        },
    )


def with_quality(text: str, found: Quality) -> str:
    """A card with other figures, or with its first: after its list of files, as :func:`card` has them.

    Raises:
        ValueError: the text is not that of a card.
    """
    files = text.index(_FILES)
    start = text.find(_SECTION, files + len(_FILES))
    start = len(text) if start < 0 else start
    end = start
    if text.startswith(_HEADING, start):
        end = text.find(_SECTION, start + len(_HEADING))
        end = len(text) if end < 0 else end
    return text[:start] + fill("quality.md", {"quality": _quality(found)}) + text[end:]


def _quality(found: Quality) -> dict[str, Any]:
    """The figures as they are printed."""
    rows = [
        (
            row.file,
            size(row.nbytes),
            f"{row.bits:.2f}",
            f"{row.kl:.4f} ± {row.kl_error:.4f}",
            f"{100 * row.same_top:.1f} %",
            f"{row.perplexity:.4g}",
        )
        for row in found.rows
    ]
    return {
        "text": found.text,
        "positions": found.positions,
        "reference": found.reference,
        "perplexity": f"{found.perplexity:.4g}",
        "rows": rows,
    }


def _rounded(count: int) -> str:
    for unit, amount in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if count >= amount:
            return f"{count / amount:.3g} {unit}"
    return str(count)


def _license(spec: PackageSpec) -> str:
    texts = [text for text in spec.licenses if text.strip()]
    if not texts:
        return UNSTATED
    line = without_controls("; ".join(texts))
    if len(line) <= _LONG_LICENSE:
        return line
    has_modelfile = any(no_modelfile(model, spec.loras) is None for model in spec.models)
    return "see the LICENSE in the Modelfile" if has_modelfile else "that of the base model"
