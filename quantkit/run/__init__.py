"""Running what was built: loading a GGUF file with llama.cpp and talking to it."""

from __future__ import annotations
