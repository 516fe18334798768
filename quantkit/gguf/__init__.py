"""GGUF files: metadata, headers, outputs planned and models read."""
