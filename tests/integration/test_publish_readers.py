"""Readers of a repository whose publishers are killed at random moments: in a folder, and on a WebDAV server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.dav import WRITER, dav_of, nginx_image
from integration.readers import reading
from thorough import whole

if TYPE_CHECKING:
    from conftest import Engine

    from .conftest import Warm, Web

HERE = Path(__file__).resolve().parent
PUBLICATIONS, KEEP = 500 if whole("readers") else 40, 12
BY_HTTP = 40 if whole("readers") else 20
"""Publications to a server: each is dozens of requests."""


@contextmanager
def publishers(folder: Path, count: int, url: str = "") -> Iterator[Iterator[str]]:
    """Run republish.py; its lines, without the first, which says that there is something to read."""
    argv = [sys.executable, str(HERE / "republish.py"), str(folder), str(count), "7", str(KEEP), url]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIKAFORGE_")}
    env["REPUBLISH_USER"], env["REPUBLISH_PASSWORD"] = WRITER.user, WRITER.password
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield (line.strip() for line in process.stdout)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def watch(folder: Path, readers_url: str, count: int, url: str = "") -> dict[str, int]:
    """Publish `count` times under readers; nothing they read may be bad. How often it was done, and killed."""
    told = {"done": 0, "killed": 0}
    with publishers(folder, count, url) as lines, reading(readers_url, keep=KEEP) as readers:
        for line in lines:
            if line in told:
                told[line] += 1
            if any(reader.bad for reader in readers):
                pytest.fail(str([reader.bad for reader in readers]))
    print(told, [(reader.rounds, reader.late, reader.torn) for reader in readers])
    assert [reader.bad for reader in readers] == [[], []]
    assert told["done"] == count
    assert told["killed"] >= count / 10, "the kills came too late to mean anything"
    rounds, late = sum(reader.rounds for reader in readers), sum(reader.late for reader in readers)
    assert rounds >= count / 10
    assert late <= rounds / 10, "readers were too slow to see anything"
    return told


@pytest.mark.xdist_group("publish-readers")
@pytest.mark.long(40)
def test_no_reader_of_a_folder_sees_anything_but_whole_states(web: Callable[[Path], Web], tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    watch(tmp_path, web(tmp_path / "root").url, PUBLICATIONS)
    left = list((tmp_path / "root/debian12/.R620.generations").iterdir())
    assert len(left) <= 4  # two, and what the last one killed has left


@pytest.mark.engine
@pytest.mark.xdist_group("publish-web")
@pytest.mark.long(30)
def test_no_reader_of_a_server_sees_anything_but_whole_states(
    engine: Engine, warm: Warm, until: Callable[..., None], tmp_path: Path
) -> None:
    with dav_of(engine, nginx_image(engine, warm), until) as dav:
        watch(tmp_path, dav.readers, BY_HTTP, dav.url)
        listing = dav.listing()
        assert not [name for name in listing if name.endswith(".part")]
        assert ".pending.json" not in listing
