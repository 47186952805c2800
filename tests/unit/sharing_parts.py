"""What tests of shared stores share: a store in memory that can fail, and seals without GnuPG."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.attest.signing import Settings
from pikaforge.config.scalars import Strict
from pikaforge.host.hashing import digest
from pikaforge.host.store import Result, Store
from pikaforge.sharing.objects import ObjectError
from pikaforge.sharing.results import SharedResults
from pikaforge.sharing.seals import Seals

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


class Built(Strict):
    """Facts of the tests' stage."""

    note: str
    numbers: tuple[int, ...] = ()


class MemoryObjects:
    """Objects in memory; what a test puts into `fails` goes wrong, by method."""

    def __init__(self) -> None:
        self.where = "memory://store"
        self.held: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.fails: dict[str, Callable[[str], None]] = {}

    def _ask(self, method: str, path: str) -> None:
        self.asked.append((method, path))
        if (fail := self.fails.get(method)) is not None:
            fail(path)

    def read(self, path: str, *, limit: int) -> bytes | None:
        self._ask("read", path)
        data = self.held.get(path)
        if data is not None and len(data) > limit:
            raise ObjectError("it is too large", ends=False)
        return data

    def download(self, path: str, into: Path, *, size: int) -> bool:
        self._ask("download", path)
        data = self.held.get(path)
        if data is not None:
            into.write_bytes(data[: size + 1])
        return data is not None

    def size(self, path: str) -> int | None:
        self._ask("size", path)
        return len(self.held[path]) if path in self.held else None

    def write(self, path: str, content: Path | bytes) -> None:
        self._ask("write", path)
        self.held[path] = content if isinstance(content, bytes) else content.read_bytes()

    def methods(self) -> list[str]:
        """The methods that were called, in order."""
        return [method for method, _ in self.asked]


def fails(*, ends: bool, reason: str = "no answer") -> Callable[[str], None]:
    """A failure of every request."""

    def fail(_path: str) -> None:
        raise ObjectError(reason, ends=ends)

    return fail


class MarkSeals(Seals):
    """Signs by a digest with a word in it, and trusts some words."""

    def __init__(self, word: str = "", *trusted: str) -> None:
        super().__init__(Settings(key=word), ())
        self._word, self._words = word, trusted

    @property
    def judges(self) -> bool:
        return bool(self._words)

    def sign(self, data: bytes) -> str:
        return _mark(self._word, data) if self._word else ""

    def refusal(self, data: bytes, signature: str) -> str:
        if not self._words:
            return ""
        if not signature:
            return "it is not signed"
        return "" if signature in [_mark(word, data) for word in self._words] else "it is by a stranger"


def _mark(word: str, data: bytes) -> str:
    return hashlib.sha256(word.encode() + data).hexdigest()


@dataclass
class Machine:
    """A machine with a local store, and the shared one."""

    folder: Path
    objects: MemoryObjects
    seals: Seals = field(default_factory=MarkSeals)
    write: bool = True
    file_limit: int = 1 << 20

    def __post_init__(self) -> None:
        self.notices: list[str] = []
        self.store = Store(self.folder / "store")
        self.shared = SharedResults(
            self.objects, self.seals, write=self.write, file_limit=self.file_limit, notice=self.notices.append
        )

    def make(self, text: str = "a tree", *, key: str = KEY, note: str = "made", name: str = "tree.tar") -> Result:
        """Make a result and store it here."""
        with self.store.scratch() as scratch:
            path = scratch / "made"
            path.write_text(text)
            facts = Built(note=note, numbers=(1, 2))
            return self.store.put("compile", key, identity=digest(text), facts=facts, files={name: path})

    def fetch(
        self, *, key: str = KEY, stage: str = "compile", unfit: Callable[[Result], str] | None = None
    ) -> Result | None:
        """Take a result from the shared store."""
        return self.shared.fetch(stage, key, into=self.store, facts=Built, unfit=unfit or (lambda _: ""))

    def left(self) -> list[str]:
        """What is in the local store beside results."""
        if not self.store.root.is_dir():
            return []
        names = (path.name for path in self.store.root.iterdir())
        return sorted(name for name in names if name != ".lock" and not name.startswith((".uses-", ".used-")))
