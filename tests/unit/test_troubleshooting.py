"""docs/troubleshooting.md: each of its headings is a message that the program gives, and the advice fits."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quantkit.cli.main import main
from tests.support.documents import DOCS, ROOT, headings
from tests.support.patience import PATIENCE
from tests.support.troubles import TROUBLES, Trouble, make_workplace

PAGE = DOCS / "troubleshooting.md"
MESSAGES = [text for level, text in headings(PAGE) if level == 3]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("troubles")
    make_workplace(folder)
    return folder


def message(heading: str) -> re.Pattern[str]:
    """A heading as a pattern: an ellipsis stands for anything."""
    return re.compile(".+".join(map(re.escape, heading.split("…"))))


def here(typed: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code and stderr of a command."""
    with pytest.raises(SystemExit) as leaving:
        main(shlex.split(typed))
    return leaving.value.code, capsys.readouterr().err


def apart(typed: str) -> tuple[object, str]:
    """The same in a process without torch, while somebody listens at ``{port}``."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = typed.format(port=listening.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "quantkit", *shlex.split(line)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
            capture_output=True, encoding="utf-8", check=False, timeout=PATIENCE,
        )  # fmt: skip
    return done.returncode, done.stderr


def test_the_page_and_the_table_have_the_same_messages() -> None:
    assert [trouble.heading for trouble in TROUBLES] == MESSAGES
    assert len(MESSAGES) == len(set(MESSAGES))


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.heading)
def test_the_program_says_so(
    trouble: Trouble, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # the discard port, where nothing listens
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(workplace / "no-token"))
    if trouble.breaks is not None:
        shutil.rmtree("thing", ignore_errors=True)
        shutil.copytree(trouble.of, "thing")
        trouble.breaks(workplace / "thing")
    code, said = apart(trouble.types) if trouble.types.startswith("serve ") else here(trouble.types, capsys)
    (error,) = re.findall(r"^error: (.*)$", said, re.MULTILINE)
    assert code == trouble.code, said
    assert message(trouble.heading).search(error), said
    assert not (workplace / "out").exists(), "nothing is left behind"


def test_a_heading_that_no_message_has_is_found() -> None:
    assert message("architecture … is not supported").search("x/config.json: architecture 'XY' is not supported")
    assert not message("architecture … is not supported").search("architecture is not supported")
