"""The scriptlets of RPMs under several shells, with stand-ins for what they call; and what lays files out."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import GUEST, clean_env, need, sh
from guest.stubbed_host import StubbedHost
from unit.helpers import about, make_spec

from pikaforge.formats import payload
from pikaforge.formats.layout import Entry
from pikaforge.formats.product_package import Moment, ProductPackage, assemble

SHELLS: Mapping[str, tuple[str, ...]] = {"dash": ("dash",), "bash": ("bash", "--posix"), "busybox": ("busybox", "sh")}
TOOLS = ("cat", "rmdir")
FORBIDDEN = ("/opt/demo/bin", "demo -", "./demo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(StubbedHost):
    """A machine as a scriptlet sees it: a few tools, and stand-ins that tell how they were called."""

    scripts: Mapping[Moment, str]

    def run(self, section: Moment, count: int, **env: str) -> CompletedProcess[str]:
        """Run a scriptlet with the folders of the system moved below this one's."""
        text = self.scripts[section]
        for place in ("/run/", "/usr/lib/"):
            text = text.replace(place, f"{self.top}{place}")
        script = self.top / section
        script.write_text(text)
        path = str(self.top / "bin")
        return sh(*self.words, script, str(count), env={"PATH": path, "SPY": str(self.top / "calls"), **env})

    @property
    def calls(self) -> list[str]:
        path = self.top / "calls"
        return path.read_text().splitlines() if path.exists() else []


def scripts(features: tuple[str, ...] = ("lm",)) -> Mapping[Moment, str]:
    """The scriptlets of a package."""
    rendered = payload.render(
        make_spec().product,
        model="R620",
        target="sandybridge",
        image="el9",
        features=features,
        others={"x86_64_v2": ("KVM",), "sandybridge": ("R620",)},
    )
    names = (*rendered.contents, "conf/demo.conf")
    wanted = ProductPackage(
        about=about(),
        model="R620",
        target="sandybridge",
        tree=tuple(Entry(path=f"/opt/demo/{name}", source=f"tree/{name}") for name in names),
        conf=("conf/demo.conf",),
        payload=rendered.contents,
        changes=(),
    )
    return assemble(wanted, "demo").scripts


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A machine without systemd and without the user."""
    shell = SHELLS[request.param]
    need(shell[0])
    made = Host(top=tmp_path, words=(str(shutil.which(shell[0])), *shell[1:]), scripts=scripts())
    bin_ = made.folder("bin")
    for name in TOOLS:
        (bin_ / name).symlink_to(str(shutil.which(name)))
    made.folder("run")
    made.stub("id", f'[ -e "{tmp_path}/user" ]')
    made.stub("getent", "exit 2")
    return made


class TestPre:
    def test_cpus_that_run_it_are_silent(self, host: Host) -> None:
        done = host.run("pre", 1)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert host.calls == []

    @pytest.mark.parametrize("count", [1, 2])
    def test_cpus_that_do_not_are_told_so_and_nothing_is_left(self, host: Host, count: int) -> None:
        refusing = Host(top=host.top, words=host.words, scripts=scripts(("lm", "no_such_flag")))
        done = refusing.run("pre", count)
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert lines[0] == "cpu-gate: error: this machine cannot run demo v1.0 for R620 (sandybridge, el9)"
        assert "no_such_flag" in lines[1]
        assert lines[-1] == "demo: error: this machine does not run this package (see above); nothing was changed"
        assert host.calls == []

    @pytest.mark.parametrize("name", ["PIKAFORGE_SKIP_CPU_GATE", "FORGE_SKIP_CPU_GATE"])
    def test_override(self, host: Host, name: str) -> None:
        refusing = Host(top=host.top, words=host.words, scripts=scripts(("lm", "no_such_flag")))
        done = refusing.run("pre", 1, **{name: "1"})
        assert done.returncode == 0
        assert "WARNING: going on all the same" in done.stderr

    def test_it_advises_by_the_list_that_it_brings(self, host: Host) -> None:
        flags = " ".join(payload.target_flags("x86_64_v2"))
        (host.top / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
        text = scripts(("lm", "no_such_flag"))["pre"].replace("=/proc/cpuinfo", f"={host.top}/cpuinfo")
        done = replace(host, scripts={"pre": text}).run("pre", 1)
        assert done.returncode == 1
        assert "  take instead: the package for KVM (x86_64_v2, el9)" in done.stderr.splitlines()

    def test_it_writes_nothing(self, host: Host) -> None:
        """A folder for temporary files may be full, read-only, or somebody else's."""
        assert not re.search(r"mktemp|/tmp\b|<<", host.scripts["pre"])
        done = host.run("pre", 1, TMPDIR=str(host.top / "nowhere"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestPost:
    def test_a_system_with_sysusers(self, host: Host) -> None:
        (host.folder("usr/lib/sysusers.d") / "demo.conf").touch()
        host.stub("systemd-sysusers", f': >"{host.top}/user"')
        host.stub("useradd")
        host.stub("systemd-tmpfiles")
        done = host.run("post", 1)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [line for line in host.calls if not line.startswith("id ")] == [
            f"systemd-sysusers {host.top}/usr/lib/sysusers.d/demo.conf",
            f"systemd-tmpfiles --create {host.top}/usr/lib/tmpfiles.d/demo.conf",
        ]

    @pytest.mark.parametrize("group", [False, True])
    def test_a_system_without(self, host: Host, group: bool) -> None:
        host.stub("useradd", f': >"{host.top}/user"')
        host.stub("getent", "exit 0" if group else "exit 2")
        done = host.run("post", 1)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        added = [line for line in host.calls if line.startswith("useradd ")]
        assert len(added) == 1
        assert ("--gid=demo" in added[0], "--user-group" in added[0]) == (group, not group)
        assert added[0].endswith(" --comment demo server demo")

    def test_a_user_that_is_there_is_left_alone(self, host: Host) -> None:
        (host.top / "user").touch()
        host.stub("useradd")
        assert host.run("post", 2).returncode == 0
        assert host.calls == ["id demo", "id demo", "id demo"]

    def test_no_way_to_make_the_user_is_a_warning(self, host: Host) -> None:
        done = host.run("post", 1)
        assert done.returncode == 0
        assert done.stderr == (
            "demo: warning: the user demo could not be made; /opt/demo/utils/deploy.sh will try again\n"
        )

    @pytest.mark.parametrize("running", [False, True])
    def test_an_upgrade_restarts_nothing(self, host: Host, running: bool) -> None:
        (host.top / "user").touch()
        host.folder("run/systemd/system")
        host.stub("systemctl", f"case $* in *is-active*) exit {0 if running else 3} ;; esac")
        done = host.run("post", 2)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line for line in host.calls if line.startswith("systemctl ")] == [
            "systemctl daemon-reload",
            "systemctl --quiet is-active demo@*.service",
        ]
        told = "demo: running instances go on with the old program until: systemctl try-restart 'demo@*'\n"
        assert done.stdout == (told if running else "")

    def test_a_failing_systemctl_fails_nothing(self, host: Host) -> None:
        (host.top / "user").touch()
        host.folder("run/systemd/system")
        host.stub("systemctl", "exit 1")
        assert host.run("post", 1).returncode == 0
        assert host.run("preun", 0).returncode == 0
        assert host.run("postun", 0).returncode == 0


class TestRemoval:
    def test_the_last_package_stops_and_disables(self, host: Host) -> None:
        host.folder("run/systemd/system")
        host.folder("run/demo")
        host.stub("systemctl")
        assert host.run("preun", 0).returncode == 0
        assert host.run("postun", 0).returncode == 0
        assert host.calls == [
            "systemctl stop demo@*.service demo.target",
            "systemctl --no-reload --quiet disable demo@.service demo.target",
            "systemctl daemon-reload",
        ]
        assert not (host.top / "run/demo").exists()

    def test_an_upgrade_does_not(self, host: Host) -> None:
        host.folder("run/systemd/system")
        host.folder("run/demo")
        host.stub("systemctl")
        assert host.run("preun", 1).returncode == 0
        assert host.run("postun", 1).returncode == 0
        assert host.calls == ["systemctl daemon-reload"]
        assert (host.top / "run/demo").exists()

    def test_what_instances_left_in_run_stays(self, host: Host) -> None:
        (host.folder("run/demo") / "9221.pid").touch()
        done = host.run("postun", 0)
        assert (done.returncode, done.stderr) == (0, "")
        assert (host.top / "run/demo/9221.pid").exists()

    def test_without_systemd_there_is_nothing_to_do(self, host: Host) -> None:
        sections: tuple[Moment, ...] = ("preun", "postun")
        for section in sections:
            done = host.run(section, 0)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert host.calls == []


def test_no_program_of_the_package_is_started() -> None:
    for name, text in scripts().items():
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in lines if any(word in line for word in FORBIDDEN)], name


@pytest.mark.parametrize("section", ["pre", "post", "preun", "postun"])
def test_shellcheck_has_nothing_to_say(section: Moment, tmp_path: Path) -> None:
    need("shellcheck")
    script = tmp_path / section
    script.write_text(scripts()[section])
    done = sh("shellcheck", "-s", "sh", script, env=clean_env())
    assert done.returncode == 0, done.stdout


class TestLayout:
    """layout.sh: the list decides, not what is there."""

    def lay(self, tmp_path: Path, lines: str, umask: int = 0o077) -> CompletedProcess[str]:
        listing = tmp_path / "layout.tsv"
        listing.write_text(lines)
        script = f'umask {umask:o}; exec sh "$0" "$1" "$2"'
        return sh(
            "sh", "-c", script, GUEST / "layout.sh", listing, tmp_path / "root",
            env=clean_env(PIKAFORGE_ROOT=str(tmp_path), SOURCE_DATE_EPOCH="1000000000"),
        )  # fmt: skip

    def test_modes_times_and_links(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/x").write_text("x")
        (tmp_path / "tree/x").chmod(0o600)
        os.utime(tmp_path / "tree/x", (1, 1))
        done = self.lay(tmp_path, "dir\t755\t/opt/a\t\nfile\t644\t/opt/a/x\ttree/x\nlink\t777\t/opt/a/y\tx\n")
        assert done.returncode == 0, done.stderr
        root = tmp_path / "root"
        assert (root / "opt/a/x").read_text() == "x"
        assert f"{(root / 'opt/a/x').stat().st_mode & 0o7777:o}" == "644"
        assert f"{(root / 'opt').stat().st_mode & 0o7777:o}" == "755"
        assert (root / "opt/a/y").readlink() == Path("x")
        assert {path.lstat().st_mtime for path in (root, *root.rglob("*"))} == {1000000000.0}

    @pytest.mark.parametrize(
        ("lines", "status"),
        [("file\t644\t/a\ttree/none\n", 65), ("file\t644\t/a\ttree/link\n", 65), ("pipe\t6\t/a\t\n", 2)],
    )
    def test_refusals(self, tmp_path: Path, lines: str, status: int) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/link").symlink_to("/etc/passwd")
        done = self.lay(tmp_path, lines)
        assert done.returncode == status
        assert done.stderr.startswith("forge: reason: /a should come") or "no kind of entry" in done.stderr


def test_without_rpmbuild_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to(str(shutil.which("sh")))
    env = {"PATH": str(tmp_path / "bin"), "PIKAFORGE_ROOT": str(tmp_path), "SOURCE_DATE_EPOCH": "1"}
    done = sh("sh", GUEST / "rpm.sh", env=env)
    assert (done.returncode, done.stderr) == (
        66,
        "forge: reason: rpmbuild is not installed: it comes with the package rpm, as in docker/tools/Dockerfile\n",
    )
