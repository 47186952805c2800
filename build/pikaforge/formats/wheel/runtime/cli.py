"""The command of a server's wheel: run it here, or put it on this host, or ask whether this machine can run it.

`about.json` beside this file says what the server is; `tree/` is the package as the tarball has it. Nothing below the
folder into which pip put this is ever written.

This runs on the hosts, by whatever Python 3 is there: the standard library of 3.6 (EL7, EL8) is all that it may use.
That leaves out `from __future__ import annotations`, dataclasses, and more; annotations are therefore in quotes.
"""

import argparse
import json
import os
import resource
import signal
import sys
from pathlib import Path

from .base import EXIT_USAGE, GATE, HERE, PLAIN, SHELL, TREE, About, CommandError, become, gate, say
from .configuration import filled, read, settings, value_of, with_settings
from .deploy import deploy

OPEN_FILES = 1048576
"""LimitNOFILE of the unit."""

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

USAGE_WITHOUT_SERVER = """\
usage: {name} check-cpu [OPTION...]
       {name} manifest | path | --version | --help

{summary}

  check-cpu  say whether this machine's CPUs can run it; exit status 0 they can, 1 they cannot, 2 cannot be told
  manifest   print what it was built from, and how (JSON)
  path       print the folder of its files
"""


def main() -> int:
    """Run the command: the entry point of the console script."""
    # Python ignores it, and what it ignores a program that it becomes would ignore, too.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return command(sys.argv[1:])


def command(words: "list[str]") -> int:
    """Do what the words say. Return the exit status."""
    about = About(**json.loads((HERE / "about.json").read_text(encoding="utf-8")))
    verb = words[0] if words else ""
    try:
        if verb in ("run", "deploy") and not about.command:
            raise CommandError(f"{about.product} has no server", f"its files: {about.name} path", EXIT_USAGE)
        if verb == "run":
            return _run(about, words[1:])
        if verb == "deploy":
            return deploy(about, words[1:])
        if verb == "check-cpu":
            return become([SHELL, str(GATE), *words[1:]])
        if len(words) > 1 or verb not in ("manifest", "path", "--version", "--help", "-h"):
            what = "unknown arguments: {}".format(" ".join(words)) if words else "say what to do"
            raise CommandError(what, f"{about.name} --help", EXIT_USAGE)
    except CommandError as refusal:
        lines = [f"{about.name}: error: {refusal.message}"]
        lines += [f"  hint: {line}" for line in refusal.hint.splitlines()]
        say(*lines)
        return refusal.status
    sys.stdout.write(_shown(about, verb))
    return 0


def _shown(about: About, verb: str) -> str:
    """Return what a verb prints that only prints."""
    if verb == "manifest":
        return (TREE / "manifest.json").read_text(encoding="utf-8")
    if verb == "path":
        return f"{TREE}\n"
    if verb == "--version":
        return "{name} {version}: {summary}\n".format(**about._asdict())
    return (USAGE if about.command else USAGE_WITHOUT_SERVER).format(**about._asdict())


def _run(about: About, words: "list[str]") -> int:
    """Start the server in the place of this process."""
    end = words.index("--") if "--" in words else len(words)
    options = _run_options(about, words[:end])
    if options.conf:
        conf, data, port = _own_conf(about, options)
    else:
        conf, data, port = _instance(about, options)
    status = gate()
    if status:
        return status
    if not options.conf:
        _make_instance(about, conf, data, port)
    values = {"{conf}": str(conf), "{data}": str(data), "{port}": str(port)}
    argv = [filled(word, values) for word in about.command]
    _raise_open_files()
    say(f"{about.name}: {about.summary} with {conf}" if about.conf else f"{about.name}: {about.summary} in {data}")
    return become([str(TREE / argv[0]), *argv[1:], *words[end + 1 :]])


def _run_options(about: About, words: "list[str]") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{about.name} run",
        usage="%(prog)s [--port N] [--data DIR] [--conf FILE] [-- ARGUMENT...]",
        description="Start the server in the foreground. What follows -- is added to its command line.",
    )
    parser.add_argument("--port", type=int, metavar="N", help=f"where clients connect; {about.port} if not given")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help=f"its folder, {about.product}_PORT here if not given. DIR/conf has its configuration, which is made at "
        "the first start and kept afterwards",
    )
    parser.add_argument("--conf", metavar="FILE", help="a configuration of your own, which is taken as it is")
    options = parser.parse_args(words)
    if options.port is not None and not 0 < options.port <= about.highest:
        raise CommandError(f"--port must be from 1 to {about.highest}, not {options.port}", "", EXIT_USAGE)
    return options


def _own_conf(about: About, options: argparse.Namespace) -> "tuple[Path, Path, int]":
    """Return configuration, data folder and port where the operator's own configuration is taken."""
    if not about.conf:
        raise CommandError("--conf has no effect: the server has no configuration file", "", EXIT_USAGE)
    said = {"port": options.port, "data": options.data}
    for name, value in said.items():
        if value is not None and not any("{" + name + "}" in word for word in about.command):
            raise CommandError(f"--{name} has no effect with --conf", f"{options.conf} says it", EXIT_USAGE)
    conf = _absolute(options.conf)
    if not conf.is_file():
        raise CommandError(f"there is no file {conf}")
    return conf, _absolute(options.data or "."), options.port or about.port


def _instance(about: About, options: argparse.Namespace) -> "tuple[Path, Path, int]":
    """Return configuration, data folder and port of an instance, which may be there already."""
    port = options.port or about.port
    data = _absolute(options.data or f"{about.product}_{port}")
    if not PLAIN.fullmatch(str(data)):
        raise CommandError(f"the data folder must be a plain path, not '{data}'", "letters, digits, / . _ @ + -")
    if HERE.parent == data or HERE.parent in data.parents:
        raise CommandError(f"the data folder must be outside of {HERE.parent}", "--data DIR")
    conf = data / "conf" / Path(about.conf or "none").name
    if about.conf and conf.is_file():
        text = read(conf)
        set_there = [value_of(text, key) for key, value in settings() if value == "{port}"]
        there = next((int(value) for value in set_there if value.isdigit()), port)
        if options.port is not None and there != options.port:
            message = f"{conf} is of an instance with port {there}, not {options.port}"
            raise CommandError(message, "another --data, or change it there")
        port = there
    return conf, data, port


def _make_instance(about: About, conf: Path, data: Path, port: int) -> None:
    """Make the folders and the configuration that are not there."""
    values = {"{data}": str(data), "{port}": str(port)}
    try:
        conf.parent.mkdir(parents=True, exist_ok=True)
        if not about.conf:
            return
        for _, value in settings():
            if value.startswith("{data}/"):
                path = filled(value, values)
                Path(path if path.endswith("/") else path.rpartition("/")[0]).mkdir(parents=True, exist_ok=True)
        if conf.is_file():
            return
        wanted = [(key, filled(value, values)) for key, value in settings()]
        text = with_settings(read(TREE / about.conf), wanted, about.separator)
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
        raise CommandError(f"{error.filename or data} cannot be written: {error.strerror}", "--data DIR") from error


def _raise_open_files() -> None:
    """Allow as many open files as the unit would grant, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _absolute(path: str) -> Path:
    return (Path.cwd() / path).resolve()
