"""instance.sh PORT upgrade and rollback: arguments, and packages that are not what they should be, under each shell."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from guest.helpers import SHELLS, need
from guest.operated_host import OperatedHost
from guest.watched_host import lines, watched_host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="trees are root's")

PORT = "7000"
LIBRARIES = "".join(f'. "$utils/lib/{name}.sh"\n' for name in ("conf-merge", "trees", "switch"))
UNPACK = LIBRARIES + 'sha256=${SUM:-}; tree_unpack "$FILE"; printf "new=%s\\n" "$new"\n'
SECOND = "demo-v1.0-2-R620"


def machine(top: Path, shell: str) -> OperatedHost:
    """A machine with an instance; with busybox its tar is the one that is used."""
    need(SHELLS[shell][0])
    host = watched_host(top, SHELLS[shell])
    if shell == "busybox":
        for name in ("tar", "sha256sum", "mktemp", "ln", "gzip", "gunzip"):
            path = top / "bin" / name
            path.write_text(f'#!/bin/sh\nexec busybox {name} "$@"\n')
            path.chmod(0o755)
    host.add_instance()
    return host


@pytest.fixture(params=SHELLS, ids=str)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> OperatedHost:
    return machine(tmp_path, request.param)


@pytest.fixture
def fast(tmp_path: Path) -> OperatedHost:
    return machine(tmp_path, "dash")


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in {"mode": 0o644, **fields}.items():
        setattr(info, key, value)
    if not info.isreg():
        content = b""
    info.size = len(content)
    return info, content


def everything(host: OperatedHost) -> list[Path]:
    """All files of the machine, but for the record of calls."""
    return sorted(path for path in host.top.rglob("*") if path.name != "calls")


Members = list[tuple[tarfile.TarInfo, bytes]]


def whole(host: OperatedHost, release: str = "2") -> Members:
    """The members of a package: the tree of the machine under another release."""
    tree = host.top / "opt/demo"
    found = [member("demo", type=tarfile.DIRTYPE, mode=0o755)]
    for path in sorted(tree.rglob("*")):
        name = f"demo/{path.relative_to(tree)}"
        if path.is_dir():
            found.append(member(name, type=tarfile.DIRTYPE, mode=0o755))
            continue
        content = path.read_bytes()
        if path.name == "product.sh":
            content = b"".join(
                f"release='{release}'\n".encode() if line.startswith(b"release=") else line
                for line in content.splitlines(keepends=True)
            )
        found.append(member(name, content, mode=path.stat().st_mode & 0o777, uid=1234, uname="someone"))
    found.append(member("demo/lib/real.so", b"elf"))
    found.append(member("demo/lib/real.so.1", type=tarfile.SYMTYPE, linkname="real.so"))
    found.append(member("demo/bin/lib.so", type=tarfile.SYMTYPE, linkname="../lib/real.so.1"))
    return [*found, manifest_of(found)]


def manifest_of(members: Members) -> tuple[tarfile.TarInfo, bytes]:
    """What a packer says of files and links, as far as an upgrade reads it."""
    contents = []
    for info, content in members:
        entry = {"path": info.name.removeprefix("demo/")}
        if info.issym():
            contents.append({**entry, "link": info.linkname})
        elif info.isreg():
            contents.append({**entry, "sha256": hashlib.sha256(content).hexdigest(), "mode": "0644"})
    text = json.dumps({"cell": "R620", "contents": contents, "version": "v1.0"}, indent=2, sort_keys=True) + "\n"
    return member("demo/manifest.json", text.encode())


def pack(host: OperatedHost, members: Members, name: str = "demo.tar.gz") -> Path:
    path = host.top / name
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w:", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["demo.tar.gz", "demo.tar", "demo v1.tgz", "a:b.tar.gz"])
def test_a_package_is_unpacked_beside(host: OperatedHost, name: str) -> None:
    path = pack(host, whole(host), name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (host.top / "SHA256SUMS").write_text(f"{'0' * 64}  other\n{digest}  tarballs/el9/{name}\n")
    done = host.lib(UNPACK, FILE=str(path))
    new = host.top / "opt" / SECOND
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"unpacked to {new}\nnew={new}\n"
    assert not [path for path in new.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert os.access(new / "utils/instance.sh", os.X_OK)
    assert (new / "bin/lib.so").read_bytes() == b"elf"
    assert sorted(path.name for path in (host.top / "opt").iterdir()) == ["demo", SECOND]
    # Again: it is there.
    done = host.lib(UNPACK, FILE=str(path))
    assert (done.stdout, done.stderr) == (f"new={new}\n", "")
    # One that was damaged since is not run, nor replaced.
    (new / "lib/real.so").write_text("elg")
    done = host.lib(UNPACK, FILE=str(path))
    assert (done.returncode, "is damaged: lib/real.so is not what manifest.json says" in done.stderr) == (1, True)
    # Another one under the same name is not put in its place.
    (new / "manifest.json").write_text("{}\n")
    done = host.lib(UNPACK, FILE=str(path))
    assert (done.returncode, "is there, and is not what" in done.stderr) == (1, True)
    assert sorted(path.name for path in (host.top / "opt").iterdir()) == ["demo", SECOND]


HOSTILE: dict[str, Callable[[], Members]] = {
    "absolute": lambda: [member("/etc/demo/evil")],
    "above": lambda: [member("demo/../../evil")],
    "above, first": lambda: [member("../evil")],
    "dots at the end": lambda: [member("demo/utils/..", type=tarfile.DIRTYPE, mode=0o755)],
    "link out": lambda: [member("demo/l", type=tarfile.SYMTYPE, linkname="/etc")],
    "link above": lambda: [member("demo/l", type=tarfile.SYMTYPE, linkname="../x")],
    "link above, deep": lambda: [member("demo/bin/l", type=tarfile.SYMTYPE, linkname="../../x")],
    "link that turns": lambda: [
        member("demo/here", type=tarfile.SYMTYPE, linkname="."),
        member("demo/l", type=tarfile.SYMTYPE, linkname="here/../../x"),
    ],
    "through a link": lambda: [
        member("demo/l", type=tarfile.SYMTYPE, linkname="bin"),
        member("demo/l/evil"),
    ],
    "link, then folder": lambda: [
        member("demo/l", type=tarfile.SYMTYPE, linkname="bin"),
        member("demo/l", type=tarfile.DIRTYPE, mode=0o755),
        member("demo/l/evil"),
    ],
    "hard link": lambda: [member("demo/h", type=tarfile.LNKTYPE, linkname="demo/bin/demo")],
    "hard link out": lambda: [member("demo/h", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "character device": lambda: [member("demo/d", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": lambda: [member("demo/d", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "pipe": lambda: [member("demo/p", type=tarfile.FIFOTYPE)],
    "setuid": lambda: [member("demo/s", mode=0o4755)],
    "setgid": lambda: [member("demo/s", mode=0o2755)],
    "sticky folder": lambda: [member("demo/t", type=tarfile.DIRTYPE, mode=0o1777)],
    "twice": lambda: [member("demo/utils/run.sh", b"#!/bin/sh\n")],
    "two folders": lambda: [member("other/x")],
    "no folder": lambda: [member("x")],
    "line end": lambda: [member("demo/a\nb c")],
    "blank": lambda: [member("demo/a b")],
    "arrow": lambda: [member("demo/a -> b")],
    "quote": lambda: [member("demo/a'b")],
    "command": lambda: [member("demo/$(id)")],
    "terminal": lambda: [member("demo/\x1b[31m")],
    "owner that is a line": lambda: [
        member("demo/z", uname="u\n-rw-r--r-- 0/0 1 2024-01-01 00:00 demo/y", mode=0o644, type=tarfile.FIFOTYPE)
    ],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_packages_change_nothing(host: OperatedHost, case: str) -> None:
    path = pack(host, [*whole(host), *HOSTILE[case]()])
    before = everything(host)
    done = host.run("instance.sh", PORT, "upgrade", str(path), "--no-snapshot")
    assert (done.returncode, " is refused: it has " in done.stderr) == (1, True), done
    assert "\x1b" not in done.stderr
    assert everything(host) == before


def other(members: Members, name: str, content: bytes) -> Members:
    """The members with other content of one."""
    return [member(info.name, content, mode=info.mode) if info.name == name else (info, text) for info, text in members]


DAMAGED: dict[str, Callable[[Members], Members]] = {
    "lib/real.so is not what manifest.json says": lambda whole: other(whole, "demo/lib/real.so", b"elg"),
    "utils/run.sh is not what manifest.json says": lambda whole: other(whole, "demo/utils/run.sh", b"evil\n"),
    "bin/lib.so is not what manifest.json says": lambda whole: [
        *whole[:-2], member("demo/bin/lib.so", type=tarfile.SYMTYPE, linkname="../lib/real.so"), whole[-1],
    ],
    "lib/real.so is missing": lambda whole: [entry for entry in whole if entry[0].name != "demo/lib/real.so"],
    "lib/more is not in manifest.json": lambda whole: [*whole, member("demo/lib/more")],
    "bin/more is not in manifest.json": lambda whole: [
        *whole, member("demo/bin/more", type=tarfile.SYMTYPE, linkname="demo"),
    ],
    "manifest.json is missing": lambda whole: whole[:-1],
    "bin/demo is not in manifest.json": lambda whole: other(whole, "demo/manifest.json", b'{"contents": []}\n'),
}  # fmt: skip


def test_damaged_packages_and_failed_upgrades_leave_no_tree(host: OperatedHost) -> None:
    good = whole(host)
    path = pack(host, good)
    before = everything(host)
    for said, damage in DAMAGED.items():
        pack(host, damage(good))
        done = host.run("instance.sh", PORT, "upgrade", str(path), "--no-snapshot")
        what = said if "bin/demo" not in said else "is not in manifest.json"
        assert (done.returncode, f"{path} is refused: " in done.stderr, what in done.stderr) == (1, True, True), done
        assert everything(host) == before, said
    # One that is whole, for an instance that does not answer: unpacked, and removed again, unless it is in use.
    pack(host, good)
    new = host.top / "opt" / SECOND
    done = host.run("instance.sh", PORT, "upgrade", str(path))
    assert (done.returncode, "does not answer" in done.stderr) == (1, True), done
    assert f"{new}, which was unpacked for this, is removed again" in done.stderr
    assert everything(host) == before
    for record, text in ((f"{PORT}.before/tree", f"{new}\n"), ("7005.env", f"TREE={new}\n")):
        file = host.top / "etc/demo" / record
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        assert host.run("instance.sh", PORT, "upgrade", str(path)).returncode == 1
        assert new.is_dir(), record
        file.unlink()
        shutil.rmtree(new)
    # What was there before stays.
    assert host.lib(UNPACK, FILE=str(path)).returncode == 0
    assert host.run("instance.sh", PORT, "upgrade", str(path)).returncode == 1
    assert new.is_dir()


def test_packages_that_are_something_else(host: OperatedHost) -> None:
    before = sorted((host.top / "opt").iterdir())
    good = whole(host)
    cases = {
        "is no tree of demo": [entry for entry in good if entry[0].name != "demo/utils/run.sh"],
        "but of 'other'": [(info, content.replace(b"product='demo'", b"product='other'")) for info, content in good],
        "does not say what it is": [
            (info, content.replace(b"version='v1.0'", b"version='$(id)'")) for info, content in good
        ],
    }
    for said, members in cases.items():
        for info, content in members:
            info.size = len(content)
        done = host.run("instance.sh", PORT, "upgrade", str(pack(host, members)), "--no-snapshot")
        assert (done.returncode, said in done.stderr) == (1, True), done
    for content in (b"", b"not a tar", b"\x1f\x8b broken", os.urandom(5000)):
        (host.top / "bad.tar.gz").write_bytes(content)
        done = host.run("instance.sh", PORT, "upgrade", str(host.top / "bad.tar.gz"), "--no-snapshot")
        assert done.returncode == 1, content
    assert sorted((host.top / "opt").iterdir()) == before


def test_sums(host: OperatedHost) -> None:
    path = pack(host, whole(host))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = host.top / "SHA256SUMS"
    for text, given, said in (
        (f"{'0' * 64}  demo.tar.gz\n", "", "is not the right one"),
        (f"{digest}  other.tar.gz\n", "", "does not list demo.tar.gz"),
        (f"{digest}  demo.tar.gz\n", "0" * 64, "is not the right one"),
    ):
        sums.write_text(text)
        done = host.lib(UNPACK, FILE=str(path), SUM=given)
        assert (done.returncode, said in done.stderr) == (1, True), done
    assert [path.name for path in (host.top / "opt").iterdir()] == ["demo"]
    sums.unlink()
    done = host.lib(UNPACK, FILE=str(path))
    assert (done.returncode, f"its sum is {digest}" in done.stderr) == (0, True)


WRONG: list[list[str]] = [
    ["upgrade", "--fly"],
    ["upgrade", ""],
    ["upgrade", "v1", "v2"],
    ["upgrade", "$(id)"],
    ["upgrade", "v1;id"],
    ["upgrade", "-v1"],
    ["upgrade", "v1\nv2"],
    ["upgrade", "--port"],
    ["upgrade", "--port", "x"],
    ["upgrade", "--port", "07000"],
    ["upgrade", "--sha256", "abc"],
    ["upgrade", "--sha256", "Z" * 64],
    ["upgrade", "--within", "soon"],
    ["upgrade", "--within", "-1"],
    ["upgrade", "--settle", "1e9"],
    ["rollback", "v1"],
    ["rollback", "--port"],
    ["rollback", "--within", ""],
    ["rollback", "--settle", "1"],
]
FAILS: list[list[str]] = [
    ["upgrade", "v9"],
    ["upgrade", "/no/such/package.tar.gz"],
    ["upgrade", "/etc"],
    ["upgrade", ".."],
    ["upgrade", "--port", "7005"],
    ["upgrade", "--keep"],
    ["upgrade"],  # it does not answer
    ["rollback", "--port", "7005"],
]


def test_wrong_arguments_change_nothing(host: OperatedHost) -> None:
    before = everything(host)
    for words in WRONG:
        done = host.run("instance.sh", PORT, *words)
        assert (done.returncode, "error: " in done.stderr) == (2, True), (words, done)
    for words in FAILS:
        done = host.run("instance.sh", PORT, *words)
        assert (done.returncode, "error: " in done.stderr) == (1, True), (words, done)
    done = host.run("instance.sh", PORT, "rollback")
    assert (done.returncode, done.stdout) == (0, f"instance {PORT} was not upgraded: nothing to do\n")
    for verb in ("upgrade", "rollback"):
        done = host.run("instance.sh", PORT, verb, "--help")
        assert (done.returncode, done.stdout.startswith(f"usage: instance.sh PORT {verb} ")) == (0, True)
        done = host.run("instance.sh", PORT, verb, FAKE_UID="1000")
        assert (done.returncode, "only root" in done.stderr) == (1, True)
    assert everything(host) == before


def test_a_tree_that_others_can_change_is_not_run(fast: OperatedHost) -> None:
    tree = fast.unpack("opt/other")
    (tree / "utils/lib/common.sh").chmod(0o666)
    done = fast.run("instance.sh", PORT, "upgrade", str(tree), "--no-snapshot")
    assert (done.returncode, "can be changed by others than root" in done.stderr) == (1, True)


def test_settings_that_an_upgrade_added_go_with_it(host: OperatedHost) -> None:
    for name, text in {
        "before": "port : 7000\nold : 1\n",
        "shipped": "port : 1\nnew : 5\n# comment : 1\nold : 9\n",
        "now": "port : 7000\nnew : 6\n# comment : 1\nold : 2\nslaveof : a:1\n",
    }.items():
        (host.top / name).write_text(text)
    said = lines(host, LIBRARIES + "cd $utils/../../..; conf_less now shipped before")
    assert said == "port : 7000\n# comment : 1\nold : 2\nslaveof : a:1\n"


RPM = """case $1 in -qf) [ "$2" = --qf ] || exit 9; echo demo ;; esac"""
DNF = """case $* in
"-y install demo-v1.0-2") printf '{"release": "2"}\\n' >OPT/demo/manifest.json.new
    mv OPT/demo/manifest.json.new OPT/demo/manifest.json ;;
*) exit 1 ;;
esac"""


def test_the_tree_of_rpm_is_kept_before_it_is_replaced(host: OperatedHost) -> None:
    opt = host.top / "opt"
    (opt / "demo/manifest.json").write_text("{}\n")
    host.add_instance(7005)
    host.stub("rpm", RPM)
    host.stub("dnf", DNF.replace("OPT", str(opt)))
    code = LIBRARIES + 'port=7000; tree_keep; manager_install rpm demo "$WHAT"\n'
    kept = opt / "demo-v1.0-1-R620"
    # It fails: all instances go on with what was kept.
    done = host.lib(code, WHAT="v1.0-9")
    assert (done.returncode, done.stdout) == (1, f"{opt}/demo is kept as {kept}\n")
    for port in (7000, 7005):
        assert f"TREE={kept}\n" in (host.top / f"etc/demo/{port}.env").read_text()
    done = host.lib(code, WHAT="v1.0-2")
    assert (done.returncode, done.stderr) == (0, "")
    assert [(path / "manifest.json").read_text() for path in (opt / "demo", kept)] == ['{"release": "2"}\n', "{}\n"]
    assert (kept / "bin/demo").stat().st_ino == (opt / "demo/bin/demo").stat().st_ino
