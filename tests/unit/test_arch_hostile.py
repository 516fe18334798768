"""Settings that no model has, in every family: each is refused by name, or makes nothing that is large."""

from __future__ import annotations

import sys
from itertools import cycle
from typing import Any

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the limits are Linux's", allow_module_level=True)

from quantkit.arch.families import find_architecture
from tests.support.checkpoints import KINDS
from tests.support.fuzz.invariant import fault, hold
from tests.support.fuzz.reader import Reader

_DEFAULTS = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
}


def _plan(config: dict[str, Any]) -> None:
    architecture = find_architecture(config, "config.json")
    settings = architecture.settings(config)
    for entry in architecture.metadata(settings):
        assert entry.encoded
    architecture.rules(settings)


@pytest.mark.parametrize("values", [(2**31 - 1,), ("x", [1])], ids=["large", "no-number"])
def test_every_setting_of_every_family(values: tuple[object, ...]) -> None:
    faults = {}
    turns = cycle(values)
    for name, kind in KINDS.items():
        config = {**_DEFAULTS, **kind.config}
        for key in sorted(config.keys() - {"architectures", "model_type", "auto_map"}):
            changed = {**config, key: next(turns)}
            reader = Reader(key, tuple, lambda data, changed=changed: _plan(changed))
            try:
                hold(reader, b"")
            except BaseException as error:  # TooSlowError is no Exception
                faults[fault(error)] = f"{name} {key}"
    assert faults == {}
