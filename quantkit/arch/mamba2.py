"""Mamba-2: state-space layers, as several families have them in the place of attention or beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.arch.base import Config, Rule, positive, require
from quantkit.arch.decoder import linear
from quantkit.errors import ArchitectureError
from quantkit.gguf.kv import KV, u32


@dataclass(frozen=True)
class Mamba2:
    """The sizes of a state-space layer.

    Attributes:
        hidden: width of the model.
        inner: width of the layer: number of heads times the size of one.
        heads: number of heads.
        groups: of heads, which share the matrices B and C, and of the norm.
        state: size of a head's state for each of its dimensions.
        kernel: tokens that the convolution sees.
    """

    hidden: int
    inner: int
    heads: int
    groups: int
    state: int
    kernel: int

    @property
    def convolved(self) -> int:
        """Channels of the convolution: the input, B and C."""
        return self.inner + 2 * self.groups * self.state


def mamba2(config: Config, keys: Mapping[str, str], inner: int) -> Mamba2:
    """The sizes in a config.

    Args:
        config: config.json.
        keys: the config's names for ``heads``, ``groups``, ``state`` and ``kernel``, and for ``head``, the size of one.
        inner: width of the layer.

    Raises:
        ArchitectureError: a size is missing, or they do not fit together.
    """
    heads, groups = positive(config, keys["heads"]), positive(config, keys["groups"])
    if inner % heads or inner % groups or heads % groups:
        raise ArchitectureError(
            f"config.json: {heads} state-space heads ({keys['heads']}) in {groups} groups ({keys['groups']}) do not "
            f"divide the layer's width {inner}"
        )
    if config.get(keys["head"]) != "auto":
        require(config, keys["head"], inner // heads)
    state, kernel = positive(config, keys["state"]), positive(config, keys["kernel"])
    return Mamba2(positive(config, "hidden_size"), inner, heads, groups, state, kernel)


def require_mamba2(config: Config, *, conv_bias: str, biases: tuple[str, ...]) -> None:
    """Refuse settings of state-space layers that llama.cpp's graphs do not have.

    Args:
        config: config.json.
        conv_bias: its name for whether the convolution has a bias.
        biases: its names for whether other matrices have one.
    """
    require({conv_bias: bool(config.get(conv_bias, True))}, conv_bias, True)
    for key in biases:
        require({key: bool(config.get(key, False))}, key, False)
    limit = config.get("time_step_limit")
    require(
        {"time_step_limit": list(limit) if isinstance(limit, (list, tuple)) else limit},
        "time_step_limit",
        [0, math.inf],
    )


def mamba2_metadata(arch: str, size: Mamba2) -> list[KV]:
    """The sizes of a state-space layer."""
    return [
        u32(f"{arch}.ssm.conv_kernel", size.kernel),
        u32(f"{arch}.ssm.inner_size", size.inner),
        u32(f"{arch}.ssm.state_size", size.state),
        u32(f"{arch}.ssm.time_step_rank", size.heads),
        u32(f"{arch}.ssm.group_count", size.groups),
    ]


def mamba2_rules(module: str, size: Mamba2, *, norm: bool = True) -> list[Rule]:
    """The tensors of a state-space layer.

    Args:
        module: the checkpoint's name of it, in the layer.
        size: its sizes.
        norm: whether it normalizes before the output matrix.
    """
    width, heads = size.inner + size.convolved + size.heads, (size.heads,)
    groups = (size.groups, size.inner // size.groups)
    return [
        *linear(f"{module}.in_proj", "ssm_in", width, size.hidden),
        Rule(
            f"{module}.conv1d.weight",
            "ssm_conv1d.weight",
            (size.convolved, size.kernel),
            source_shape=(size.convolved, 1, size.kernel),  # torch keeps a dimension of one
        ),
        Rule(f"{module}.conv1d.bias", "ssm_conv1d.bias", (size.convolved,)),
        Rule(f"{module}.dt_bias", "ssm_dt.bias", heads),
        Rule(f"{module}.A_log", "ssm_a", (size.heads, 1), source_shape=heads, compute=negative_exp),
        Rule(f"{module}.D", "ssm_d", (size.heads, 1), source_shape=heads),
        *([Rule(f"{module}.norm.weight", "ssm_norm.weight", groups, source_shape=(size.inner,))] if norm else ()),
        *linear(f"{module}.out_proj", "ssm_out", size.hidden, size.inner),
    ]


def negative_exp(values: npt.NDArray[Any], start: int) -> npt.NDArray[Any]:
    """A from its logarithm, in the type of the values, as llama.cpp's converter computes it with torch.

    In one of a hundred values torch's exponential is not the correctly rounded one, so torch is asked.
    """
    import torch

    found: npt.NDArray[Any] = (-torch.exp(torch.from_numpy(np.array(values)))).numpy()
    return found
