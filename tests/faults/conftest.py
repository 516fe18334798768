"""Sound folders to break, made once each and copied for every test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checkpoints.case import Case
from tests.checkpoints.defect import PLAIN, Base
from tests.checkpoints.sound import copy_of, make_sound

MakeCase = Callable[..., Case]


@pytest.fixture(scope="session")
def sound(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Base], Case]:
    """A sound case of a base. Not to be changed."""
    made: dict[str, Case] = {}

    def get(base: Base) -> Case:
        if repr(base) not in made:
            made[repr(base)] = make_sound(tmp_path_factory.mktemp("sound"), base, checkpoint)
        return made[repr(base)]

    return get


@pytest.fixture
def new_case(sound: Callable[[Base], Case], tmp_path: Path) -> Iterator[MakeCase]:
    """``new_case(base)``: copies of a sound case that may be broken; removed after the test."""
    yield lambda base=PLAIN: copy_of(sound(base), tmp_path / "case")
    shutil.rmtree(tmp_path / "case", ignore_errors=True)
