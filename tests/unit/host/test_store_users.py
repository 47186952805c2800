"""Two users have one store: what is damaged is mended by either, whoever has made it, or has a place beside it."""

from __future__ import annotations

import encodings.ascii  # noqa: F401  # before a process becomes somebody who may not read Python's folder
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pikaforge.errors import HostError
from pikaforge.host.store import RECORD, Store
from pikaforge.host.store_folders import refuse_unwritable
from pikaforge.host.store_upkeep import entries, prune

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")

KEY = "0123456789abcdef0123456789abcdef"
FIRST, SECOND, GROUP = 47021, 47022, 47023
"""Ids that nobody has."""


def as_user(uid: int, do: Callable[[], str], *, umask: int = 0o002) -> str:
    """What a function returns in a process of another user, who is in the common group."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.setgroups([GROUP])
            os.setgid(uid)
            os.setuid(uid)
            os.umask(umask)
            text = do()
        except BaseException:  # noqa: BLE001  # the test reads it
            text = traceback.format_exc()
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(pid, 0)
    return text


@pytest.fixture
def root() -> Iterator[Path]:
    """A store's folder that the group may write."""
    top = Path(tempfile.mkdtemp(prefix="pf-store-", dir="/tmp"))
    top.chmod(0o755)
    store = top / "store"
    store.mkdir()
    os.chown(store, FIRST, GROUP)
    store.chmod(0o2775)
    yield store
    shutil.rmtree(top)


def put(root: Path, text: str) -> str:
    """Store a result, and say what is stored then."""
    store = Store(root)
    with store.scratch() as scratch:
        (scratch / "made").write_text(text)
        made = store.put("compile", KEY, identity=text, facts={}, files={"tree.tar": scratch / "made"})
    assert Store(root).get("compile", KEY) == (made, "")
    return f"{made.files['tree.tar'].relative_to(root).parent} {made.files['tree.tar'].read_text()}"


def look(root: Path) -> str:
    """What is stored, or why it is bad."""
    found, bad = Store(root).get("compile", KEY)
    return bad if found is None else found.files["tree.tar"].read_text()


def drop(root: Path) -> str:
    Store(root).drop("compile", KEY)
    return ""


def damage(root: Path) -> Path:
    path = root / "compile" / KEY / "tree.tar"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    return path


def left(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob(".new-*"))


def test_a_damaged_entry_of_another_user_is_mended(root: Path) -> None:
    """The folder of the entry has the mode that the store has, so nothing is left of it."""
    assert as_user(FIRST, lambda: put(root, "made by the first")) == f"compile/{KEY} made by the first"
    assert as_user(SECOND, lambda: look(root)) == "made by the first"
    path = damage(root)
    said = f"{path} does not have the digest it was stored with (of user {FIRST})"
    assert as_user(SECOND, lambda: look(root)) == said
    assert as_user(SECOND, lambda: put(root, "made by the second")) == f"compile/{KEY} made by the second"
    assert as_user(FIRST, lambda: look(root)) == "made by the second"
    assert left(root) == []


def test_what_cannot_be_removed_is_moved_and_its_owner_removes_it(root: Path) -> None:
    as_user(FIRST, lambda: put(root, "made by the first"))
    (root / "compile" / KEY).chmod(0o755)  # as an older version has made it
    damage(root)
    assert as_user(SECOND, lambda: put(root, "made by the second")) == f"compile/{KEY} made by the second"
    assert len(left(root)) == 1
    assert as_user(SECOND, lambda: str(Store(root).sweep())) == "0", "it cannot, and does not say that it has"
    assert as_user(FIRST, lambda: str(Store(root).sweep())) == "1"
    assert left(root) == []
    assert as_user(FIRST, lambda: look(root)) == "made by the second"


@pytest.mark.parametrize("mode", [0o3775, 0o2755], ids=["sticky", "of the first alone"])
def test_what_cannot_be_moved_has_another_place(root: Path, mode: int) -> None:
    """The second user has a result of its own beside it; the first one mends what is the first one's."""
    as_user(FIRST, lambda: put(root, "made by the first"))
    (root / "compile" / KEY).chmod(0o755)
    (root / "compile").chmod(mode)
    path = damage(root)
    assert f"{path} does not have the digest" in as_user(SECOND, lambda: look(root))
    place = f"compile~{SECOND}/{KEY}"
    assert as_user(SECOND, lambda: put(root, "made by the second")) == f"{place} made by the second"
    assert as_user(SECOND, lambda: look(root)) == "made by the second", "without a reason: it is good"
    assert f"{path} does not have the digest" in as_user(FIRST, lambda: look(root))
    assert as_user(FIRST, lambda: put(root, "made by the first")) == f"compile/{KEY} made by the first"
    assert {each.name for each in entries(root)} == {f"compile/{KEY}", place}
    as_user(SECOND, lambda: drop(root))
    assert as_user(SECOND, lambda: look(root)) == "made by the first"
    assert left(root) == []


def test_upkeep_of_another_users_entries(root: Path) -> None:
    as_user(FIRST, lambda: put(root, "made by the first"))
    assert as_user(SECOND, lambda: str(len(prune(Store(root), keep=0).removed))) == "1"
    as_user(FIRST, lambda: put(root, "made by the first"))
    (root / "compile").chmod(0o2755)
    said = as_user(SECOND, lambda: str(len(prune(Store(root), keep=0).removed)))
    assert f"cannot remove {root}/compile/{KEY} (of user {FIRST})" in said
    assert (root / "compile" / KEY / RECORD).is_file()


def test_a_folder_that_cannot_be_written_is_refused(root: Path) -> None:
    def refused() -> str:
        try:
            refuse_unwritable(root / "absent", root)
        except HostError as error:
            return f"{error.message}: {error.hint}"
        return ""

    assert as_user(SECOND, refused) == ""
    root.chmod(0o755)
    assert as_user(FIRST, refused) == ""
    said = as_user(SECOND, refused)
    assert said.startswith(f"{root} cannot be written (of user {FIRST}): --out and --dist name others")
