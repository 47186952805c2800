"""The Chinese README and pages say what the English ones do: the same commands, code and links, and no gaps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.catalog import Message
from babel.messages.pofile import read_po

ROOT = Path(__file__).resolve().parents[2]
LOCALE = ROOT / "docs/locale/zh_CN/LC_MESSAGES"
PAGES = ("first-build", "operating", "index")
CODE = re.compile(r"`[^`]*`")
LINK = re.compile(r"\]\(([^)]*)\)")


def blocks(text: str) -> list[list[str]]:
    """Return the lines of the fenced blocks without remarks."""
    found = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)
    return [[re.sub(r"\s+#.*", "", line) for line in block.splitlines()] for block in found]


def headings(text: str) -> list[int]:
    """Return the levels of the headings outside of blocks."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [len(found) for found in re.findall(r"^(#+) ", outside, re.MULTILINE)]


@pytest.fixture(scope="module")
def readmes() -> tuple[str, str]:
    return tuple((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))  # type: ignore[return-value]


def test_the_commands_are_the_same(readmes: tuple[str, str]) -> None:
    english, chinese = readmes
    assert blocks(english) == blocks(chinese)
    assert [row.split("|")[1] for row in english.splitlines() if row.startswith("| `")] == [
        row.split("|")[1] for row in chinese.splitlines() if row.startswith("| `")
    ]


def test_the_links_are_the_same(readmes: tuple[str, str]) -> None:
    english, chinese = ({*LINK.findall(text)} for text in readmes)
    assert english - {"README.zh-CN.md"} == chinese - {"README.md"}
    assert "README.zh-CN.md" in english and "README.md" in chinese


def test_the_chapters_are_the_same(readmes: tuple[str, str]) -> None:
    english, chinese = map(headings, readmes)
    assert [*english, 2] == chinese  # and one of terms


def messages(page: str) -> list[Message]:
    with (LOCALE / f"{page}.po").open("rb") as stream:
        return [message for message in read_po(stream, locale="zh_CN") if message.id]


@pytest.mark.parametrize("page", PAGES)
def test_each_message_is_translated(page: str) -> None:
    found = messages(page)
    assert len(found) > 10
    assert [message.id for message in found if not message.string or message.fuzzy] == []


@pytest.mark.parametrize("page", PAGES)
def test_messages_keep_code_and_links(page: str) -> None:
    for message in messages(page):
        english, chinese = str(message.id), str(message.string)
        assert sorted(CODE.findall(english)) == sorted(CODE.findall(chinese)), english
        assert sorted(LINK.findall(english)) == sorted(LINK.findall(chinese)), english
