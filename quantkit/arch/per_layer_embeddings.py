"""Embeddings for each layer (Gemma 3n and 4): a second table of rows for tokens, of which every layer gets a part.

The parts of a token's row are added to a projection of its embedding, and each layer multiplies with its own.
"""

from __future__ import annotations

from quantkit.arch.base import Config, Rule, layers, positive
from quantkit.arch.decoder import linear, vector
from quantkit.errors import ArchitectureError

_TABLE, _PROJECTION = "per_layer_token_embd", "per_layer_model_proj"
# llama.cpp looks up and multiplies by the matrices themselves.
WITHOUT_LORA = (f"{_TABLE}.weight", f"{_PROJECTION}.weight")


def per_layer_size(config: Config) -> int:
    """The width of one layer's part; 0 for a model without such embeddings."""
    return positive(config, "hidden_size_per_layer_input") if config.get("hidden_size_per_layer_input") else 0


def layer_rules(config: Config) -> list[Rule]:
    """The tensors of every layer, if the model has such embeddings."""
    size, hidden = per_layer_size(config), positive(config, "hidden_size")
    if not size:
        return []
    return [
        *linear("per_layer_input_gate", "inp_gate", size, hidden),
        *linear("per_layer_projection", "proj", hidden, size),
        vector("post_per_layer_input_norm", "post_norm", hidden),
    ]


def embedding_rules(config: Config, *, further: int = 0) -> list[Rule]:
    """The table, the projection and its norm, if the model has such embeddings.

    Args:
        config: config.json.
        further: rows that the embedding may have more than the table: that of Gemma 3n has none for tokens of pictures
            and sound. In the file they are zero, as the converter writes them.

    Raises:
        ArchitectureError: the table has not as many rows as llama.cpp needs.
    """
    size, hidden, rows = per_layer_size(config), positive(config, "hidden_size"), positive(config, "vocab_size")
    if not size:
        return []
    own, width = positive(config, "vocab_size_per_layer_input"), layers(config) * size
    if not own <= rows <= own + further:
        raise ArchitectureError(
            f"config.json: vocab_size is {rows}, but vocab_size_per_layer_input {own}; llama.cpp needs as many",
            hint="train without changing the size of the vocabulary",
        )
    return [
        Rule(
            "model.embed_tokens_per_layer.weight",
            f"{_TABLE}.weight",
            (rows, width),
            source_shape=(own, width),
        ),
        *linear("model.per_layer_model_projection", _PROJECTION, width, hidden),
        vector("model.per_layer_projection_norm", "per_layer_proj_norm", size),
    ]
