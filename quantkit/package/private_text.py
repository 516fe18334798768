"""Looks for what must not leave this machine in the texts of a package: tokens, local paths, names of users."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}\b|\bms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bgithub_pat_[A-Za-z0-9_]{30,}\b"
    r"|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# A folder of some user, wherever it was.
_HOMES = re.compile(r"(?:/home|/Users)/[\w.-]+/|\b[A-Za-z]:[\\/]+Users[\\/]+[\w.-]+|/root/", re.IGNORECASE)
# Names of accounts that say nothing of a person.
_ANYBODY = frozenset({"root", "user", "admin", "ubuntu", "runner", "nobody", "guest", "system", "home", "test"})
_SHORTEST = 4


@dataclass(frozen=True)
class Machine:
    """What would tell something about this machine.

    Attributes:
        secrets: tokens of the environment.
        paths: absolute paths: of the user, of the current folder, of the package.
        user: the user's name, "" where it says nothing.
    """

    secrets: tuple[str, ...]
    paths: tuple[str, ...]
    user: str


@dataclass(frozen=True)
class Finding:
    """Something private in a text.

    Attributes:
        where: the file, or the file and its key.
        what: what it is, without the secret itself.
        certain: whether it is this machine's, or a token; else it only looks like something private.
    """

    where: str
    what: str
    certain: bool


def this_machine(folder: Path) -> Machine:
    """What to look for here, for a package in *folder*."""
    paths = {str(Path.home()), os.path.abspath(os.curdir), os.path.abspath(folder), os.path.realpath(folder)}
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "OLLAMA_API_KEY", "OPENAI_API_KEY")
    secrets = tuple(value for name in names if len(value := os.environ.get(name, "").strip()) >= _SHORTEST)
    user = Path.home().name
    plain = len(user) < _SHORTEST or user.lower() in _ANYBODY
    # A folder at the root of the disk, such as /tmp, says nothing, and stands in many texts.
    return Machine(secrets, tuple(sorted(path for path in paths if len(Path(path).parts) > 2)), "" if plain else user)


def find_private(texts: Iterable[tuple[str, str]], machine: Machine) -> Iterator[Finding]:
    """What is private in texts, each given with where it stands; one finding of a kind for each text."""
    for where, text in texts:
        if _TOKENS.search(text) or any(secret in text for secret in machine.secrets):
            yield Finding(where, "an access token or a private key", True)
        spelled = text.replace("\\\\", "\\")  # in JSON
        if own := [path for path in machine.paths if re.search(rf"{re.escape(path)}(?![\w-])", spelled)]:
            yield Finding(where, f"the local path {max(own, key=len)}", True)
        elif found := _HOMES.search(spelled):
            yield Finding(where, f"what looks like a local path, {found[0]}", False)
        if machine.user and re.search(rf"(?<![\w-]){re.escape(machine.user)}(?![\w-])", text):
            yield Finding(where, f"the name of your account, {machine.user}", False)
