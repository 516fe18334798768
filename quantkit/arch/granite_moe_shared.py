"""Granite's mixtures of experts with a shared MLP: :mod:`quantkit.arch.granite_moe` with the class's other defaults."""

from __future__ import annotations

from dataclasses import replace

from quantkit.arch import granite_moe
from quantkit.arch.class_defaults import CLASS_DEFAULTS

ARCHITECTURE = replace(granite_moe.ARCHITECTURE, defaults=CLASS_DEFAULTS["granitemoeshared"])
