"""The copies of files in a wheel that stand for links, which a wheel cannot hold. Its about.json lists them."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pikaforge.errors import AuditError
from pikaforge.formats.wheel.wheel import followed
from pikaforge.host.archives import archive_errors
from pikaforge.host.zips import zip_members

ABOUT = re.compile(r"[^/]+/about\.json")
LIMIT = 16 << 20
"""Bytes of an about.json."""


class ListedLinks(BaseModel):
    """Part of about.json."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    links: dict[str, str]


def copies(path: Path) -> dict[str, str]:
    """Return which members of a wheel are copies for links, by its about.json; nothing if it has none that is good."""
    try:
        with archive_errors(str(path)), path.open("rb") as stream:
            [(name, text)] = [
                (member.name, member.content.read(LIMIT))
                for member in zip_members(stream, str(path))
                if member.content is not None and ABOUT.fullmatch(member.name)
            ]
        links = ListedLinks.model_validate_json(text).links
    except (OSError, ValueError, AuditError):
        return {}
    top = f"{name.partition('/')[0]}/tree"
    return {f"{top}/{link}": f"{top}/{followed(link, links)}" for link in links}
