"""What a compilation may leave: members of its trees, and the texts that it says of itself."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.helpers import tar_of

from pikaforge.errors import StageError
from pikaforge.host.confinement import FACTS_LIMIT, FACTS_LINES, OutputError
from pikaforge.pipeline import members
from pikaforge.pipeline.guest_facts import GuestFacts, guest_facts

Judge = Callable[..., list[str]]


def member(name: str, kind: bytes = tarfile.REGTYPE, *, mode: int = 0o644, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, target
    return info


def tree(*infos: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member(".", tarfile.DIRTYPE, mode=0o755))
        for info in infos:
            tar.addfile(info)
    return buffer.getvalue()


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """The findings about trees; none if they are accepted."""

    def judge(*trees: bytes) -> list[str]:
        paths = [tmp_path / f"{number}.tar" for number in range(len(trees))]
        for path, data in zip(paths, trees, strict=True):
            path.write_bytes(data)
        try:
            members.check(*paths, stage="compile", label="x", log=tmp_path / "log")
        except StageError as error:
            assert error.message == "the build left what cannot be packed"
            assert error.exit_code == 4
            return list(error.failure.findings)
        return []

    return judge


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("info", "finding"),
    [
        (member("./bin/su", mode=0o4755), "'bin/su' has the set-user-ID bit"),
        (member("./bin/wall", mode=0o2755), "'bin/wall' has the set-group-ID bit"),
        (member("./bin/both", mode=0o6755), "'bin/both' has the set-user-ID and the set-group-ID bit"),
        (member("./var", tarfile.DIRTYPE, mode=0o1777), "'var' has the sticky bit"),
        (member("./dev/null", tarfile.CHRTYPE), "'dev/null' is no file, folder or link, but a device or a pipe"),
        (member("./dev/sda", tarfile.BLKTYPE), "'dev/sda' is no file, folder or link, but a device or a pipe"),
        (member("./run/pipe", tarfile.FIFOTYPE), "'run/pipe' is no file, folder or link, but a device or a pipe"),
        (member("./a\nb"), r"'a\nb' has a control character in its name, or a byte that is not UTF-8"),
        (member("./a\x1b[2Jb"), r"'a\x1b[2Jb' has a control character in its name, or a byte that is not UTF-8"),
        (member("./a\u202eb"), r"'a\u202eb' has a control character in its name, or a byte that is not UTF-8"),
        (member("./a\udcffb"), r"'a\udcffb' has a control character in its name, or a byte that is not UTF-8"),
        (member("../x"), "'../x' is outside of the tree"),
        (member("./a/../../x"), "'a/../../x' is outside of the tree"),
        (member("./lib/x", LINK, target="/etc/passwd"), "'lib/x' is a link out of the tree, to '/etc/passwd'"),
        (member("./lib/x", LINK, target="../../y"), "'lib/x' is a link out of the tree, to '../../y'"),
        (member("./x", LINK, target=".."), "'x' is a link out of the tree, to '..'"),
        (member("./x", HARD, target="../y"), "'x' is a link out of the tree, to '../y'"),
        (member("./x", LINK, target="a\tb"), "'x' is a link to a name with a control character, or a byte"),
        (member("./" + "a/" * 200 + "x"), "'a/a/a/"),
    ],
)
def test_what_cannot_be_packed_is_named(judge: Judge, info: tarfile.TarInfo, finding: str) -> None:
    (found,) = judge(tree(member("./bin/demo", mode=0o755), info), tree())
    assert found.startswith(finding)
    assert judge(tree(), tree(info)) == [found], "also in debug information"


@pytest.mark.parametrize(
    "info",
    [
        member("./bin/demo", mode=0o755),
        member("./lib", tarfile.DIRTYPE, mode=0o755),
        member("./lib/libx.so", LINK, mode=0o777, target="libx.so.1"),
        member("./bin/x", LINK, mode=0o777, target="../lib/x"),
        member("./bin/dangling", LINK, mode=0o777, target="nothing"),
        member("./bin/again", HARD, target="./bin/demo"),
        member("./share/ä ö%$"),
    ],
)
def test_what_can_be_packed(judge: Judge, info: tarfile.TarInfo) -> None:
    assert judge(tree(info), tree()) == []


def test_many_findings_are_cut_short(judge: Judge) -> None:
    found = judge(tree(*(member(f"./{number:02}", mode=0o4755) for number in range(25))))
    assert (len(found), found[0], found[-1]) == (11, "'00' has the set-user-ID bit", "and 15 more")


def test_what_is_no_archive_is_refused(judge: Judge) -> None:
    (found,) = judge(b"no archive" * 1000)
    assert "truncated or corrupt" in found


def test_too_many_members_are_refused(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MEMBERS_LIMIT", 5)
    (found,) = judge(tree(*(member(f"./{number}") for number in range(10))))
    assert found.startswith("it has more than 5 members")
    assert judge(tree(*(member(f"./{number}") for number in range(4)))) == []


# ---- facts


def test_facts_are_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "facts.tar"
    path.write_bytes(tar_of({"compiler.txt": "gcc\n", "dropped.tsv": "12\t-Werror\n3\t-march=a\tb\n"}))
    found = guest_facts(path)
    assert found.lines("compiler.txt") == ("gcc",)
    assert found.dropped() == ((12, "-Werror"), (3, "-march=a\tb")), "a flag may have a tab in it"
    half = "x" * (FACTS_LIMIT // 2 + 1)
    path.write_bytes(tar_of({"a": half, "b": half}))
    with pytest.raises(OutputError, match=r"^facts\.tar is larger than 16 MiB$"):
        guest_facts(path)
    path.write_bytes(tar_of({"a": "\n" * (FACTS_LINES + 1)}))
    with pytest.raises(OutputError, match=r"^facts\.tar has more than 200000 lines$"):
        guest_facts(path)


@pytest.mark.parametrize("line", ["\t-Werror", "-1\tx", "1.5\tx", "many\tx", "٣\tx", "9" * 5000 + "\tx"])
def test_what_a_build_says_of_dropped_flags_may_be_anything(line: str) -> None:
    """The file is where the build can write to it."""
    with pytest.raises(OutputError, match=r"^dropped\.tsv has a line without a number: "):
        GuestFacts({"dropped.tsv": line}).dropped()
