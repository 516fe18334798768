"""The Chinese documents follow the English ones; tests of all documents try their commands and links."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import click
import pytest

from quantkit.cli.main import cli
from quantkit.jobs.recipe import Recipe
from quantkit.jobs.recipe_fields import RECIPE_FIELDS
from quantkit.run.commands import COMMANDS as CHAT_COMMANDS
from tests.support.documents import DOCS, ROOT, blocks, prose

FOLDER = DOCS / "zh-CN"
# Each English document with its translation, and whether that may say more: of what only concerns Chinese readers.
PAIRS = {"README.md": ("README.zh-CN.md", False), "docs/quick-start.md": ("docs/zh-CN/quick-start.md", True)}
# The way to the other language, which each has for itself.
OTHER_LANGUAGE = {"README.md", "README.zh-CN.md", "docs/zh-CN/README.md"}
PAGES = [ROOT / "README.zh-CN.md", *sorted(FOLDER.glob("*.md"))]
# Options of other programs.
FOREIGN = {"--adapters", "--extra-index-url", "--prefer-binary", "--system-site-packages"}
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


def differences(english: str, chinese: str, *, more: bool) -> Iterator[str]:
    """In what a translation does not follow; *more*: it may also say what the English does not."""
    theirs, ours = sections(english), sections(chinese)
    if [part.level for part in theirs] != [part.level for part in ours]:
        yield f"headings: {[part.title for part in theirs]} are {[part.title for part in ours]}"
        return
    for said, told in zip(theirs, ours, strict=True):
        where = f"{said.title} ({told.title}): "
        if said.rows != told.rows:
            yield f"{where}{said.rows} lines of tables are {told.rows}"
        pages = (pages_of(said.links), pages_of(told.links)) if more else (said.links, told.links)
        for name, before, after in (("code", said.code, told.code), ("links", *pages)):
            if lacking := before - after:
                yield f"{where}{name} not in Chinese: {list(lacking)}"
            if (surplus := after - before) and not more:
                yield f"{where}{name} only in Chinese: {list(surplus)}"
        if said.blocks != told.blocks:
            yield f"{where}{said.blocks} are {told.blocks}"


def pages_of(targets: Counter[str]) -> Counter[str]:
    """The names of the pages: each folder has its own, with headings in its language."""
    names = [PurePosixPath(target.partition("#")[0]).name for target in targets.elements()]
    return Counter({name for name in names if name})


@pytest.mark.parametrize("english", PAIRS)
def test_the_translation_follows(english: str) -> None:
    chinese, more = PAIRS[english]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (english, chinese)]
    assert sections(texts[0])
    assert list(differences(*texts, more=more)) == []


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
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert before in english
    assert said in "\n".join(differences(english.replace(before, after), chinese, more=False))


def options(command: click.Command) -> set[str]:
    context = click.Context(command, **command.context_settings)  # a command keeps its help option for later calls
    found = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    names = command.list_commands(context) if isinstance(command, click.Group) else ()
    below = [inner for name in names if (inner := command.get_command(context, name))]  # type: ignore[attr-defined]
    return found.union(*map(options, below))


def test_options_in_the_text_exist() -> None:
    known = options(cli) | FOREIGN
    for page in PAGES:
        code = " ".join(re.findall(r"`[^`]+`", prose(page)))
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= known, page.name


def test_commands_of_a_chat_exist() -> None:
    named = set(re.findall(r"`(/[a-z]+)(?: [^`]*)?`", prose(FOLDER / "chat-and-serve.md"))) - {"/v1"}
    assert len(named) > 8
    assert named <= set(CHAT_COMMANDS)


def test_recipes_are_recipes() -> None:
    for block in (block for page in PAGES for block in blocks(page) if block.language == "toml"):
        settings = tomllib.loads(block.text)
        assert Recipe(**{key: RECIPE_FIELDS[key].read(value) for key, value in settings.items()})


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
