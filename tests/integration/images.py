"""Images that tests make for themselves, kept in the engine for later test runs."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Engine

    from .conftest import Warm


def image_of(engine: Engine, text: str, name: str) -> str:
    """Build an image from the text of a Dockerfile, unless it is there; its tag."""
    tag = f"pikaforge-test/{name}:{sha256(text.encode()).hexdigest()[:16]}"
    if not engine.client.images.list(tag):
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
