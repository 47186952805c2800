"""What goes into a container, and what is taken out of one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from pikaforge.errors import HostError
from pikaforge.host import container, container_inputs
from pikaforge.host.confinement import BLOCK, NOBODY, Bounds, OutputError
from pikaforge.host.container_inputs import Folders, fill
from pikaforge.host.job import PACKED, Input, Job, files

if TYPE_CHECKING:
    from pikaforge.host.connection import Container

OUT = Folders(made="out")
TREE = files({"a/b": b"text", "c": b""}, executable=["c"])


class Taker:
    """A container that takes archives."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []

    def put_archive(self, folder: str, data: Iterator[bytes]) -> None:
        self.taken.append((folder, b"".join(data)))

    def members(self) -> dict[str, tuple[int, int]]:
        """Owner and mode of all that was put."""
        found = {}
        for folder, data in self.taken:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                found.update({f"{folder}/{info.name}": (info.uid, info.mode) for info in tar})
        return found


def filled(*inputs: Input, folders: Folders = OUT, podman: bool = False) -> Taker:
    taker = Taker()
    fill(cast("Container", taker), inputs, folders, podman=podman)
    return taker


@pytest.mark.parametrize("podman", [False, True])
def test_all_goes_in_one_request(podman: bool) -> None:
    taker = filled(
        Input(folder="guest", archive=TREE, sealed=True),
        Input(folder="src", archive=TREE, packed=True),
        Input(folder="allocator", archive=TREE, packed=True),
        Input(folder="patches", archive=TREE),
        podman=podman,
    )
    assert [folder for folder, _ in taker.taken] == ["/forge"]
    root = "/forge/." if podman else "/forge/../forge"
    assert taker.members() == {
        "/forge/unpack": (NOBODY, 0o755),
        "/forge/unpack/src.tar": (NOBODY, 0o644),
        "/forge/unpack/allocator.tar": (NOBODY, 0o644),
        root: (0, 0o1777),
        "/forge/guest": (0, 0o755),
        "/forge/guest/a": (0, 0o755),
        "/forge/guest/a/b": (0, 0o644),
        "/forge/guest/c": (0, 0o755),
        "/forge/patches": (NOBODY, 0o755),
        "/forge/patches/a": (NOBODY, 0o755),
        "/forge/patches/a/b": (NOBODY, 0o644),
        "/forge/patches/c": (NOBODY, 0o755),
        "/forge/out": (NOBODY, 0o755),
    }


def test_an_archive_that_the_job_unpacks_comes_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "source.tar"
    path.write_bytes(TREE + bytes(100))  # not a whole block
    [(_, data)] = filled(Input(folder="src", archive=path, packed=True)).taken
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = tar.extractfile("unpack/src.tar")
        assert found is not None
        assert found.read() == path.read_bytes()


def test_a_file_that_becomes_shorter_leaves_the_rest_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return b"" if self.tell() else super().read(min(size or 0, BLOCK))

    path = tmp_path / "source.tar"
    path.write_bytes(TREE)
    monkeypatch.setattr(Path, "open", lambda *_args, **_options: Shrinking(TREE))
    taker = filled(Input(folder="src", archive=path, packed=True), Input(folder="guest", archive=TREE, sealed=True))
    assert {"/forge/unpack/src.tar", "/forge/guest/c"} <= set(taker.members())


def test_what_is_large_is_sent_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_inputs, "TOGETHER", len(TREE))
    taker = filled(Input(folder="one", archive=TREE), Input(folder="two", archive=TREE, sealed=True))
    assert [folder for folder, _ in taker.taken] == ["/forge", "/forge/two"]
    assert taker.members()["/forge/two/c"] == (0, 0o755)
    assert taker.members()["/forge/one/c"] == (NOBODY, 0o755)


def test_a_server_can_write_to_its_data_alone() -> None:
    found = filled(Input(folder="tree", archive=TREE), folders=Folders(made="data", only=True)).members()
    assert {name for name, (owner, _) in found.items() if owner == NOBODY} == {"/forge/data"}
    assert found["/forge/../forge"] == (0, 0o755)


# ---- what comes out


def packed(*members: tuple[str, bytes | None]) -> bytes:
    """The folder `packed` of a container as the engine sends it; a link for what has no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        top = tarfile.TarInfo(PACKED)
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for name, content in members:
            info = tarfile.TarInfo(f"{PACKED}/{name}")
            info.size = len(content or b"")
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What an engine sends of a container, by path."""
    held: dict[str, bytes] = {}

    @contextmanager
    def sent(_container: object, path: str) -> Iterator[Iterator[bytes] | None]:
        data = held.get(path)
        yield None if data is None else iter([data[at : at + 700] for at in range(0, len(data), 700)])

    monkeypatch.setattr(container, "sent", sent)
    return held


def fetched(into: Path, *outputs: str, facts: tuple[str, ...] = (), file: int = 1 << 20) -> Mapping[str, Path]:
    job = Job(
        label="l", image="i", argv=("x",), env={}, inputs=(), outputs=outputs, facts=facts, log=into / "log",
        bounds=Bounds(file=file),
    )  # fmt: skip
    return container.fetch_outputs(cast("Container", SimpleNamespace(name="c")), job, into)


def test_outputs_that_are_packed_come_together(sends: dict[str, bytes], tmp_path: Path) -> None:
    sends["/forge/packed"] = packed(("tree.tar", b"t" * 3000), ("other", b"x"), ("facts.tar", b"f"))
    sends["/forge/out/epoch"] = files({"epoch": b"12"})
    found = fetched(tmp_path, "packed/tree.tar", facts=("packed/facts.tar", "out/epoch"))
    assert {path: file.read_bytes() for path, file in found.items()} == {
        "packed/tree.tar": b"t" * 3000,
        "packed/facts.tar": b"f",
        "out/epoch": b"12",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch", "facts.tar", "tree.tar"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((), "the job left no /forge/packed/tree.tar"),
        ((("deeper/tree.tar", b"t"),), "the job left no /forge/packed/tree.tar"),
        ((("../tree.tar", b"t"),), "the job left no /forge/packed/tree.tar"),
        ((("tree.tar", None),), "/forge/packed/tree.tar is not a regular file"),
        ((("tree.tar", b"t" * 101),), "/forge/packed is larger than 100 bytes"),
        ((("more", b"t" * 60), ("tree.tar", b"t" * 60)), "/forge/packed is larger than 100 bytes"),
        ((("tree.tar", b"t" * 60), ("more", b"t" * 60)), "/forge/packed is larger than 100 bytes"),
        (tuple((f"empty{number}", b"") for number in range(1001)), "/forge/packed has more than 1000 files"),
    ],
)
def test_outputs_that_cannot_be_taken(
    members: tuple[tuple[str, bytes | None], ...], message: str, sends: dict[str, bytes], tmp_path: Path
) -> None:
    sends["/forge/packed"] = packed(*members)
    with pytest.raises(OutputError) as error:
        fetched(tmp_path, "packed/tree.tar", file=100)
    assert error.value.message == message
    assert error.value.where == "container c"


def test_one_may_not_have_what_another_left_over(
    sends: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "FACTS_LIMIT", 10)
    sends["/forge/packed"] = packed(("facts.tar", b"f" * 11), ("tree.tar", b"t"))
    with pytest.raises(OutputError) as error:
        fetched(tmp_path, "packed/tree.tar", facts=("packed/facts.tar",), file=100)
    assert error.value.message == "/forge/packed/facts.tar is larger than 10 bytes"


def test_a_job_that_has_left_nothing(sends: dict[str, bytes], tmp_path: Path) -> None:
    assert not sends
    with pytest.raises(HostError, match=r"the job left no /forge/packed/tree\.tar"):
        fetched(tmp_path, "packed/tree.tar")


def test_the_first_of_a_name_counts(sends: dict[str, bytes], tmp_path: Path) -> None:
    sends["/forge/packed"] = packed(("tree.tar", b"one"), ("tree.tar", b"two"))
    assert fetched(tmp_path, "packed/tree.tar")["packed/tree.tar"].read_bytes() == b"one"
