"""Bare machines: containers of a minimal system, with this checkout, the engine's socket, and nothing else.

A machine gets what its owner would have given it: pip's settings of this machine with the folders that they name, its
own certificate authorities, and proxies. apt's sources are those of its system. Its first process reaps nobody, and
becomes a command at last; what runs there has no variables at all, unless a test gives it some.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import checkout

from pikaforge.host.job import files

if TYPE_CHECKING:
    from conftest import Engine
    from docker.models.containers import Container

HOME = "/srv/pikaforge"
SOCKET = "/var/run/docker.sock"
PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
OUTPUT = "/root/output"
GO = "/run/go"
FIRST = f'mkfifo {GO}; read -r _ <{GO}; exec env -i "$@"'
"""What the first process is at first: a shell that waits."""
TIMEOUT = 600.0
"""Seconds for the command that the first process becomes."""
AUTHORITIES = Path("/usr/local/share/ca-certificates")
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""setup.sh brings it, with the authorities in it."""
PROXIES = re.compile(r"(https?|no|all)_proxy", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a machine has of this one's."""

    contents: Mapping[str, bytes | Path]
    """Files, by path below the root."""
    folders: tuple[str, ...]
    """Seen there at the same place."""
    variables: Mapping[str, str]


def pip_settings() -> dict[str, str]:
    """pip's settings as it has them here, by option, from files and variables; the latter win, as with pip."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in told.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in found:
            found[section][option] = str(ast.literal_eval(value))
    return {**found["global"], **found["install"], **found[":env:"]}


def settings() -> Settings:
    """Of this machine."""
    options = pip_settings()
    contents: dict[str, bytes | Path] = {}
    folders = set()
    for word in " ".join(options.values()).split():
        path = Path(unquote(word.removeprefix("file://")))
        if not path.is_absolute() or str(path) == BUNDLE:
            continue
        if path.is_file():
            contents[str(path).lstrip("/")] = path
        elif path.is_dir():
            folders.add(str(path))
    # Links in an index's folder may lead out of it.
    folders |= {str(Path(folder).parent) for folder in folders if Path(folder).name == "simple"}
    options["no-compile"] = "true"  # Python compiles what it imports, which is little of what is installed
    lines = [f"{option} = {value}" for option, value in options.items()]
    contents["etc/pip.conf"] = "\n".join(["[global]", *lines, ""]).encode()
    contents |= {str(path).lstrip("/"): path for path in AUTHORITIES.rglob("*.crt")}
    variables = {name: value for name, value in os.environ.items() if PROXIES.fullmatch(name)}
    return Settings(contents=contents, folders=tuple(sorted(folders)), variables=variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that ended there."""

    status: int
    text: str
    """Both outputs."""

    def lines(self, pattern: str) -> list[str]:
        """The lines in which a pattern is found."""
        return [line for line in self.text.splitlines() if re.search(pattern, line)]

    def shown(self, argv: Iterable[str]) -> Done:
        """The same, after it was printed: pytest shows that with a failure."""
        print(f"$ {' '.join(argv)}\n{self.text}[exit status {self.status}]")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A bare machine."""

    container: Container
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> Done:
        """Run a command in the checkout, with the given variables and no others."""
        api: Any = self.container.client
        pairs = [f"{name}={value}" for name, value in {**self.variables, **(env or {})}.items()]
        # Into a file: on a busy machine, docker 20.10 loses what a short command says at its end.
        words = ["sh", "-c", f'exec >{OUTPUT} 2>&1; exec env -i "$@"', "sh", *pairs, *argv]
        made = api.api.exec_create(self.container.id, words, workdir=HOME)
        api.api.exec_start(made["Id"])
        status = int(api.api.exec_inspect(made["Id"])["ExitCode"])
        return Done(status=status, text=self.read(OUTPUT).decode("utf-8", "replace")).shown(argv)

    def ok(self, *argv: str, env: Mapping[str, str] | None = None) -> Done:
        """Run a command that must succeed."""
        done = self.run(*argv, env=env)
        assert done.status == 0, f"{' '.join(argv)}: exit status {done.status}"
        return done

    def setup(self, *argv: str) -> Done:
        """Run setup.sh, which must succeed."""
        return self.ok("bash", "setup.sh", *argv)

    def nox(self, session: str, *argv: str, env: Mapping[str, str] | None = None) -> Done:
        """Run a session, which must succeed."""
        return self.ok(".venv/bin/nox", "-s", session, "--", *argv, env=env)

    def last(self) -> Done:
        """Let the first process become its command; with it the machine ends."""
        self.ok("sh", "-c", f"echo >{GO}")
        status = int(self.container.wait(timeout=TIMEOUT)["StatusCode"])
        return Done(status=status, text=bytes(self.container.logs()).decode("utf-8", "replace")).shown(("…",))

    def put(self, contents: Mapping[str, bytes | Path]) -> None:
        """Write files; paths are relative to the root."""
        self.container.put_archive("/", files(contents))

    def read(self, path: str) -> bytes:
        """A file of the checkout; or another one, by its whole path."""
        stream, _ = self.container.get_archive(str(PurePosixPath(HOME, path)))
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            member = tar.next()
            content = tar.extractfile(member) if member is not None else None
            assert content is not None, path
            return content.read()

    def lacking(self, programs: Iterable[str]) -> set[str]:
        """Those programs that are not there."""
        script = 'for name; do command -v "$name" >/dev/null || echo "$name"; done'
        return set(self.ok("sh", "-c", script, "sh", *sorted(programs), env=PATH).text.split())


def _checkout() -> bytes:
    """The checkout's files, as a tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in checkout.listed():
            tar.add(checkout.ROOT / name, f"{HOME.lstrip('/')}/{name}", filter=_owned_by_root)
    return stream.getvalue()


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


@contextmanager
def machine_of(engine: Engine, image: str, *last: str) -> Iterator[Machine]:
    """A machine whose system is an image's; it shares the engine's network, as a machine of the engine's would.

    Args:
        engine: the engine, whose socket the machine gets.
        image: a minimal system.
        last: the command that its first process becomes at last.
    """
    given = settings()
    mounts = {SOCKET: {"bind": SOCKET, "mode": "rw"}}
    mounts |= {folder: {"bind": folder, "mode": "ro"} for folder in given.folders}
    container = engine.client.containers.create(
        image,
        ["sh", "-c", FIRST, "sh", *last],
        network_mode="host",
        volumes=mounts,
        working_dir=HOME,
    )
    try:
        container.put_archive("/", _checkout())
        made = Machine(container=container, variables=given.variables)
        made.put(given.contents)
        container.start()
        yield made
    finally:
        container.remove(force=True, v=True)
