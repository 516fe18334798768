"""Licenses of models: those that only want to be kept, those with conditions, and how their texts are recognized."""

from __future__ import annotations

import re
from dataclasses import dataclass

FREE = frozenset(
    {
        *("apache-2.0", "mit", "modified-mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc"),
        *("unlicense", "cc0-1.0", "zlib", "wtfpl", "bsl-1.0", "mpl-2.0", "ncsa", "postgresql", "ms-pl", "ecl-2.0"),
        *("afl-3.0", "artistic-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "osl-3.0", "lppl-1.3c", "ofl-1.1"),
        *("cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "odc-by", "pddl"),
        *("gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "cdla-sharing-1.0"),
        *("cdla-permissive-1.0", "cdla-permissive-2.0", "openmdw-1.0", "openmdw-1.1"),
    }
)
"""The hub's names of licenses that allow changed copies, for any use, if the license and its notices come along."""


@dataclass(frozen=True)
class Conditions:
    """What a license asks for; fields as of :class:`~quantkit.package.license_terms.LicenseTerms`."""

    conditions: tuple[str, ...]
    link: str = ""
    listed: bool = True
    shareable: bool | None = True
    notices: tuple[str, ...] = ()
    prefix: str = ""


_COPY = "give a copy of the license along (LICENSE in the Modelfile, if the base model's folder has it)"
_NONCOMMERCIAL = "nobody may use the copy commercially"
_USE_RULES = "pass on the restrictions of use, and bind whoever gets the copy to them"


def _llama(version: str, words: str, prefix: str, page: str) -> Conditions:
    name = f"{'Meta ' if version == '3' else ''}Llama {version}"
    copyright_line = (
        f"{name} is licensed under the {name} Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
    )
    return Conditions(
        (
            _COPY,
            f"show {words!r} (on the card), and begin the name with {prefix!r}",
            "keep to Meta's Acceptable Use Policy; more than 700 million monthly users need Meta's own license",
        ),
        link=f"https://www.llama.com/llama{page}/license/",
        notices=(words, copyright_line),
        prefix=prefix,
    )


def _noncommercial(link: str = "", *, listed: bool = True) -> Conditions:
    return Conditions((_NONCOMMERCIAL, _COPY), link=link, listed=listed)


def _no_changes() -> Conditions:
    return Conditions(("a quantized copy is a changed one, which nobody may share",), shareable=False)


_RAIL = Conditions((_USE_RULES, _COPY, "say that the files were changed"))

CONDITIONS = {
    "llama2": Conditions(
        (
            _COPY,
            "keep to Meta's Acceptable Use Policy; more than 700 million monthly users need Meta's own license",
        ),
        link="https://ai.meta.com/llama/license/",
        notices=(
            "Llama 2 is licensed under the LLAMA 2 Community License, Copyright © Meta Platforms, Inc. All Rights "
            "Reserved.",
        ),
    ),
    "llama3": _llama("3", "Built with Meta Llama 3", "Llama 3", "3"),
    "llama3.1": _llama("3.1", "Built with Llama", "Llama", "3_1"),
    "llama3.2": _llama("3.2", "Built with Llama", "Llama", "3_2"),
    "llama3.3": _llama("3.3", "Built with Llama", "Llama", "3_3"),
    "llama4": _llama("4", "Built with Llama", "Llama", "4"),
    "gemma": Conditions(
        (_USE_RULES, "give a copy of the Gemma Terms of Use along", "say that the files were changed"),
        link="https://ai.google.dev/gemma/terms",
        notices=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms",
        ),
    ),
    **dict.fromkeys(
        (
            *("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "bigcode-openrail-m"),
            *("bigscience-bloom-rail-1.0",),
        ),
        _RAIL,
    ),
    **dict.fromkeys(
        (
            *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
            *("fair-noncommercial-research-license", "apple-amlr", "intel-research"),
        ),
        _noncommercial(),
    ),
    **dict.fromkeys(("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"), _no_changes()),
    "qwen": Conditions(
        (_COPY, "say that the files were changed", "more than 100 million monthly users need the maker's own license"),
        listed=False,
    ),
    "qwen-research": _noncommercial(listed=False),
    "mrl": _noncommercial("https://mistral.ai/static/licenses/MRL-0.1.md", listed=False),
    "mnpl": _noncommercial("https://mistral.ai/licenses/MNPL-0.1.md", listed=False),
    "exaone": Conditions((_NONCOMMERCIAL, _COPY), listed=False, prefix="EXAONE"),
    "nvidia-open-model-license": Conditions(
        (_COPY,),
        listed=False,
        notices=("Licensed by NVIDIA Corporation under the NVIDIA Open Model License",),
    ),
}
"""Licenses with conditions beyond keeping their text, by name: the terms as of 2026."""

PHRASES = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"llama 4 community license", "llama4"),
        (r"llama 3\.3 community license", "llama3.3"),
        (r"llama 3\.2 community license", "llama3.2"),
        (r"llama 3\.1 community license", "llama3.1"),
        (r"llama 3 community license", "llama3"),
        (r"llama 2 community license", "llama2"),
        (r"gemma terms of use", "gemma"),
        (r"qwen research license|tongyi qianwen research license", "qwen-research"),
        (r"(tongyi )?(qianwen|qwen) license agreement", "qwen"),
        (r"mistral ai research license", "mrl"),
        (r"mistral ai non-production license", "mnpl"),
        (r"exaone ai model license", "exaone"),
        (r"nvidia open model license", "nvidia-open-model-license"),
        (r"attribution-noncommercial-noderivatives 4\.0", "cc-by-nc-nd-4.0"),
        (r"attribution-noderivatives 4\.0", "cc-by-nd-4.0"),
        (r"attribution-noncommercial-sharealike 4\.0", "cc-by-nc-sa-4.0"),
        (r"attribution-noncommercial 4\.0", "cc-by-nc-4.0"),
        (r"attribution-sharealike 4\.0", "cc-by-sa-4.0"),
        (r"attribution 4\.0 international", "cc-by-4.0"),
        (r"apache license,? version 2\.0", "apache-2.0"),
        (r"gnu affero general public license version 3", "agpl-3.0"),
        (r"gnu general public license version 3", "gpl-3.0"),
        (r"permission is hereby granted, free of charge, to any person obtaining a copy", "mit"),
        (r"redistribution and use in source and binary forms.*neither the name", "bsd-3-clause"),
        (r"redistribution and use in source and binary forms", "bsd-2-clause"),
    )
)
"""How the texts of licenses are recognized: the first pattern that is found decides."""
