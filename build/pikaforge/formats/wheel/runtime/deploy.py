"""`deploy`: put the program on this host, and set up an instance of it."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess  # noqa: TID251  # on a host there is nothing of ours but these files
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .base import EXIT_USAGE, PLAIN, SHELL, TREE, About, CommandError, gate, say, shell_status
from .configuration import read

UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system")
"""Where packages have their units."""

USAGE = """\
usage: {name} deploy PORT BASE [--prefix DIR] [OPTION...]

Put the program on this host and set up an instance of it: conf, data and logs in BASE/{product}_PORT.

The program is copied to DIR-VERSION-BUILD, its utils/deploy.sh is run there with PORT, BASE and the options, and when
that has succeeded DIR, a symbolic link, is switched to it. Run again with the same arguments it changes nothing.
An upgrade leaves the former build where it is: running instances go on with it until they are restarted, and its own
utils/deploy.sh goes back to it.

  --prefix DIR   instead of /opt/{product}
"""


def deploy(about: About, words: "list[str]") -> int:
    """Do what USAGE says. Return the exit status."""
    if "--help" in words or "-h" in words:
        sys.stdout.write(USAGE.format(**about._asdict()))
        return 0
    prefix, rest = _prefix(about, words)
    if len(rest) < 2:
        raise CommandError("deploy needs PORT and BASE", f"for example: deploy {about.port} /data", EXIT_USAGE)
    if os.geteuid() != 0:
        raise CommandError(
            "only root can put it on this host", "sudo {} deploy {}".format(sys.argv[0], " ".join(words))
        )
    _check_prefix(about, prefix)
    if gate():
        raise CommandError("this host's CPUs do not run the program (see above); nothing was changed")
    os.umask(0o022)
    try:
        if not prefix.parent.exists():
            prefix.parent.mkdir(parents=True)
        with _alone(prefix):
            _remove_leftovers(prefix)
            folder = _put(about, prefix)
            status = shell_status(subprocess.call([SHELL, str(folder / "utils" / "deploy.sh"), *rest]))
            if status:
                message = f"deploy.sh of {folder} failed; {prefix} is left as it was"
                raise CommandError(message, "", status)
            _switch(about, prefix, folder)
    except OSError as error:
        # A write has no name in its error: then it is the copy that does not fit.
        raise CommandError(
            f"{error.filename or prefix.parent}: {error.strerror}; {prefix} is left as it was"
        ) from error
    return 0


def _prefix(about: About, words: "list[str]") -> "tuple[Path, list[str]]":
    """Return where the program goes, and the words for deploy.sh."""
    prefix = f"/opt/{about.product}"
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--prefix":
            prefix = queue.pop(0) if queue else ""
        elif word.startswith("--prefix="):
            prefix = word[len("--prefix=") :]
        else:
            rest.append(word)
    path = Path(prefix)
    if not PLAIN.fullmatch(prefix) or not path.is_absolute() or path == Path("/") or ".." in path.parts:
        hint = "absolute; letters, digits, / . _ @ + -"
        raise CommandError(f"--prefix must be a plain path, not '{prefix}'", hint, EXIT_USAGE)
    # Without links in its parents: deploy.sh writes the real path into the unit.
    return path.parent.resolve() / path.name, rest


def _check_prefix(about: About, prefix: Path) -> None:
    """Refuse a prefix that is somebody else's, which a link in its place would hide."""
    unit = _unit_of_package(about, prefix)
    if unit is not None:
        # Package managers follow the link: they would remove or overwrite files of the wheel's folder.
        message = f"{prefix} belongs to a system package, which has brought {unit}"
        names = f"dnf remove {about.product}, or apt-get purge {about.product}"
        raise CommandError(message, f"remove the package first ({names}), or give another --prefix")
    if prefix.is_symlink():
        target = os.readlink(str(prefix))  # noqa: PTH115  # Python 3.9 brought Path.readlink
        if "/" in target or not target.startswith(f"{prefix.name}-"):
            message = f"{prefix} is a link to {target}, which deploy has not made"
            raise CommandError(message, "move it away, or give another --prefix")
    elif prefix.exists():
        hint = "is it of a tarball, or left of a system package? move it away, or give another --prefix"
        raise CommandError(f"{prefix} is there, and is no link that could be switched", hint)


def _unit_of_package(about: About, prefix: Path) -> "Path | None":
    """Return the unit of a system package that has its files at the prefix; None if there is none."""
    for folder in UNITS:
        unit = Path(folder) / f"{about.product}@.service"
        try:
            text = read(unit)
        except OSError:
            continue
        for found in re.finditer(r"^ExecStart=(/\S+)", text, re.MULTILINE):
            path = Path(found.group(1))
            # Without links in its parents, as the prefix is.
            if any(parent.parent.resolve() / parent.name == prefix for parent in path.parents if parent.name):
                return unit
    return None


@contextmanager
def _alone(prefix: Path) -> "Iterator[None]":
    """Wait until no other deployment writes beside the prefix, and keep others from it."""
    descriptor = os.open(str(prefix.parent), os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"deploy: waits for another deployment in {prefix.parent}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(prefix: Path) -> None:
    """Remove what killed deployments have left: copies under temporary names, and links that were not yet switched."""
    name = re.escape(prefix.name)
    for path in prefix.parent.iterdir():
        if path.is_symlink():
            if re.fullmatch(rf"\.{name}\.[0-9]+", path.name):
                path.unlink()
        elif re.fullmatch(rf"\.{name}-.+-[0-9a-f]{{12}}\.[a-z0-9_]{{8}}", path.name) and path.is_dir():
            shutil.rmtree(str(path))


def _put(about: About, prefix: Path) -> Path:
    """Copy the tree beside the prefix, unless it is there. Return its folder, which is there whole or not at all."""
    folder = prefix.parent / f"{prefix.name}-{about.version}-{about.build}"
    if not folder.exists():
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=str(prefix.parent)))
        try:
            _copy(about, beside)
            try:
                beside.rename(folder)
            except OSError:
                if not folder.exists():  # else somebody was faster
                    raise
        finally:
            if beside.exists():
                shutil.rmtree(str(beside))
    for path, (mode, digest) in sorted(about.files.items()):
        file = folder / path
        there = file.is_file() and not file.is_symlink()
        if not there or _sha256(file) != digest or file.stat().st_mode & 0o111 != int(mode, 8) & 0o111:
            hint = f"remove {folder}, unless an instance runs from it, and try again"
            raise CommandError(f"{file} was altered", hint)
    return folder


def _copy(about: About, folder: Path) -> None:
    """Copy the files with the modes that they were packed with; pip's follow the umask."""
    names = list(about.files) + list(about.links)
    for parent in sorted({parent for name in names for parent in Path(name).parents}):
        (folder / parent).mkdir(exist_ok=True)
        (folder / parent).chmod(0o755)
    for path, (mode, digest) in about.files.items():
        found = hashlib.sha256()
        with (TREE / path).open("rb") as source, (folder / path).open("wb") as copy:
            for block in _blocks(source):
                found.update(block)
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())  # a power failure must not leave a folder that looks whole
        (folder / path).chmod(int(mode, 8))
        if found.hexdigest() != digest:
            raise CommandError(f"{TREE / path} was altered", "install the wheel again")
    for path, target in about.links.items():
        (folder / path).symlink_to(target)


def _blocks(stream: "IO[bytes]") -> "Iterator[bytes]":
    return iter(lambda: stream.read(1 << 20), b"")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in _blocks(stream):
            digest.update(block)
    return digest.hexdigest()


def _switch(about: About, prefix: Path, folder: Path) -> None:
    """Make the prefix a link to the folder; at no moment is there none."""
    former = prefix.resolve() if prefix.is_symlink() else None
    if former == folder:
        return
    beside = prefix.parent / f".{prefix.name}.{os.getpid()}"
    beside.symlink_to(folder.name)
    beside.replace(prefix)
    say(f"deploy: {prefix} is {folder.name}")
    if former is not None:
        say(
            f"deploy: it was {former.name}; running instances go on with that until they are restarted",
            f"  hint: systemctl restart {about.product}@PORT; to go back: sh {former}/utils/deploy.sh PORT BASE",
        )
