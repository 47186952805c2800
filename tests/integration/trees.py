"""Packages as trees that tests change: another release, and versions whose server is broken in some way.

A tree is read from a tarball that the pipeline has made. What is changed in it is also changed in its manifest's list
of contents, so it is a package that is whole, and whose server does not serve.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hosts import Contents

MANIFEST = "manifest.json"
Fault = Literal["dies", "dies-later", "silent", "mute", "fills", "fills-and-frees"]
"""What is wrong with a server.

dies: it ends at once with status 3 and a sentence. dies-later: it serves for two seconds and is killed, at each start.
silent: it runs, and listens nowhere. mute: it listens, accepts, and never answers. fills: it fills the file system of
its data, leaves the file `filler` there, and ends with status 1. fills-and-frees: the same without the file.
"""

BEGIN = """\
#!/bin/sh
# In place of @NAME@, which is @NAME@.real beside it.
real=$(dirname "$(readlink -f "$0")")/@NAME@.real
case ${1-} in -v | --version | -h | --help) exec "$real" "$@" ;; esac
for conf in "$@"; do :; done
"""
"""The configuration is the last argument of servers here."""
VALUE = """\
value() { sed -n "s/^ *$1 *[: ] *\\(.*[^ ]\\) *\\$/\\1/p" "$conf" | tail -n 1; }
"""
FILL = """\
data=$(value db-path)
data=${data:-$(value dir)}
cat /dev/zero >"$data/filler"
"""
FULL = """echo '@NAME@: no space left on device: planted by a test' >&2
exit 1
"""
FAULTS: Mapping[Fault, str] = {
    "dies": "echo '@NAME@: cannot start: planted by a test' >&2\nexit 3\n",
    "dies-later": '"$real" "$@" &\nsleep 2\nkill -9 $!\nwait $!\nexit 3\n',
    "silent": "echo '@NAME@: starts, and will never listen'\nexec sleep infinity\n",
    "mute": VALUE
    + """\
exec perl -MIO::Socket::INET -e '
    my $listener = IO::Socket::INET->new(LocalPort => $ARGV[0], Listen => 100, ReuseAddr => 1) or die "port: $!";
    while (1) { push @clients, $listener->accept }' "$(value port)"
""",
    "fills": VALUE + FILL + FULL,
    "fills-and-frees": VALUE + FILL + 'rm -f "$data/filler"\n' + FULL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A member of a package."""

    info: tarfile.TarInfo
    content: bytes | None = None
    """Of a regular file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """An unpacked package."""

    top: str
    """Its folder: the name of the product."""
    server: str
    """Path of its server."""
    entries: Mapping[str, Entry]
    """By path below the folder."""

    @classmethod
    def read(cls, tarball: Path, server: str) -> Tree:
        """Read a package, whose server has a path below its folder."""
        entries = {}
        with tarfile.open(tarball) as tar:
            members = tar.getmembers()
            for member in members[1:]:
                file = tar.extractfile(member) if member.isreg() else None
                path = member.name.partition("/")[2]
                entries[path] = Entry(info=member, content=None if file is None else file.read())
        return cls(top=members[0].name.rstrip("/"), server=server, entries=entries)

    def content(self, path: str) -> bytes:
        """A file."""
        content = self.entries[path].content
        assert content is not None, path
        return content

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json."""
        found: dict[str, Any] = json.loads(self.content(MANIFEST))
        return found

    def changed(self, contents: Contents, **manifest: Any) -> Tree:
        """Return the tree with files of other content, or further ones, and with other entries of its manifest."""
        entries = dict(self.entries)
        described = {**self.manifest, **manifest}
        listed = {item["path"]: item for item in described["contents"]}
        for path, given in contents.items():
            content, mode = given if isinstance(given, tuple) else (given, self._mode(path))
            entries[path] = self._entry(path, content, mode)
            digest = hashlib.sha256(content).hexdigest()
            listed[path] = {"mode": f"{mode:04o}", "path": path, "sha256": digest}
        described["contents"] = [listed[path] for path in sorted(listed)]
        text = json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        entries[MANIFEST] = self._entry(MANIFEST, text.encode(), 0o644)
        return replace(self, entries=entries)

    def _mode(self, path: str) -> int:
        return self.entries[path].info.mode if path in self.entries else 0o644

    def _entry(self, path: str, content: bytes, mode: int) -> Entry:
        info = tarfile.TarInfo(f"{self.top}/{path}")
        info.size, info.mode, info.mtime = len(content), mode, self.entries[MANIFEST].info.mtime
        return Entry(info=info, content=content)

    def with_line(self, path: str, line: str) -> Tree:
        """Return the tree with one more line in a file."""
        return self.changed({path: self.content(path) + f"{line}\n".encode()})

    def broken(self, fault: Fault) -> Tree:
        """Return the tree with a server that is broken."""
        return self.with_server(FAULTS[fault])

    def slow(self, seconds: float) -> Tree:
        """Return the tree with a server that starts to listen after some seconds."""
        return self.with_server(f'sleep {seconds:g}\nexec "$real" "$@"\n')

    def with_server(self, script: str) -> Tree:
        """Return the tree with a script in place of its server, for which $real is the server, and $conf its file."""
        text = (BEGIN + script).replace("@NAME@", Path(self.server).name)
        real = self.content(self.server)
        return self.changed({self.server: (text.encode(), 0o755), f"{self.server}.real": (real, 0o755)})

    def tar(self) -> bytes:
        """The package, not compressed: for `Host.unpack`."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
            top = tarfile.TarInfo(self.top)
            top.type, top.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(top)
            for path in sorted(self.entries):
                entry = self.entries[path]
                tar.addfile(entry.info, None if entry.content is None else io.BytesIO(entry.content))
        return stream.getvalue()

    def pack(self, path: Path) -> Path:
        """Write the package as a tar.gz; return its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(self.tar(), compresslevel=1, mtime=0))
        return path
