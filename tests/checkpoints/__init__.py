"""Bad inputs: each is a sound checkpoint broken by a short recipe, with what the command must say about it.

The folders are made when the tests need them; ``python -m tests.checkpoints FOLDER`` writes them all, one a defect.
"""

from __future__ import annotations

# Each module enters its defects into the table.
from tests.checkpoints import (  # noqa: F401
    adapter_defects,
    adapter_effect_defects,
    adapter_file_defects,
    checkpoint_defects,
    config_defects,
    expert_defects,
    folder_defects,
    format_defects,
    name_defects,
    quantize_defects,
    request_defects,
    slow_tokenizer_defects,
    vocabulary_defects,
)
from tests.checkpoints.defect import BASES, DEFECTS, Base, Defect

__all__ = ["BASES", "DEFECTS", "Base", "Defect"]
