"""The commands of docs/operating.md do what it says: sections about one instance, in their order, on one host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import hosts
import pytest
from integration.trees import Tree

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("hosts"), pytest.mark.long(60)]

TEXT = (Path(__file__).resolve().parents[2] / "docs/operating.md").read_text(encoding="utf-8")
SECTIONS = ("Size", "Watch by hand", "Back up", "Move to another disk")
BACKUP = re.compile(r"(/\S+)/9221-[0-9]{8}-[0-9]{6}")
FAR = "backup.example.org:/srv/pika"


def commands(section: str) -> list[str]:
    """The lines of a section's blocks of shell."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, section
    blocks = re.findall(r"^```sh\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)
    assert blocks, section
    return [line for block in blocks for line in block.splitlines()]


def test_the_commands_of_the_page_work(engine: Engine, sample_tree: Tree) -> None:
    with hosts.together(engine) as group:
        host = group.start("one")
        host.unpack(sample_tree.tar())
        host.sh("mkdir /far; sh /opt/pika/utils/deploy.sh 9221 /data")
        assert host.ask(9221, "SET", "key", "value") == "OK"
        for section in SECTIONS:
            for line in commands(section):
                # The last backup stands for that of the page, and a folder for another host.
                command = BACKUP.sub(lambda found: host.sh(f"ls -d {found[1]}/9221-* | tail -n 1").strip(), line)
                status, output = host.run("sh", "-c", command.replace(FAR, "/far"))
                assert status == 0 or (line.endswith(" check") and status < 3), f"{line}\n{output}"
        assert host.ask(9221, "GET", "key") == host.ask(9321, "GET", "key") == "value"
        assert host.exists("/new/pika_9221/db")
        assert host.sh("ls /far/*/backup.info")
