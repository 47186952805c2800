"""--engine host: the same scripts on this machine itself, whatever distribution it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Project

NEEDED = ("gcc", "g++", "make", "ld", "patchelf", "git", "tar", "gzip", "ccache")
"""What the guest scripts and the tiny product call."""

DPKG_QUERY = r"""#!/bin/sh
# Every package is installed, but those in $ABSENT.
case $1 in --show) ;; *) exit 1 ;; esac
shift 2
for name; do
    case " $ABSENT " in
        *" $name "*) echo "dpkg-query: no packages found matching $name" >&2 ;;
        *) printf '%s\tii \t1.0\n' "$name" ;;
    esac
done
"""


def need_programs() -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


class Here:
    """A project with this machine as its only buildable image."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        folder.mkdir()
        program = folder / "dpkg-query"
        program.write_text(DPKG_QUERY)
        program.chmod(0o755)
        self.env = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "ABSENT": ""}
        release = Path("/etc/os-release").read_text(encoding="utf-8")
        self.os = dict(line.replace('"', "").split("=", 1) for line in release.splitlines() if "=" in line)

    def choose(self, *, gcc: str) -> None:
        """Make this machine the image `here`, and leave one that it is not."""

        def edit(matrix: dict[str, Any]) -> None:
            entry = {"family": "debian", "base": "debian:bookworm-slim", "bootstrap": "bookworm", "gcc": gcc}
            own = {"id": self.os["ID"], "version": self.os.get("VERSION_ID", "0")}
            matrix["images"] = {
                "here": {**entry, "os": own},
                "elsewhere": {**entry, "os": {"id": "nextstep", "version": "3.3"}},
            }
            matrix["matrix"]["exclude"] = []
            for part in (matrix["product"], *matrix["allocators"].values()):
                if "packages" in part:
                    part["packages"] = {"debian": part["packages"]["debian"]}
            named = {name: "here" for name in ("image", "tools", "emulator") if matrix["defaults"][name]}
            matrix["defaults"].update(named)

        self.project.change(edit)

    def arguments(self, *args: str, image: str = "here") -> list[str]:
        return self.project.arguments("build", "R620", "--engine", "host", *args, image=image)


def gcc_version() -> str:
    done = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True)
    return ".".join(done.stdout.strip().split(".")[:2])


@pytest.fixture
def here(project: Project, tmp_path: Path) -> Here:
    """As if all packages were installed."""
    return Here(project, tmp_path / "fake")


def in_work(project: Project) -> list[str]:
    """Processes whose working folder is below the project's out/."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink().is_relative_to(project.out):
                found.append((link.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_missing_packages_are_listed_with_the_command(here: Here) -> None:
    here.choose(gcc="12.2")
    env = {**here.env, "ABSENT": "patchelf libgflags-dev libsnappy-dev"}
    done = here.project.tool(*here.arguments(), env=env)
    assert done.returncode == 3, done.text
    listed = "patchelf libgflags-dev libsnappy-dev"
    assert f"error: packages are missing on this machine (3): {listed}" in done.text
    assert "where: --engine host, image here" in done.text
    assert f"hint: apt-get install {listed}" in done.text
    assert not list(here.project.dist.rglob("*.tar.gz"))
    assert here.project.half_done() == []


def test_foreign_image_is_refused(here: Here) -> None:
    here.choose(gcc="12.2")
    done = here.project.tool(*here.arguments(image="elsewhere"), env=here.env)
    assert done.returncode == 2, done.text
    sentence = "the host engine builds only for the machine it runs on; this machine is here, not elsewhere"
    assert f"error: {sentence}" in done.stderr
    assert "where: --engine host" in done.stderr
    assert "hint: use a container engine for other images" in done.stderr


def test_other_compiler_than_the_matrix_says(here: Here) -> None:
    need_programs()
    here.choose(gcc="4.8.5")
    done = here.project.tool(*here.arguments(), env=here.env)
    assert done.returncode == 3, done.text
    assert "but matrix.yaml says 4.8.5" in done.text
    assert f'hint: write gcc: "{gcc_version()}" there' in done.text


def test_build_with_the_same_scripts(here: Here, shrink: Callable[..., None]) -> None:
    """A package, without any container engine, on ports that are free, with nothing left behind."""
    need_programs()
    project = here.project
    shrink(project)
    here.choose(gcc=gcc_version())
    env = {**here.env, "DOCKER_HOST": "unix:///nonexistent"}
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 9221))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        done = project.tool(*here.arguments(), env=env, check=0)
    assert not done.lines("^image    tools"), "there is no image to be made"
    package = project.package("R620", "here")
    with tarfile.open(package) as tar:
        names = tar.getnames()
        content = tar.extractfile("pika/manifest.json")
        assert content is not None
        manifest = json.loads(content.read())
    assert {"pika/bin/pika", "pika/conf/pika.conf", "pika/utils/deploy.sh"} <= set(names)
    assert manifest["image"]["base"] == "this machine"
    assert manifest["flags"] == ["-march=sandybridge", "-mtune=sandybridge"]
    log = (project.out / "logs/here-sandybridge-none/smoke.log").read_text()
    assert "tiny serves port " in log
    assert "tiny serves port 9221" not in log
    assert project.half_done() == []
    assert in_work(project) == []
    again = project.tool(*here.arguments(), env=env, check=0)
    assert "everything is up to date" in again.stdout


def test_interrupt_ends_what_was_started(here: Here, shrink: Callable[..., None], until: Callable[..., None]) -> None:
    need_programs()
    project = here.project
    shrink(project, prologue="echo forge-test: waiting\nsleep 600 &\nsleep 600")
    here.choose(gcc=gcc_version())
    log = project.out / "logs/here-sandybridge-none/compile.log"
    with project.tool.start(*here.arguments(), env=here.env) as running:
        running.wait_for(r"^compile .* \.\.\.$")
        until(lambda: log.is_file() and "forge-test: waiting" in log.read_text(), "the recipe's first line")
        until(lambda: sum("sleep 600" in line for line in in_work(project)) == 2, "both programs of the recipe")
        running.signal(signal.SIGINT, group=True)
        done = running.finish(20)
    assert done.returncode == 130, done.text
    assert in_work(project) == []
    assert project.half_done() == []
    assert project.stored("compile") == {}


def test_sample_with_the_real_packages(here: Here) -> None:
    """The whole sample, where this machine has what it needs: `bash setup.sh` names what is missing."""
    need_programs()
    here.choose(gcc=gcc_version())
    done = here.project.tool(*here.arguments())
    if done.returncode == 3 and "packages are missing on this machine" in done.text:
        pytest.skip(done.lines(r"^error: packages are missing")[0])
    assert done.returncode == 0, done.text
    assert here.project.package("R620", "here").is_file()
    assert here.project.half_done() == []
    assert in_work(here.project) == []
