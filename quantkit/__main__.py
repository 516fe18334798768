"""``python -m quantkit`` is the ``quantkit`` command."""

from __future__ import annotations

from quantkit.cli.main import entry

if __name__ == "__main__":
    entry()
