"""Gemma 4 12B, whose language model also reads pictures and sound without towers of their own."""

from __future__ import annotations

from dataclasses import replace

from quantkit.arch import gemma4
from quantkit.arch.class_defaults import CLASS_DEFAULTS

ARCHITECTURE = replace(
    gemma4.ARCHITECTURE,
    defaults=CLASS_DEFAULTS["gemma4_unified_text"],
    vocabulary=replace(gemma4.VOCABULARY, writes_suppress_tokens=True),
)
