"""``--ignore``: files and folders that the user knows and does not want."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Ignored:
    """What may be passed over.

    Attributes:
        patterns: for fnmatch, of names in the folder of a model or an adapter: ``FILE``, ``FOLDER`` or ``FOLDER/FILE``.
    """

    patterns: tuple[str, ...] = ()

    def covers(self, name: str) -> bool:
        """Whether a file or folder, or the folder that it is in, may be passed over.

        Args:
            name: relative to the folder of the model or adapter; a ``/`` at its end does not matter.
        """
        return any(self.covered_by(pattern, name) for pattern in self.patterns)

    @staticmethod
    def covered_by(pattern: str, name: str) -> bool:
        """The same for one pattern."""
        plain, wanted = name.rstrip("/"), pattern.removeprefix("./").rstrip("/")
        return any(fnmatchcase(part, wanted) for part in (plain, plain.partition("/")[0]))


NOTHING = Ignored()
"""Nothing may be passed over."""
