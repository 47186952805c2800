"""The command of a server's wheel: run it here, or put it on this host, or ask whether this machine can run it.

`about.json` beside this file says what the server is; `tree/` is the package as the tarball has it. Nothing below the
folder into which pip put this is ever written.

This runs on the hosts, by whatever Python 3 is there: the standard library of 3.6 (EL7, EL8) is all that it may use.
That leaves out `from __future__ import annotations`, dataclasses, and more; annotations are therefore in quotes.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess  # noqa: TID251  # on a host there is nothing of ours but this file
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
TREE = HERE / "tree"
SHELL = "/bin/sh"
GATE = TREE / "utils" / "cpu-gate.sh"
SETTINGS = "utils/settings.tsv"
PLAIN = re.compile(r"[A-Za-z0-9/._@+-]+")
"""What deploy.sh takes, too: paths go into confs and units, and what any of them takes for syntax is refused."""
OPEN_FILES = 1048576
"""LimitNOFILE of the unit."""
EXIT_USAGE = 2

USAGE = """\
usage: {name} run [--port N] [--data DIR] [--conf FILE] [-- ARGUMENT...]
       {name} deploy PORT BASE [--prefix DIR] [OPTION...]
       {name} check-cpu [OPTION...]
       {name} manifest | path | --version | --help

{summary}

  run        start it in the foreground, with its configuration and data in a folder
  deploy     as root: put it on this host and set an instance up there
  check-cpu  say whether this machine's CPUs can run it; exit status 0 they can, 1 they cannot, 2 cannot be told
  manifest   print what it was built from, and how (JSON)
  path       print the folder of its files

{name} run --help and {name} deploy --help tell more.
"""
DEPLOY_USAGE = """\
usage: {name} deploy PORT BASE [--prefix DIR] [OPTION...]

Put the program on this host and set up an instance of it: conf, data and logs in BASE/{product}_PORT.

The program is copied to DIR-VERSION-BUILD, its utils/deploy.sh is run there with PORT, BASE and the options, and when
that has succeeded DIR, a symbolic link, is switched to it. Run again with the same arguments it changes nothing.
An upgrade leaves the former build where it is: running instances go on with it until they are restarted, and its own
utils/deploy.sh goes back to it.

  --prefix DIR   instead of /opt/{product}
"""


class Refusal(Exception):
    """Something cannot be done, and why; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


def main() -> int:
    """The console script."""
    # Python ignores it, and what it ignores a program that it becomes would ignore, too.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return command(sys.argv[1:])


def command(words: "list[str]") -> int:
    """Do what the words say; the exit status."""
    about = json.loads((HERE / "about.json").read_text(encoding="utf-8"))
    verb = words[0] if words else ""
    try:
        if verb == "run":
            return _run(about, words[1:])
        if verb == "deploy":
            return _deploy(about, words[1:])
        if verb == "check-cpu":
            return _become([SHELL, str(GATE), *words[1:]])
        if len(words) > 1 or verb not in ("manifest", "path", "--version", "--help", "-h"):
            what = "unknown arguments: {}".format(" ".join(words)) if words else "say what to do"
            raise Refusal(what, "{} --help".format(about["name"]), EXIT_USAGE)
    except Refusal as refusal:
        lines = ["{}: error: {}".format(about["name"], refusal.message)]
        lines += [f"  hint: {line}" for line in refusal.hint.splitlines()]
        _say(*lines)
        return refusal.status
    sys.stdout.write(_told(about, verb))
    return 0


def _told(about: "dict[str, Any]", verb: str) -> str:
    if verb == "manifest":
        return (TREE / "manifest.json").read_text(encoding="utf-8")
    if verb == "path":
        return f"{TREE}\n"
    if verb == "--version":
        return "{name} {version}: {summary}\n".format(**about)
    return USAGE.format(**about)


def _say(*lines: str) -> None:
    sys.stderr.write("".join(line + "\n" for line in lines))
    sys.stderr.flush()


def _become(argv: "list[str]") -> int:
    """Replace this process, so that signals and the exit status are the program's own."""
    sys.stdout.flush()
    try:
        os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted
    except OSError as error:
        raise Refusal(f"{argv[0]} cannot be started: {error.strerror}", "install the wheel again") from error


def _gate() -> int:
    """Ask whether this machine's CPUs run the program; what they lack is printed."""
    return _status(subprocess.call([SHELL, str(GATE), "--quiet"]))


def _status(status: int) -> int:
    """As shells tell it: 128 + N of a program that signal N ended."""
    return 128 - status if status < 0 else status


# ---- run


def _run(about: "dict[str, Any]", words: "list[str]") -> int:
    end = words.index("--") if "--" in words else len(words)
    options = _run_options(about, words[:end])
    settings = _settings()
    if options.conf:
        conf, data, port = _own_conf(about, options)
    else:
        conf, data, port = _instance(about, options, settings)
    status = _gate()
    if status:
        return status
    if not options.conf:
        _make_instance(about, conf, settings, data, port)
    values = {"{conf}": str(conf), "{data}": str(data), "{port}": str(port)}
    argv = [_filled(word, values) for word in about["command"]]
    _raise_open_files()
    _say("{}: {} with {}".format(about["name"], about["summary"], conf))
    return _become([str(TREE / argv[0]), *argv[1:], *words[end + 1 :]])


def _run_options(about: "dict[str, Any]", words: "list[str]") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="{} run".format(about["name"]),
        usage="%(prog)s [--port N] [--data DIR] [--conf FILE] [-- ARGUMENT...]",
        description="Start the server in the foreground. What follows -- is added to its command line.",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="where clients connect; {} if not given".format(about["port"])
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="its folder, {}_PORT here if not given. DIR/conf has its configuration, which is made at the first start "
        "and kept afterwards".format(about["product"]),
    )
    parser.add_argument("--conf", metavar="FILE", help="a configuration of your own, which is taken as it is")
    options = parser.parse_args(words)
    if options.port is not None and not 0 < options.port <= about["highest"]:
        raise Refusal("--port must be from 1 to {}, not {}".format(about["highest"], options.port), "", EXIT_USAGE)
    return options


def _own_conf(about: "dict[str, Any]", options: argparse.Namespace) -> "tuple[Path, Path, int]":
    """Configuration, data folder and port where the operator's own configuration is taken."""
    said = {"port": options.port, "data": options.data}
    for name, value in said.items():
        if value is not None and not any("{" + name + "}" in word for word in about["command"]):
            raise Refusal(f"--{name} has no effect with --conf", f"{options.conf} says it", EXIT_USAGE)
    conf = _absolute(options.conf)
    if not conf.is_file():
        raise Refusal(f"there is no file {conf}")
    return conf, _absolute(options.data or "."), options.port or about["port"]


def _instance(
    about: "dict[str, Any]", options: argparse.Namespace, settings: "list[tuple[str, str]]"
) -> "tuple[Path, Path, int]":
    """Configuration, data folder and port of an instance, which may be there already."""
    port = options.port or about["port"]
    data = _absolute(options.data or "{}_{}".format(about["product"], port))
    if not PLAIN.fullmatch(str(data)):
        raise Refusal(f"the data folder must be a plain path, not '{data}'", "letters, digits, / . _ @ + -")
    if HERE.parent == data or HERE.parent in data.parents:
        raise Refusal(f"the data folder must be outside of {HERE.parent}", "--data DIR")
    conf = data / "conf" / Path(about["conf"]).name
    if conf.is_file():
        text = _read(conf)
        set_there = [_value_of(text, key) for key, value in settings if value == "{port}"]
        there = next((int(value) for value in set_there if value.isdigit()), port)
        if options.port is not None and there != options.port:
            message = f"{conf} is of an instance with port {there}, not {options.port}"
            raise Refusal(message, "another --data, or change it there")
        port = there
    return conf, data, port


def _make_instance(
    about: "dict[str, Any]", conf: Path, settings: "list[tuple[str, str]]", data: Path, port: int
) -> None:
    """Make the folders and the configuration that are not there."""
    values = {"{data}": str(data), "{port}": str(port)}
    try:
        conf.parent.mkdir(parents=True, exist_ok=True)
        for _, value in settings:
            if value.startswith("{data}/"):
                path = _filled(value, values)
                Path(path if path.endswith("/") else path.rpartition("/")[0]).mkdir(parents=True, exist_ok=True)
        if conf.is_file():
            return
        filled = [(key, _filled(value, values)) for key, value in settings]
        text = _with_settings(_read(TREE / about["conf"]), filled, about["separator"])
        beside = conf.parent / f".{conf.name}.{os.getpid()}"
        try:
            with beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
                stream.write(text)
            beside.replace(conf)
        except BaseException:
            if beside.exists():
                beside.unlink()
            raise
    except OSError as error:
        raise Refusal(f"{error.filename} cannot be written: {error.strerror}", "--data DIR") from error


def _raise_open_files() -> None:
    """As many open files as the unit would grant, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# ---- configuration, as deploy.sh makes it


def _settings() -> "list[tuple[str, str]]":
    """What each instance sets: keys, and values that may hold {port} and {data}."""
    lines = (TREE / SETTINGS).read_text(encoding="utf-8").splitlines()
    return [(key, value) for key, _, value in (line.partition("\t") for line in lines)]


def _with_settings(text: str, settings: "list[tuple[str, str]]", separator: str) -> str:
    """A configuration with the settings in place of those of the same name, or at its end."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for key, value in settings:
        kept: list[str] = []
        done = False
        for line in lines:
            if _key_of(line) != key:
                kept.append(line)
            elif not done:
                kept.append(key + separator + value)
                done = True
        if not done:
            kept.append(key + separator + value)
        lines = kept
    return "".join(line + "\n" for line in lines)


def _key_of(line: str) -> str:
    """The name that a line sets; comments begin with #, which no name does."""
    return re.split(r"[ \t:=]", line.lstrip(" \t"), maxsplit=1)[0]


def _value_of(text: str, key: str) -> str:
    for line in text.split("\n"):
        if _key_of(line) == key:
            return line.lstrip(" \t")[len(key) :].strip(" \t\r:=\"'")
    return ""


def _filled(text: str, values: "dict[str, str]") -> str:
    """A text with its words replaced, at once: what is put in is not looked at."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found.group()], text)


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return stream.read()


def _absolute(path: str) -> Path:
    return (Path.cwd() / path).resolve()


# ---- deploy


def _deploy(about: "dict[str, Any]", words: "list[str]") -> int:
    if "--help" in words or "-h" in words:
        sys.stdout.write(DEPLOY_USAGE.format(**about))
        return 0
    prefix, rest = _prefix(about, words)
    if len(rest) < 2:
        raise Refusal("deploy needs PORT and BASE", "for example: deploy {} /data".format(about["port"]), EXIT_USAGE)
    if os.geteuid() != 0:
        raise Refusal("only root can put it on this host", "sudo {} deploy {}".format(sys.argv[0], " ".join(words)))
    if prefix.exists() and not prefix.is_symlink():
        hint = "is it of a tarball or of a system package? move it away, or give another --prefix"
        raise Refusal(f"{prefix} is there, and is no link that could be switched", hint)
    if _gate():
        raise Refusal("this host's CPUs do not run the program (see above); nothing was changed")
    os.umask(0o022)
    try:
        folder = _put(about, prefix)
        status = _status(subprocess.call([SHELL, str(folder / "utils" / "deploy.sh"), *rest]))
        if status:
            message = f"deploy.sh of {folder} failed; {prefix} is left as it was"
            raise Refusal(message, "", status)
        _switch(about, prefix, folder)
    except OSError as error:
        raise Refusal(f"{error.filename}: {error.strerror}") from error
    return 0


def _prefix(about: "dict[str, Any]", words: "list[str]") -> "tuple[Path, list[str]]":
    """Where the program goes, and the words for deploy.sh."""
    prefix = "/opt/{}".format(about["product"])
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
        raise Refusal(f"--prefix must be a plain path, not '{prefix}'", hint, EXIT_USAGE)
    # The folder that it is in, in truth: deploy.sh writes the true path into the unit.
    return path.parent.resolve() / path.name, rest


def _put(about: "dict[str, Any]", prefix: Path) -> Path:
    """Copy the tree beside the prefix, unless it is there; its folder, which is there whole or not at all."""
    folder = prefix.parent / "{}-{}-{}".format(prefix.name, about["version"], about["build"])
    if not folder.exists():
        if not prefix.parent.exists():
            prefix.parent.mkdir(parents=True)
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
    for path, (mode, digest) in sorted(about["files"].items()):
        file = folder / path
        there = file.is_file() and not file.is_symlink()
        if not there or _sha256(file) != digest or file.stat().st_mode & 0o111 != int(mode, 8) & 0o111:
            hint = f"remove {folder}, unless an instance runs from it, and try again"
            raise Refusal(f"{file} was altered", hint)
    return folder


def _copy(about: "dict[str, Any]", folder: Path) -> None:
    """Copy the files with the modes that they were packed with; pip's follow the umask."""
    names = list(about["files"]) + list(about["links"])
    for parent in sorted({parent for name in names for parent in Path(name).parents}):
        (folder / parent).mkdir(exist_ok=True)
        (folder / parent).chmod(0o755)
    for path, (mode, digest) in about["files"].items():
        found = hashlib.sha256()
        with (TREE / path).open("rb") as source, (folder / path).open("wb") as copy:
            for block in _blocks(source):
                found.update(block)
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())  # a power failure must not leave a folder that looks whole
        (folder / path).chmod(int(mode, 8))
        if found.hexdigest() != digest:
            raise Refusal(f"{TREE / path} was altered", "install the wheel again")
    for path, target in about["links"].items():
        (folder / path).symlink_to(target)


def _blocks(stream: "IO[bytes]") -> "Iterator[bytes]":
    return iter(lambda: stream.read(1 << 20), b"")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in _blocks(stream):
            digest.update(block)
    return digest.hexdigest()


def _switch(about: "dict[str, Any]", prefix: Path, folder: Path) -> None:
    """Make the prefix a link to the folder; at no moment is there none."""
    former = prefix.resolve() if prefix.is_symlink() else None
    if former == folder:
        return
    beside = prefix.parent / f".{prefix.name}.{os.getpid()}"
    beside.symlink_to(folder.name)
    beside.replace(prefix)
    _say(f"deploy: {prefix} is {folder.name}")
    if former is not None:
        _say(
            f"deploy: it was {former.name}; running instances go on with that until they are restarted",
            "  hint: systemctl restart {}@PORT; to go back: sh {}/utils/deploy.sh PORT BASE".format(
                about["product"], former
            ),
        )
