"""axe-core, which finds what hinders people who use a keyboard or a screen reader. npm fetches it, pinned by digest."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from browser import Page

VERSION = "4.14.1"
INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
"""Of the package's tarball, as npm writes it in package-lock.json."""
CACHE = Path(__file__).resolve().parents[1] / "out" / "axe-core"
MEMBER = "package/axe.min.js"


def source() -> str:
    """The text of axe-core; the test is skipped where npm cannot fetch it."""
    cached = CACHE / f"{VERSION}.js"
    if not cached.is_file():
        text = _fetched()
        CACHE.mkdir(parents=True, exist_ok=True)
        beside = cached.with_suffix(f".{hashlib.sha256(text).hexdigest()[:8]}.part")
        beside.write_bytes(text)
        beside.replace(cached)
    return cached.read_text(encoding="utf-8")


def _fetched() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is missing: it fetches axe-core, which judges pages for people with a screen reader")
    with tempfile.TemporaryDirectory() as folder:
        argv = [npm, "pack", "--silent", "--ignore-scripts", f"axe-core@{VERSION}"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode or not found:
            pytest.skip(f"npm cannot fetch axe-core {VERSION}: {done.stderr.strip()[-300:]}")
        digest = base64.b64encode(hashlib.sha512(found[0].read_bytes()).digest()).decode()
        assert f"sha512-{digest}" == INTEGRITY, "this is another axe-core than the one that is pinned"
        with tarfile.open(found[0]) as archive:
            member = archive.extractfile(MEMBER)
            assert member is not None
            return member.read()


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong in a page, a line each."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(f"{source()}; 0")
    # It colours nothing and loads nothing; every rule is asked, also those of best practice.
    found: dict[str, Any] = json.loads(page.evaluate("axe.run(document, {preload: false}).then(JSON.stringify)"))
    assert found["passes"], "it has looked at nothing"
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]} ({node.get('failureSummary', '')[:300]})"
        for each in found["violations"]
        for node in each["nodes"][:3]
    ]
