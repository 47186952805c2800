"""Packages over the link of a wheel's deployment, under several shells: the first script refuses, the second tells."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest import test_deb_scripts
from guest.helpers import SHELLS, need, sh
from guest.test_rpm_scripts import scripts

from pikaforge.formats.product_package import Moment

PLACES = ("/opt/", "/run/", "/usr/lib/systemd/", "/etc/systemd/", "/var/tmp/")
TOOLS = ("cat", "mktemp", "rm", "sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine whose folders are below `top`."""

    top: Path
    words: tuple[str, ...]
    """Of the shell."""
    scripts: Mapping[Moment, str]

    def run(self, moment: Moment, *arguments: str) -> CompletedProcess[str]:
        text = self.scripts[moment]
        for place in PLACES:
            text = text.replace(place, f"{self.top}{place}")
        text = text.replace('"/lib/systemd/', f'"{self.top}/lib/systemd/')
        script = self.top / moment
        script.write_text(text)
        return sh(*self.words, script, *arguments, env={"PATH": str(self.top / "bin")})

    def put(self, *paths: str) -> None:
        for path in paths:
            (self.top / path).parent.mkdir(parents=True, exist_ok=True)
            (self.top / path).write_text("x")


def host_of(shell: str, top: Path, made: Mapping[Moment, str]) -> Host:
    need(SHELLS[shell][0])
    words = SHELLS[shell]
    for name in ("bin", "var/tmp", "run", "opt"):
        (top / name).mkdir(parents=True)
    for name in TOOLS:
        (top / "bin" / name).symlink_to(str(shutil.which(name)))
    for name in ("id", "getent"):
        (top / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (top / "bin" / name).chmod(0o755)
    return Host(top=top, words=(str(shutil.which(words[0])), *words[1:]), scripts=made)


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return host_of(request.param, tmp_path, scripts())


UNIT = "usr/lib/systemd/system/demo@.service"
REFUSED: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "wheel": ("demo-v1-0123456789ab", ("opt/demo-v1-0123456789ab/bin/demo",), "{top}/opt/demo-v1-0123456789ab"),
    "wheel, by a whole path": ("{top}/opt/demo-1", ("opt/demo-1/bin/demo",), "{top}/opt/demo-1"),
    "wheel, on an upgrade": ("demo-v1-01", ("opt/demo-v1-01/bin/demo", UNIT), "{top}/opt/demo-v1-01"),
    "wheel that is gone": ("demo-v1-01", (), "nothing"),
    "tarball elsewhere": ("../srv/pika", ("srv/pika/bin/demo",), "{top}/srv/pika"),
    "a package elsewhere": ("../srv/pika", ("srv/pika/manifest.json",), "{top}/srv/pika"),
}
"""Where the link leads, the files that there are, and what is said."""


@pytest.mark.parametrize("case", REFUSED)
def test_a_link_to_another_build_is_refused_and_nothing_changes(host: Host, case: str) -> None:
    target, files, to = REFUSED[case]
    host.put(*files)
    (host.top / "opt/demo").symlink_to(target.format(top=host.top))
    done = host.run("pre", "1")
    to = to.format(top=host.top)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"demo: error: {host.top}/opt/demo is a link to {to}, which is not of this package; nothing was changed\n"
        f"  hint: rm {host.top}/opt/demo, and install again; what runs from "
        f"{'there' if to == 'nothing' else to} goes on until it is restarted\n"
    )
    assert str((host.top / "opt/demo").readlink()) == target.format(top=host.top)
    assert not any((host.top / "var/tmp").iterdir())


ALLOWED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "a folder": ("", ("opt/demo/bin/demo",)),
    "nothing": ("", ()),
    "an empty folder on another disk": ("../srv/disk", ("srv/disk/../x",)),
    "confs of a package that was removed": ("../srv/disk", ("srv/disk/conf/demo.conf", "srv/disk/conf/x.rpmsave")),
    "the package's own files on another disk": ("../srv/disk", ("srv/disk/bin/demo", UNIT)),
    "the same where /lib is no link": ("../srv/disk", ("srv/disk/bin/demo", "lib/systemd/system/demo@.service")),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_control_what_is_the_packages_own_is_not_refused(host: Host, case: str) -> None:
    target, files = ALLOWED[case]
    host.put(*files)
    if target:
        (host.top / "srv/disk").mkdir(parents=True, exist_ok=True)
        (host.top / "opt/demo").symlink_to(target)
    done = host.run("pre", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_opt_itself_may_be_a_link(host: Host) -> None:
    (host.top / "opt").rename(host.top / "data")
    (host.top / "opt").symlink_to("data")
    assert host.run("pre", "1").returncode == 0
    host.put("data/demo-v1-01/bin/demo")
    (host.top / "opt/demo").symlink_to("demo-v1-01")
    done = host.run("pre", "1")
    assert f"is a link to {host.top}/data/demo-v1-01, which" in done.stderr


def test_the_first_script_needs_no_program_for_that(host: Host) -> None:
    host.put("opt/demo-v1-01/bin/demo")
    (host.top / "opt/demo").symlink_to("demo-v1-01")
    block = host.scripts["pre"].rpartition("if [ -L ")[2]
    assert {word for word in ("readlink", "ls ", "find", "rpm ", "dpkg") if word in block} == set()


def test_a_unit_that_hides_that_of_the_package_is_told(host: Host) -> None:
    assert host.run("post", "1").stderr == "", "the control"
    host.put("etc/systemd/system/demo@.service")
    done = host.run("post", "1")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    unit = f"{host.top}/etc/systemd/system/demo@.service"
    assert lines[0].startswith(f"demo: warning: {unit}, of a tarball or wheel, hides ")
    assert lines[1].startswith("  hint: to move an instance here: rm that file; sh ")


@pytest.mark.parametrize(("words", "status"), [("install", 1), ("upgrade 1.0", 1), ("abort-upgrade 1.0", 0)])
def test_dpkg_calls_it_so(tmp_path: Path, words: str, status: int) -> None:
    here = host_of("dash", tmp_path, {"pre": test_deb_scripts.scripts()["preinst"]})
    (here.top / "opt/demo").symlink_to("demo-v1-01")
    assert here.run("pre", *words.split()).returncode == status
