"""Fuzzes one reader in this process, until libFuzzer ends it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import atheris

from quantkit.errors import QuantkitError
from tests.support.fuzz.invariant import fault, hold, shown
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.registry import load
from tests.support.fuzz.scratch import clear

_RAW = 8  # one input in so many is changed without its structure


def fuzz(name: str, findings: Path, options: Sequence[str]) -> None:
    """Fuzz a reader; libFuzzer ends the process.

    Args:
        name: of the reader.
        findings: a folder for the first input of each new fault, and its traceback.
        options: of libFuzzer, and folders of inputs.
    """
    reader = load(name)
    for seed in Path(options[-1]).glob("seed-*"):  # without limits: some of it is imported when it is first used
        clear()
        with suppress(QuantkitError):
            reader.read(seed.read_bytes())
    arguments = {} if reader.mutate is None else {"custom_mutator": _mutator(reader)}
    atheris.Setup([sys.argv[0], *options], _tester(reader, findings), **arguments)
    atheris.Fuzz()


def _tester(reader: Reader, findings: Path) -> Callable[[bytes], None]:
    """What ends the process is not seen here; libFuzzer keeps it."""
    known: set[str] = set()

    def test(data: bytes) -> None:
        try:
            hold(reader, data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if (found := fault(error)) not in known:
                known.add(found)
                path = findings / f"{reader.name}-{hashlib.sha256(found.encode()).hexdigest()[:12]}"
                path.write_bytes(data)
                path.with_suffix(".txt").write_text(f"{found}\n\n{shown(error)}", encoding="utf-8", errors="replace")
                print(f"{path.name}: {found}: {str(error)[:200]!r}", file=sys.stderr, flush=True)

    return test


def _mutator(reader: Reader) -> Callable[[bytes, int, int], bytes]:
    mutate = reader.mutate
    assert mutate is not None

    def changed(data: bytes, largest: int, seed: int) -> bytes:
        random = Random(seed)
        if not random.randrange(_RAW):
            return bytes(atheris.Mutate(data, largest))
        new = mutate(data, random)
        return new if len(new) <= largest else data

    return changed
