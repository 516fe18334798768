"""Compares a Go TEMPLATE from elsewhere with the prompts of the chat template in the GGUF file.

Only Ollama runs Go templates, so the comparison is one of texts: the special marks that the chat template writes around
contents must stand in the TEMPLATE. A TEMPLATE of another family, the usual mistake, has none of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Looks like the text of a special token: <|im_start|>, </s>, [INST]
_MARK = re.compile(r"<[^<>\s{}]{1,64}>|\[/?[A-Z_]{1,32}\]")


def foreign_template_notes(template: str, prompt: str, *, added: Sequence[str]) -> list[str]:
    """A note if a TEMPLATE lacks marks of the model's prompts.

    Args:
        template: the Go template.
        prompt: a prompt that the chat template writes, with contents that have no marks.
        added: tokens that Ollama adds by itself: BOS.
    """
    wanted = [mark for mark in dict.fromkeys(_MARK.findall(prompt)) if mark not in added]
    missing = [mark for mark in wanted if mark not in template]
    if not missing:
        return []
    own = [mark for mark in dict.fromkeys(_MARK.findall(template)) if mark not in prompt and mark not in added]
    instead = f", but {', '.join(own[:4])}" if own else ""
    return [
        f"the TEMPLATE of the Modelfile is not that of the model: it does not write {', '.join(missing[:4])}{instead}; "
        "remove the TEMPLATE from the Modelfile, and the model's own is used"
    ]
