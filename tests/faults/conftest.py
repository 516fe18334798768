"""Sound folders to break, made once each and copied for every test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantkit.convert import convert
from tests.faults.case import Case, write_adapter
from tests.faults.defect import PLAIN, Base

_TINY = {"hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2}

MakeCase = Callable[..., Case]


@pytest.fixture(scope="session")
def sound(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Base], Case]:
    """A sound case of a base: a checkpoint, its adapter, its F16 GGUF file. Not to be changed."""
    made: dict[str, Case] = {}

    def get(base: Base) -> Case:
        if repr(base) not in made:
            case = Case(tmp_path_factory.mktemp("sound"))
            shutil.copytree(checkpoint(base.kind, **{**_TINY, **base.options}), case.model)
            write_adapter(case.adapter, case.model)
            convert(case.model, case.gguf, device="cpu")
            made[repr(base)] = case
        return made[repr(base)]

    return get


@pytest.fixture
def new_case(sound: Callable[[Base], Case], tmp_path: Path) -> Iterator[MakeCase]:
    """``new_case(base)``: copies of a sound case that may be broken; removed after the test."""

    def make(base: Base = PLAIN) -> Case:
        case = Case(tmp_path / "case")
        shutil.copytree(sound(base).root, case.root)
        case.outputs.mkdir()
        return case

    yield make
    shutil.rmtree(tmp_path / "case", ignore_errors=True)
