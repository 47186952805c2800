"""deploy.sh on hosts that are not as it expects them, under several shells, with stand-ins for what changes a host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import SHELLS, need, sh
from guest.operated_host import moved
from guest.stubbed_host import StubbedHost
from unit.helpers import make_spec

from pikaforge.formats import payload

TOOLS = (
    *(
        "awk",
        "basename",
        "cat",
        "chmod",
        "cmp",
        "cp",
        "cut",
        "date",
        "diff",
        "dirname",
        "env",
        "find",
        "getconf",
        "grep",
    ),
    *("head", "ln", "mkdir", "mktemp", "mv", "readlink", "rm", "rmdir", "sed", "sh", "sleep", "sort", "tail", "test"),
    *("tr", "wc"),
)
CONF = "# a comment\nport : 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(StubbedHost):
    """A machine as deploy.sh sees it: its folders are moved below `top`."""

    def unpack(self, where: str = "opt/demo") -> Path:
        """Put a package on the machine, with the folders of the system moved. Return its top."""
        rendered = payload.render(
            make_spec(product__server__offsets=[0, 1000]).product,
            model="R620",
            target="sandybridge",
            image="el9",
            features=("lm",),
        )
        tree = self.folder(where)
        for name, content in rendered.contents.items():
            text = content.decode()
            if name == "utils/lib/common.sh":
                text = moved(text, self.top)
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name in rendered.executable else 0o644)
        for name, text in (("conf/demo.conf", CONF), ("bin/demo", "#!/bin/sh\n")):
            (tree / name).parent.mkdir(exist_ok=True)
            (tree / name).write_text(text)
        (tree / "bin/demo").chmod(0o755)
        return tree

    def deploy(
        self, port: int = 7000, base: str = "data", *, script: str = "", cwd: str = ".", **env: str
    ) -> CompletedProcess[str]:
        path = script or str(self.top / "opt/demo/utils/deploy.sh")
        return sh(
            *(*self.words, path, str(port), str(self.top / base)),
            env={"PATH": str(self.top / "bin"), "TMPDIR": str(self.top), "SPY": str(self.top / "calls"), **env},
            cwd=self.top / cwd,
        )

    @property
    def calls(self) -> list[str]:
        path = self.top / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def called(self, name: str) -> list[str]:
        return [call for call in self.calls if call.split()[0] == name]

    def files(self, *folders: str) -> Mapping[str, str]:
        found = [path for name in folders for path in (self.top / name).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.top)): path.read_text() for path in found}


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A machine with the package, the user and systemd."""
    shell = SHELLS[request.param]
    need(shell[0])
    made = Host(top=tmp_path, words=(str(shutil.which(shell[0])), *shell[1:]))
    bin_ = made.folder("bin")
    for name in TOOLS:
        (bin_ / name).symlink_to(str(shutil.which(name)))
    made.folder("run/systemd/system")
    made.folder("etc/systemd/system")
    made.folder("data")
    made.folder("user")
    made.stub("id", f'[ "$1" != -u ] || {{ echo 0; exit; }}\n[ -e "{tmp_path}/user" ]')
    made.stub("getent", "exit 2")
    made.stub("useradd")
    made.stub("chown")
    made.stub("systemctl")
    # Only its own user may pass the folder named `closed`; else the same user goes on.
    made.stub("runuser", 'case $*" " in *"/closed "*) exit 1 ;; esac; shift 3; exec "$@"')
    made.stub("df", "echo x; echo / 1 1 999999 1 /")
    # What is above the machine (pytest's folders have mode 700) is open to all.
    real = shutil.which("stat")
    made.stub("stat", f'case $2-$3 in %a-{tmp_path}/*) ;; %a-*) echo 755; exit ;; esac\nexec {real} "$@"')
    made.unpack()
    return made


def test_an_ordinary_host(host: Host) -> None:
    """The control of all that follows; twice, and the second time changes nothing."""
    done = host.deploy()
    assert (done.returncode, done.stderr) == (0, "")
    assert (host.top / "data/demo_7000/conf/demo.conf").is_file()
    before = host.files("data", "etc", "opt")
    done = host.deploy()
    assert (done.returncode, done.stdout, done.stderr) == (0, "deploy: demo@7000.service runs: nothing to do\n", "")
    assert host.files("data", "etc", "opt") == before
    assert not host.called("useradd")


@pytest.mark.parametrize(("group", "words"), [(2, "--user-group"), (0, "--gid=demo")], ids=["no-group", "group"])
def test_a_group_without_its_user(host: Host, group: int, words: str) -> None:
    """useradd(8) refuses --user-group where the group is there."""
    (host.top / "user").rmdir()
    host.stub("getent", f"exit {group}")
    host.stub("useradd", f'case " $* " in *" {words} "*) mkdir "{host.top}/user" ;; *) exit 9 ;; esac')
    done = host.deploy()
    assert (done.returncode, done.stderr) == (0, "")


def test_cdpath_of_the_caller(host: Host) -> None:
    other = host.folder("elsewhere/utils")
    for _ in range(2):
        done = host.deploy(script="utils/deploy.sh", cwd="opt/demo", CDPATH=str(other.parent))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"ExecStart={host.top}/opt/demo/bin/demo" in (host.top / "etc/systemd/system/demo@.service").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are as they have to be")
def test_a_tree_on_a_read_only_disk(host: Host) -> None:
    done = host.deploy()
    assert done.returncode == 0
    tree = host.top / "opt/demo"
    for name in ("chown", "chmod"):
        host.stub(name, f'case " $* " in *" {tree} "*) echo "{name}: Read-only file system" >&2; exit 1 ;; esac')
    done = host.deploy()
    assert (done.returncode, done.stderr) == (0, "")
    # What has to be changed and cannot be is not passed over.
    (tree / "bin/demo").chmod(0o777)
    assert host.deploy().returncode == 1


def test_a_tree_unpacked_under_a_strict_umask(host: Host) -> None:
    tree = host.top / "opt/demo"
    for path in (tree, *tree.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    done = host.deploy()
    assert (done.returncode, done.stderr) == (0, "")
    modes = {str(path.relative_to(tree)): path.stat().st_mode & 0o777 for path in (tree, *tree.rglob("*"))}
    assert {modes[name] for name in (".", "bin", "bin/demo", "utils", "utils/cpu-gate.sh")} == {0o755}
    assert {modes[name] for name in ("conf/demo.conf", "utils/settings.tsv", "utils/cpu-features")} == {0o644}


UNIT = "[Service]\nExecStart={}/bin/demo -c ${{CONF}}\n"


@pytest.mark.parametrize("folder", ["usr/lib/systemd/system", "lib/systemd/system"])
def test_a_linked_opt_does_not_hide_the_unit_of_the_package(host: Host, folder: str) -> None:
    host.folder("disk")
    (host.top / "opt").rename(host.top / "disk/opt")
    (host.top / "opt").symlink_to("disk/opt")
    packaged = host.folder(folder) / "demo@.service"
    packaged.write_text(UNIT.format(host.top / "opt/demo"))
    own = host.top / "etc/systemd/system/demo@.service"
    done = host.deploy()
    assert (done.returncode, done.stderr, own.exists()) == (0, "", False)
    # One that is there already is named.
    own.write_text("")
    done = host.deploy()
    assert done.returncode == 0
    assert f"warning: {own} hides the unit of the package" in done.stderr
    own.unlink()
    # A unit of another tree is none of this one.
    packaged.write_text(UNIT.format(host.top / "opt/demo-2"))
    done = host.deploy()
    assert (done.returncode, own.exists()) == (0, True)
    assert f"warning: {own} hides {packaged} of a package: all instances run " in done.stderr


@pytest.mark.parametrize("closed", ["base", "above-the-base", "above-the-program"])
def test_folders_that_the_user_cannot_pass(host: Host, closed: str) -> None:
    folder = host.folder("closed")
    folder.chmod(0o700)
    base, script = "data", ""
    if closed == "above-the-program":
        script = str(host.unpack("closed/demo") / "utils/deploy.sh")
    else:
        base = "closed" if closed == "base" else "closed/data"
    before = host.files("data", "etc", "opt")
    done = host.deploy(base=base, script=script)
    assert done.returncode == 1
    assert f"the service user demo cannot pass {folder} (mode 700)\n  hint: chmod o+x {folder}\n" in done.stderr
    assert host.files("data", "etc", "opt") == before
    assert not [call for call in host.calls if call.startswith(("chown", "useradd", "systemctl"))]
    folder.chmod(0o711)
    assert host.deploy(base=base, script=script).returncode == 0


def test_a_folder_that_only_the_user_can_pass(host: Host) -> None:
    host.folder("group").chmod(0o750)
    assert host.deploy(base="group").returncode == 0


@pytest.mark.parametrize("systemd", [True, False])
def test_ports_that_overlap(host: Host, systemd: bool) -> None:
    """Each instance uses its port, and the one that is 1000 above it."""
    if not systemd:
        shutil.rmtree(host.top / "run/systemd")
    assert host.deploy(7000).returncode == 0
    before = host.files("data", "etc")
    for port, shared in ((8000, 8000), (6000, 7000)):
        done = host.deploy(port)
        assert done.returncode == 1
        assert f"port {shared} of this instance is also one of instance 7000" in done.stderr
        assert "each instance uses PORT plus: 0 1000" in done.stderr
        assert host.files("data", "etc") == before
    for port in (7000, 7001, 9000):
        assert host.deploy(port).returncode == 0
    # Instances that are there already stay.
    host.folder("data/demo_8000/conf").joinpath("demo.conf").write_text("port : 8000\n")
    done = host.deploy(7000)
    assert done.returncode == 0
    assert "deploy: warning: port 8000 of this instance is also one of instance 8000" in done.stderr


def test_one_port_in_two_folders(host: Host) -> None:
    assert host.deploy().returncode == 0
    before = host.files("data", "etc")
    done = host.deploy(base="srv")
    assert done.returncode == 1
    assert f"instance 7000 is elsewhere: CONF={host.top}/data/demo_7000/conf/demo.conf" in done.stderr
    assert host.files("data", "etc", "srv") == before


@pytest.mark.parametrize("base", ["etc", "etc/x", "link"])
def test_folders_of_the_system(host: Host, base: str) -> None:
    (host.top / "link").symlink_to("etc")
    (host.top / "good").symlink_to("data")
    before = host.files("etc")
    done = host.deploy(base=base)
    assert done.returncode == 1
    assert "BASE must not be a folder of the system" in done.stderr
    assert host.files("etc") == before
    assert host.deploy(base="good").returncode == 0


@pytest.mark.parametrize("base", ["/usr/share/x", "/boot", "/dev/shm", "/lib64", "/proc", "/run/x", "/sys", "/sbin"])
def test_other_folders_of_the_system(host: Host, base: str) -> None:
    done = host.deploy(base=base)
    assert done.returncode == 1
    assert "BASE must not be a folder of the system" in done.stderr


def test_a_base_below_a_link_into_the_program(host: Host) -> None:
    (host.top / "link").symlink_to("opt/demo")
    done = host.deploy(base="link/data")
    assert done.returncode == 1
    assert "BASE must be outside of the program's folder" in done.stderr


FULL = 'echo "{}: write error: No space left on device" >&2; exit 2'


@pytest.mark.parametrize("tool", ["awk", "cat", "chown", "cp", "mkdir", "mv", "sed", "systemctl"])
def test_a_full_disk_at_any_moment(host: Host, tool: str) -> None:
    """A tool fails at its first call, at its second, …: nothing is left behind, and what was there is as it was."""
    env = host.top / "etc/demo/7001.env"
    assert host.deploy(7001).returncode == 0
    env.write_text(f"{env.read_text()}MALLOC_ARENA_MAX=2\n")
    before = host.files("data", "etc", "run"), sorted((host.top / "data").iterdir())
    real = shutil.which(tool) if tool not in ("chown", "systemctl") else None
    count = host.top / "count"
    go_on = f'exec {real} "$@"' if real else "exit 0"
    for number in range(1, 100):
        count.write_text("")
        host.stub(
            tool, f'printf x >>"{count}"\n[ "$(wc -c <"{count}")" -lt {number} ] || {{ {FULL.format(tool)}; }}\n{go_on}'
        )
        done = host.deploy()
        if done.returncode == 0:
            break
        assert "deploy: error: " in done.stderr, (number, done.stderr)
        assert (host.files("data", "etc", "run"), sorted((host.top / "data").iterdir())) == before, number
    assert number > 1
    assert "port : 7000" in (host.top / "data/demo_7000/conf/demo.conf").read_text()
    assert (host.top / "etc/demo/7000.env").read_text().splitlines()[0].startswith("CONF=")


def test_lines_of_the_operator_that_cannot_be_read(host: Host) -> None:
    assert host.deploy().returncode == 0
    env = host.top / "etc/demo/7000.env"
    env.write_text(f"{env.read_text()}MALLOC_ARENA_MAX=2\n")
    kept = env.read_text()
    host.stub("grep", f'[ "$1" != -v ] || {{ {FULL.format("grep")}; }}\nexec {shutil.which("grep")} "$@"')
    done = host.deploy()
    assert done.returncode != 0
    assert "deploy: error: not finished (see above); what it made is removed again" in done.stderr
    assert env.read_text() == kept


@pytest.mark.parametrize("name", ["conf/demo.conf", "utils/settings.tsv", "systemd/demo@.service"])
def test_a_tree_that_is_not_whole(host: Host, name: str) -> None:
    (host.top / "opt/demo" / name).unlink()
    done = host.deploy()
    assert done.returncode == 1
    assert f"{host.top}/opt/demo/{name} is missing" in done.stderr
    assert not host.files("data", "etc")
