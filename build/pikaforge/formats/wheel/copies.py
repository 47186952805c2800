"""The copies of files in a wheel that stand for links, which a wheel cannot hold. Its about.json lists them."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pikaforge.formats.wheel.wheel import followed

ABOUT = re.compile(r"[^/]+/about\.json")
LIMIT = 16 << 20
"""Bytes of an about.json."""


class ListedLinks(BaseModel):
    """Part of about.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    links: dict[str, str]


def copies(path: Path) -> dict[str, str]:
    """Return which members of a wheel are copies for links, by its about.json; nothing if it has none that is good."""
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = filter(ABOUT.fullmatch, archive.namelist())
            with archive.open(name) as stream:
                text = stream.read(LIMIT)
        links = ListedLinks.model_validate_json(text).links
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error):
        return {}
    top = f"{name.partition('/')[0]}/tree"
    return {f"{top}/{link}": f"{top}/{followed(link, links)}" for link in links}
