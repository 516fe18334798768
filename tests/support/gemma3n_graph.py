"""What llama.cpp computes otherwise than transformers in Gemma 3n, in transformers' model.

Its graph takes the standard deviation of a sample, dividing by n - 1, where transformers divides by n; and ggml takes
GELU from a table of half floats.
"""

from __future__ import annotations

import torch
from torch import nn

# llama.cpp's quantile of the normal distribution for the sparsity that the published models have.
_QUANTILE = 1.6448533535003662
# ggml takes the limit of GELU beyond.
_LIMIT = 10.0


class TableOfGelu(nn.Module):
    """GELU with tanh as ggml has it: of half floats, as half floats."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -_LIMIT, 0.0, torch.where(x >= _LIMIT, x, found))


def keep_largest(x: torch.Tensor) -> torch.Tensor:
    """Activations above the mean plus deviations of a sample, less that."""
    deviation = torch.std(x, dim=-1, keepdim=True, unbiased=True)
    return torch.relu(x - (x.mean(dim=-1, keepdim=True) + deviation * _QUANTILE))


def take_samples_deviation(model: nn.Module) -> None:
    """Make the sparse layers of a ``Gemma3nForCausalLM`` take the deviation of a sample."""
    for layer in model.model.layers:  # type: ignore[union-attr]
        layer.mlp._gaussian_topk = keep_largest


def take_gelu_from_a_table(model: nn.Module) -> None:
    """Make it take GELU from a table of half floats."""
    for layer in model.model.layers:  # type: ignore[union-attr]
        layer.act_fn = layer.mlp.act_fn = TableOfGelu()


def gemma3n_as_llama_cpp(model: nn.Module) -> None:
    """Make it compute what llama.cpp's graph does."""
    take_samples_deviation(model)
    take_gelu_from_a_table(model)
