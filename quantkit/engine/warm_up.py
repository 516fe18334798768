"""What a CUDA device needs before the first range, made ready while headers and vocabulary are read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from quantkit.checkpoint.dtypes import TORCH_DTYPES
from quantkit.engine.device import Workers
from quantkit.errors import QuantkitError
from quantkit.ggml.types import UNQUANTIZED, GGMLType
from quantkit.kernels import loaded
from quantkit.kernels.formats import FORMATS

# The types llama.cpp mixes into those of their name.
_MIXED_IN = frozenset({GGMLType.Q6_K})


@contextmanager
def warming_up(workers: Workers, quants: Collection[str], outtype: str) -> Iterator[None]:
    """Warm the devices up in a thread of its own; when this is left it has ended.

    Args:
        workers: where will be computed.
        quants: the types that will be made, by llama-quantize's names.
        outtype: the type weights are rounded to before.
    """
    if not workers.cuda:
        yield
        return
    named = {quant.upper().removesuffix("_S").removesuffix("_M").removesuffix("_L") for quant in quants}
    kinds = [kind for kind in FORMATS if kind.name in named] + [kind for kind in _MIXED_IN if named]
    thread = threading.Thread(target=_warm_up, args=(workers.devices, dict.fromkeys(kinds), UNQUANTIZED[outtype]))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _warm_up(devices: Collection[torch.device], kinds: Collection[GGMLType], source: GGMLType) -> None:
    # What fails here fails again where it is needed, and is reported there.
    with contextlib.suppress(QuantkitError, RuntimeError):
        for device in devices:
            with torch.cuda.device(device):
                rows = torch.zeros(64, 256, device=device)
                rows.addmm_(rows[:, :16], rows[:16]).aminmax()
                blocks = rows.to(TORCH_DTYPES[source])
                for kind in kinds:
                    loaded.encoder(device, kind, source).encode(kind, blocks)
                torch.cuda.synchronize()
