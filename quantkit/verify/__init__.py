"""Checks on what was built, each with its figure and its evidence."""

from __future__ import annotations
