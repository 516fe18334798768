"""quantkit: from a fine-tuned Llama-style model to files that chat on a laptop, offline."""

from __future__ import annotations

__version__ = "0.2.0"
