"""Images that tests make for themselves, kept in the engine for later test runs (engine_images.py)."""

from __future__ import annotations

import io
import json
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_images import OWN, note

from pikaforge.host.store import locked

if TYPE_CHECKING:
    from conftest import Engine

    from .conftest import Warm

ROOT = Path(__file__).resolve().parents[2]
TOGETHER = "RUN apt-get update \\\n && "
"""How a Dockerfile here begins to install something."""


def image_of(engine: Engine, text: str, name: str) -> str:
    """Build an image from the text of a Dockerfile, unless it is there; its tag.

    The lists of packages, which take longer than many a package, get a layer of their own, which images with one base
    share; by the day, because old lists name packages that are gone.
    """
    tag = note(f"{OWN}{name}:{sha256(text.encode()).hexdigest()[:16]}")
    text = text.replace(TOGETHER, f"RUN apt-get update # {date.today()}\nRUN ")
    with locked(ROOT / "out" / ".tests-images"):  # else two workers would make the same at the same time
        if not engine.tags(tag):
            from docker.errors import BuildError

            try:
                engine.client.images.build(fileobj=io.BytesIO(text.encode()), tag=tag, rm=True, forcerm=True)
            except BuildError as error:
                pytest.skip(f"packages cannot be installed into the runtime image (no mirror?): {error}")
    return tag


def base_of(warm: Warm) -> str:
    """The runtime image of Debian 12."""
    records = [warm.store / "image" / key / "result.json" for key in warm.keys["image"]]
    facts: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8"))["facts"] for path in records]
    return next(str(f["runtime"]) for f in facts if "/debian12-" in f.get("runtime", ""))
