"""Torch modules around single tensors, at their paths in a model: as much of a model as merging one module needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from quantkit.adapter.resized import EMBEDDINGS


class Norm(nn.Module):
    """A vector of weights: all that merging needs of a norm."""


def layer_of(module: str, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """A torch module of the right class around *weight*."""
    layer: nn.Module
    with torch.device("meta"):
        if weight.dim() != 2:
            layer = Norm()
        elif module.rpartition(".")[2] in EMBEDDINGS:
            layer = nn.Embedding(*weight.shape)
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def tree_of(layers: Mapping[str, nn.Module]) -> nn.Module:
    """A model that has these modules at these paths."""
    root = nn.Module()
    for path, layer in layers.items():
        *parents, leaf = path.split(".")
        node = root
        for name in parents:
            if name not in node._modules:
                node.add_module(name, nn.Module())
            node = node.get_submodule(name)
        node.add_module(leaf, layer)
    return root
