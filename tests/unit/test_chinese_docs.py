"""The Chinese documents follow the English ones, and what they tell people to type and to look up exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from quantkit.cli.main import cli
from quantkit.ggml.types import ftype_name
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_fields import RECIPE_FIELDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "zh-CN"
# Each English document with its translation.
PAIRS = {"README.md": "README.zh-CN.md"}
# The way to the other language, which each has for itself.
OTHER_LANGUAGE = {"README.md", "README.zh-CN.md", "docs/zh-CN/README.md"}
PAGES = [ROOT / "README.zh-CN.md", *sorted(FOLDER.glob("*.md"))]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """What a translation keeps of a heading and what is below it.

    Attributes:
        title: the heading, which it translates.
        level: of the heading.
        rows: number of lines of tables.
        code: what is in backticks.
        links: where links lead.
        blocks: fenced blocks, without comments, which it translates.
    """

    title: str
    level: int
    rows: int
    code: Counter[str]
    links: Counter[str]
    blocks: tuple[str, ...]


def sections(text: str) -> list[Section]:
    fenced = [match[2] for match in _FENCED.finditer(text)]
    found = []
    for part in re.split(r"^(?=#{1,6} )", _FENCED.sub("```\n", text), flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        own = [re.sub(r"(?m)\s+#\s.*$", "", fenced.pop(0)) for _ in range(rest.count("```\n"))]
        rest = rest.replace("```\n", "")
        found.append(
            Section(
                title.lstrip("# "),
                len(title) - len(title.lstrip("#")),
                len(re.findall(r"(?m)^\|", rest)),
                Counter(re.findall(r"(?<!`)`([^`]+)`(?!`)", " ".join(rest.split()))),
                Counter(target for target in links(rest) if target not in OTHER_LANGUAGE),
                tuple(own),
            )
        )
    return found


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`]*`", "", text))


def differences(english: str, chinese: str) -> Iterator[str]:
    """In what a translation does not follow."""
    theirs, ours = sections(english), sections(chinese)
    if [part.level for part in theirs] != [part.level for part in ours]:
        yield f"headings: {[part.title for part in theirs]} are {[part.title for part in ours]}"
        return
    for said, told in zip(theirs, ours, strict=True):
        where = f"{said.title} ({told.title}): "
        if said.rows != told.rows:
            yield f"{where}{said.rows} lines of tables are {told.rows}"
        for name, before, after in (("code", said.code, told.code), ("links", said.links, told.links)):
            if lacking := before - after:
                yield f"{where}{name} not in Chinese: {list(lacking)}"
            if surplus := after - before:
                yield f"{where}{name} only in Chinese: {list(surplus)}"
        if said.blocks != told.blocks:
            yield f"{where}{said.blocks} are {told.blocks}"


@pytest.mark.parametrize(("english", "chinese"), PAIRS.items())
def test_the_translation_follows(english: str, chinese: str) -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (english, chinese)]
    assert sections(texts[0])
    assert list(differences(*texts)) == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("--keep-f16", "--keep-f17", "code not in Chinese"),
        ("quantkit serve my-model ", "quantkit serve my-modell ", "are ("),
        ("docs/serve.md", "docs/push.md", "links not in Chinese"),
        ("\n## How fast\n", "\n### How fast\n", "headings"),
        ("make demo  ", "make demos  ", "are ("),
        ("| `quantkit doctor` |", "", "lines of tables"),
    ],
)
def test_a_change_in_english_is_noticed(before: str, after: str, said: str) -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in next(iter(PAIRS.items())))
    assert before in english
    assert said in "\n".join(differences(english.replace(before, after), chinese))


def commands() -> list[str]:
    blocks = [match for page in PAGES for match in _FENCED.findall(page.read_text(encoding="utf-8"))]
    lines = [line for language, text in blocks if language == "sh" for line in text.splitlines()]
    return sorted({words for line in lines for words in quantkit_commands(line)})


def quantkit_commands(line: str) -> Iterator[str]:
    for part in re.split(r"\||&&|(?<!\S)#", line):
        if match := re.match(r"\s*(?:\w+=\S+ )?(quantkit .*?)\s*\Z", part):
            yield match[1]


def test_commands_parse() -> None:
    found = commands()
    assert len(found) > 30
    for line in found:
        _, *arguments = shlex.split(line.partition(" < ")[0])
        command: click.Command = cli
        while isinstance(command, click.Group):
            inner = command.get_command(click.Context(cli), arguments.pop(0))
            assert inner is not None, line
            command = inner
        with command.make_context(str(command.name), arguments) as context:
            for name in context.params.get("quants") or ():
                ftype_name(name)
            if template := context.params.get("template"):
                Recipe("model", template=template)


def test_recipes_are_recipes() -> None:
    for page in PAGES:
        for language, text in _FENCED.findall(page.read_text(encoding="utf-8")):
            if language == "toml":
                assert Recipe(**{key: RECIPE_FIELDS[key].read(value) for key, value in tomllib.loads(text).items()})


def anchors(page: Path) -> set[str]:
    titles = [part.title for part in sections(page.read_text(encoding="utf-8"))]
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if not target.startswith("http"):
            there = (page.parent / path).resolve() if path else page
            assert there.is_file(), target
            assert not anchor or anchor in anchors(there), target


def test_the_index_has_every_page() -> None:
    index = links((FOLDER / "README.md").read_text(encoding="utf-8"))
    assert {page.name for page in FOLDER.glob("*.md")} - {"README.md"} <= set(index)
    assert "docs/zh-CN/README.md" in links(PAGES[0].read_text(encoding="utf-8"))


def test_the_messages_to_look_up_are_said() -> None:
    """A heading in backticks is a part of a message, word for word."""
    titles = [part.title for part in sections((FOLDER / "troubleshooting.md").read_text(encoding="utf-8"))]
    messages = {title[1:-1] for title in titles if re.fullmatch("`.+`", title)}
    assert len(messages) > 15
    for path in (ROOT / "quantkit").rglob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        texts = re.sub(r'"\s*\n\s*[fr]?"', "", code)  # a text on several lines
        messages = {message for message in messages if message not in texts}
    assert messages == set()
