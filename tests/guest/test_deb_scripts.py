"""The scripts of DEBs under several shells, called as dpkg calls them; dpkg's own order of versions; and deb.sh."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import GUEST, clean_env, need, sh
from guest.stubbed_host import StubbedHost
from unit.helpers import about, make_spec

from pikaforge.formats import payload
from pikaforge.formats.deb import control_files, product
from pikaforge.formats.deb.control_files import Script
from pikaforge.formats.layout import Entry
from pikaforge.formats.product_package import ChangelogEntry, ProductPackage
from pikaforge.formats.versions import legal_release, legal_version

SHELLS: Mapping[str, tuple[str, ...]] = {"dash": ("dash",), "bash": ("bash", "--posix")}
TOOLS = ("cat", "rmdir")
OLD = "1.0-1.R620.debian12"
BACK: Mapping[Script, tuple[tuple[str, ...], ...]] = {
    "preinst": (("abort-upgrade", OLD),),
    "postinst": (
        ("abort-upgrade", OLD),
        ("abort-remove",),
        ("abort-remove", "in-favour", "other", "1"),
        ("abort-deconfigure", "in-favour", "other", "1"),
        ("triggered", "some"),
    ),
    "prerm": (("upgrade", OLD), ("failed-upgrade", OLD), ("deconfigure", "in-favour", "other", "1")),
    "postrm": (
        ("upgrade", OLD),
        ("failed-upgrade", OLD),
        ("abort-install",),
        ("abort-install", OLD),
        ("abort-upgrade", OLD),
        ("disappear", "other", "1"),
    ),
}
"""All other calls of Debian Policy 6.5, which change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(StubbedHost):
    """A machine as a script sees it: a few tools, and stand-ins that tell how they were called."""

    def run(
        self, script: Script, *words: str, features: tuple[str, ...] = ("lm",), **env: str
    ) -> CompletedProcess[str]:
        """Run a script with the folders of the system moved below this one's."""
        text = scripts(features)[script]
        for place in ("/run/", "/usr/lib/", "/etc/demo "):
            text = text.replace(place, f"{self.top}{place}")
        path = self.top / script
        path.write_text(text)
        return sh(*self.words, path, *words, env={"PATH": f"{self.top}/bin", "SPY": str(self.top / "calls"), **env})

    @property
    def calls(self) -> list[str]:
        path = self.top / "calls"
        return path.read_text().splitlines() if path.exists() else []


def scripts(features: tuple[str, ...] = ("lm",)) -> Mapping[Script, str]:
    """The scripts of a package."""
    rendered = payload.render(
        make_spec().product, model="R620", target="sandybridge", image="debian12", features=features
    )
    wanted = ProductPackage(
        about=about(dist="debian12", summary="Server"),
        model="R620",
        target="sandybridge",
        tree=tuple(
            Entry(path=f"/opt/demo/{name}", source=f"tree/{name}") for name in (*rendered.contents, "conf/demo.conf")
        ),
        conf=("conf/demo.conf",),
        payload=rendered.contents,
        changes=(),
    )
    return product.product(wanted, depends=()).deb.packages[0].scripts


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A machine with systemd, and with the user."""
    shell = SHELLS[request.param]
    need(shell[0])
    made = Host(top=tmp_path, words=(str(shutil.which(shell[0])), *shell[1:]))
    folder = made.folder("bin")
    for name in TOOLS:
        (folder / name).symlink_to(str(shutil.which(name)))
    for name in ("run/demo", "run/systemd/system"):
        made.folder(name)
    (tmp_path / "user").touch()
    made.stub("id", f'[ -e "{tmp_path}/user" ]')
    made.stub("getent", "exit 2")
    made.stub("systemctl", "case $* in *is-active*) exit 3 ;; esac")
    return made


class TestPreinst:
    @pytest.mark.parametrize("words", [("install",), ("install", OLD, OLD), ("upgrade", OLD, OLD)])
    def test_the_gate_comes_first(self, host: Host, words: tuple[str, ...]) -> None:
        done = host.run("preinst", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        done = host.run("preinst", *words, features=("lm", "no_such_flag"))
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert lines[0] == "cpu-gate: error: this machine cannot run demo v1.0 for R620 (sandybridge, debian12)"
        assert "no_such_flag" in lines[1]
        assert lines[-1] == "demo: error: this machine does not run this package (see above); nothing was changed"
        done = host.run("preinst", *words, features=("lm", "no_such_flag"), PIKAFORGE_SKIP_CPU_GATE="1")
        assert done.returncode == 0
        assert "WARNING: going on all the same" in done.stderr
        assert host.calls == []


class TestPostinst:
    @pytest.mark.parametrize("words", [("configure",), ("configure", "")])
    def test_an_installation_makes_the_user(self, host: Host, words: tuple[str, ...]) -> None:
        (host.top / "user").unlink()
        host.stub("useradd", f': >"{host.top}/user"')
        done = host.run("postinst", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert len([line for line in host.calls if line.startswith("useradd --system --user-group")]) == 1
        assert [line for line in host.calls if line.startswith("systemctl ")] == ["systemctl daemon-reload"]

    @pytest.mark.parametrize("running", [False, True])
    def test_an_upgrade_restarts_nothing(self, host: Host, running: bool) -> None:
        host.stub("systemctl", f"case $* in *is-active*) exit {0 if running else 3} ;; esac")
        done = host.run("postinst", "configure", OLD)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line for line in host.calls if line.startswith("systemctl ")] == [
            "systemctl daemon-reload",
            "systemctl --quiet is-active demo@*.service",
        ]
        assert ("systemctl try-restart" in done.stdout) == running


class TestRemoval:
    @pytest.mark.parametrize("words", [(), ("in-favour", "demo-libunwind", "1")])
    def test_instances_end_and_do_not_come_back(self, host: Host, words: tuple[str, ...]) -> None:
        for script in ("prerm", "postrm"):
            done = host.run("prerm" if script == "prerm" else "postrm", "remove", *words)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert host.calls == [
            "systemctl stop demo@*.service demo.target",
            "systemctl --no-reload --quiet disable demo@.service demo.target",
            "systemctl daemon-reload",
        ]
        assert not (host.top / "run/demo").exists()

    def test_purge_tells_what_is_left_and_touches_nothing(self, host: Host) -> None:
        (host.folder("etc/demo") / "9221.env").touch()
        told = "demo: data of instances, their files in /etc/demo and the user demo were left as they are\n"
        done = host.run("postrm", "purge")
        assert (done.returncode, done.stdout.replace(str(host.top), ""), done.stderr) == (0, told, "")
        (host.top / "user").unlink()
        assert host.run("postrm", "purge").stdout.replace(str(host.top), "") == told
        assert (host.top / "etc/demo/9221.env").exists()
        shutil.rmtree(host.top / "etc/demo")
        assert host.run("postrm", "purge").stdout == ""
        assert set(host.calls) == {"id demo"}


@pytest.mark.parametrize("script", BACK)
def test_other_calls_do_nothing(host: Host, script: Script) -> None:
    for words in BACK[script]:
        done = host.run(script, *words, features=("lm", "no_such_flag"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words
    assert host.calls == []
    assert (host.top / "run/demo").exists()


def test_without_systemd_and_with_failing_tools_nothing_fails(host: Host) -> None:
    host.stub("systemctl", "exit 1")
    for _ in range(2):
        assert host.run("postinst", "configure").returncode == 0
        assert host.run("prerm", "remove").returncode == 0
        assert host.run("postrm", "remove").returncode == 0
        if (host.top / "run/systemd").exists():
            assert [line for line in host.calls if line.startswith("systemctl ")]
            (host.top / "calls").unlink()
            shutil.rmtree(host.top / "run/systemd")
    assert not [line for line in host.calls if line.startswith("systemctl ")]


@pytest.mark.parametrize("script", BACK)
def test_shellcheck_has_nothing_to_say(script: Script, tmp_path: Path) -> None:
    need("shellcheck")
    path = tmp_path / script
    path.write_text(scripts()[script])
    done = sh("shellcheck", "-s", "sh", path, env=clean_env())
    assert done.returncode == 0, done.stdout


ORDER = (
    ("unstable", "1"),
    ("v3.4.0-alpha", "1"),
    ("v3.4.0-rc1", "1"),
    ("v3.4.0-rc2", "1"),
    ("v3.4.0", "1"),
    ("v3.4.0", "2"),
    ("v3.4.0", "10"),
    ("v3.4.0-1", "1"),
    ("v3.4.0.1", "1"),
    ("v3.4.1", "1"),
    ("v3.10.0", "1"),
)
"""Versions and the packager's counts, the oldest first."""


def test_dpkg_orders_versions_as_people_do() -> None:
    need("dpkg")
    versions = [
        control_files.legal_version(legal_version(version), legal_release(release, "R620", "debian12"))
        for version, release in ORDER
    ]
    for one, other in pairwise(versions):
        done = sh("dpkg", "--compare-versions", one, "lt", other, env=clean_env())
        assert (done.returncode, done.stderr) == (0, ""), (one, other)


def members(data: bytes) -> dict[str, list[tarfile.TarInfo]]:
    """What is in the archives of a DEB (deb(5))."""
    found, at = {}, 8
    while at < len(data):
        name, size = data[at : at + 16].decode().strip(), int(data[at + 48 : at + 58])
        if ".tar" in name:
            with tarfile.open(fileobj=io.BytesIO(data[at + 60 : at + 60 + size]), mode="r:xz") as tar:
                found[name] = tar.getmembers()
        at += 60 + size + size % 2
    return found


FUTURE = 4102444800
"""2100: a source from then, for a clock that is behind. dpkg-deb only lowers times."""


def test_times_owners_and_modes_are_decided(tmp_path: Path) -> None:
    need("dpkg-deb")
    package = control_files.BinaryPackage(
        name="demo",
        summary="Server",
        description="It serves.",
        entries=(
            Entry(path="/opt/demo/run", source="tree/run", mode=0o755),
            Entry(path="/opt/demo/conf", source="tree/conf", config=True),
            Entry(path="/usr/share/doc/demo/changelog.Debian.gz", source="zipped/demo/changelog.gz"),
        ),
        scripts={"preinst": "#!/bin/sh\n"},
    )
    change = ChangelogEntry(epoch=FUTURE, lines=("first",))
    made = control_files.Deb(source="demo", version="1.0-1", dist="debian12", packages=(package,), changes=(change,))
    sources = {"tree/run": b"run", "tree/conf": b"conf"}
    for name, data in {
        **sources,
        **{f"pack/{name}": data for name, data in control_files.inputs(made).items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "guest").symlink_to(GUEST)
    env = clean_env(PIKAFORGE_ROOT=str(tmp_path), SOURCE_DATE_EPOCH=str(FUTURE))
    done = sh("sh", "-c", 'umask 077; exec sh "$PIKAFORGE_ROOT/guest/deb.sh"', env=env)
    if "is too old" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    found = members((tmp_path / "out/demo_1.0-1_amd64.deb").read_bytes())
    assert {name: {(m.mtime, m.uid, m.gid) for m in inside} for name, inside in found.items()} == {
        "control.tar.xz": {(FUTURE, 0, 0)},
        "data.tar.xz": {(FUTURE, 0, 0)},
    }
    assert [(m.name, f"{m.mode:o}") for m in found["control.tar.xz"]] == [
        (".", "755"), ("./conffiles", "644"), ("./control", "644"), ("./md5sums", "644"), ("./preinst", "755"),
    ]  # fmt: skip
    assert [(m.name, f"{m.mode:o}") for m in found["data.tar.xz"] if m.isreg()] == [
        ("./opt/demo/conf", "644"), ("./opt/demo/run", "755"), ("./usr/share/doc/demo/changelog.Debian.gz", "644"),
    ]  # fmt: skip


class TestTool:
    """deb.sh where it cannot work."""

    def run(self, tmp_path: Path, dpkg_deb: str = "") -> CompletedProcess[str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("sh", "grep"):
            (folder / name).symlink_to(str(shutil.which(name)))
        if dpkg_deb:
            (folder / "dpkg-deb").write_text(f"#!/bin/sh\n{dpkg_deb}\n")
            (folder / "dpkg-deb").chmod(0o755)
        env = {"PATH": str(folder), "PIKAFORGE_ROOT": str(tmp_path), "SOURCE_DATE_EPOCH": "1"}
        return sh("sh", GUEST / "deb.sh", env=env)

    def test_without_dpkg_deb(self, tmp_path: Path) -> None:
        done = self.run(tmp_path)
        told = "forge: reason: dpkg-deb is not installed: take a tools image of the Debian family\n"
        assert (done.returncode, done.stderr) == (66, told)

    def test_with_an_old_one(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, "echo '  --root-owner-group'")
        told = "forge: reason: this dpkg-deb is too old: 1.21.9 (Debian 12) is needed\n"
        assert (done.returncode, done.stderr) == (66, told)
