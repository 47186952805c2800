"""One session per thing a user does; what it does is in build/pikaforge."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox

HERE = Path(__file__).resolve().parent
nox.options.default_venv_backend = "none"  # see prepare
nox.options.sessions = ["plan"]
nox.needs_version = ">=2024.10"

PROJECT = HERE / "pyproject.toml"
EXIT_HOST = 3


def prepare(session: nox.Session, name: str, *extras: str) -> Path:
    """Make the environment `.nox/<name>` with this project in it, unless it is there as it should be; its bin folder.

    Sessions share environments, which nox's own cannot; and pip, which needs a second and the network even when there
    is nothing to do, runs only when what the project needs has changed.
    """
    environment = HERE / ".nox" / name
    stamp = environment / "complete"
    text = PROJECT.read_bytes() + repr((str(HERE), sys.version, extras)).encode()
    wanted = hashlib.sha256(text).hexdigest()
    environment.parent.mkdir(exist_ok=True)
    with (environment.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # parallel tests start sessions at the same time
        if not stamp.is_file() or stamp.read_text(encoding="ascii") != wanted:
            project = f"{HERE}[{','.join(extras)}]" if extras else str(HERE)
            session.log(f"making the environment .nox/{name}")
            python = str(environment / "bin" / "python")
            for argv in (
                [sys.executable, "-m", "venv", "--clear", str(environment)],
                [python, "-m", "pip", "install", "--quiet", "--editable", project],
            ):
                if subprocess.run(argv, check=False).returncode != 0:
                    print(f"error: the Python environment .nox/{name} could not be made", file=sys.stderr)
                    print("  hint: is a package index reachable? pip's own settings apply (PIP_*)", file=sys.stderr)
                    sys.exit(EXIT_HOST)
            stamp.write_text(wanted, encoding="ascii")
    return environment / "bin"


def run_tool(session: nox.Session, *words: str, environment: str = "tool", extras: tuple[str, ...] = ()) -> None:
    """Run the tool and end with its exit status, which nox would turn into 1."""
    programs = prepare(session, environment, *extras)
    variables = {**os.environ, "PIKAFORGE_CWD": os.environ.get("PIKAFORGE_CWD", str(session.invoked_from))}
    argv = [str(programs / "python"), "-m", "pikaforge", *words, *session.posargs]
    with subprocess.Popen(argv, env=variables) as child:
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # it cleans up, and its status is passed on
        while True:
            try:
                status = child.wait()
                break
            except KeyboardInterrupt:
                continue  # the tool got the signal, too, and is cleaning up
    if status:
        sys.exit(status)


@contextmanager
def beside(session: nox.Session, other: str) -> Iterator[None]:
    """Run another session while the block runs; what it says comes afterwards, and its failure is this one's.

    Where tests wait for something, there is time for it.
    """
    argv = [sys.executable, "-m", "nox", "--noxfile", str(HERE / "noxfile.py"), "--session", other]
    with tempfile.TemporaryFile() as said, subprocess.Popen(argv, stdout=said, stderr=said) as child:
        try:
            yield
        finally:
            status = child.wait()
            said.seek(0)
            print(said.read().decode(errors="replace"), end="", flush=True)
    if status:
        session.error(f"{other} failed")


@nox.session
def build(session: nox.Session) -> None:
    """Build and test packages: nox -s build -- R620 [--source sample]."""
    run_tool(session, "build")


@nox.session
def plan(session: nox.Session) -> None:
    """Show what a build would do, what is cached, and why."""
    run_tool(session, "plan")


@nox.session
def sweep(session: nox.Session) -> None:
    """Build one cell of every compilation there is, and write docs/coverage.md."""
    run_tool(session, "sweep")


@nox.session
def matrix(session: nox.Session) -> None:
    """Show the cells of the matrix: --format table|json|github."""
    run_tool(session, "matrix")


@nox.session
def audit(session: nox.Session) -> None:
    """Judge any program, library, folder or package: nox -s audit -- FILE --model R620."""
    run_tool(session, "audit")


@nox.session
def verify(session: nox.Session) -> None:
    """Check packages, also of a URL: nox -s verify -- dist/debian12 --key FILE."""
    run_tool(session, "verify")


@nox.session
def publish(session: nox.Session) -> None:
    """Put packages into repositories: nox -s publish -- R620 --to staging; --yes does it."""
    run_tool(session, "publish", environment="publish", extras=("publish",))


@nox.session
def bench(session: nox.Session) -> None:
    """Load test, with plots: nox -s bench -- R620 --allocators."""
    run_tool(session, "bench", environment="bench", extras=("bench",))


@nox.session
def tool(session: nox.Session) -> None:
    """Run any verb of the tool: nox -s tool -- lock; `invoke --list` shows those for upkeep."""
    run_tool(session)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests: unit, guest scripts, and those with a real engine; without arguments, lint beside them."""
    programs = prepare(session, "check", "upkeep", "tests", "lint", "bench", "publish")
    pytest = (str(programs / "python"), "-m", "pytest")
    if session.posargs:
        session.run(*pytest, *session.posargs, external=True)
        return
    with beside(session, "lint"):
        session.run(*pytest, "-n", "6", "--dist", "loadgroup", "--costs", "70", external=True)


SCRIPTS = (
    "docker/guest/**/*", "build/recipes/*.sh", "build/pikaforge/**/*.sh", "tests/**/*.sh", "docker/*.sh", "setup.sh",
    ".ci/run",
)  # fmt: skip
"""Shell scripts, which shellcheck reads."""


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, shell scripts, banned imports and GitHub's workflows."""
    programs = prepare(session, "check", "upkeep", "tests", "lint", "bench", "publish")
    python = ["build/pikaforge", "tests", "benchmarks", "noxfile.py", "tasks.py"]
    session.run(str(programs / "ruff"), "check", *python, external=True)
    session.run(str(programs / "ruff"), "format", "--check", *python, external=True)
    session.run(str(programs / "mypy"), *python, external=True)
    session.run(str(programs / "lint-imports"), "--no-cache", external=True)
    scripts = sorted(
        str(path.relative_to(HERE)) for pattern in SCRIPTS for path in HERE.glob(pattern) if path.is_file()
    )
    session.run("shellcheck", *scripts, external=True)
    for schema, pattern in (("github-workflows", "workflows/*.yml"), ("dependabot", "dependabot.yml")):
        files = sorted(str(path.relative_to(HERE)) for path in HERE.glob(f".github/{pattern}"))
        builtin = ("--builtin-schema", f"vendor.{schema}")  # those that it carries need no network
        session.run(str(programs / "check-jsonschema"), *builtin, *files, external=True)
    zizmor = ("--offline", "--quiet", "--no-progress", "--strict-collection", "--persona", "pedantic")
    session.run(str(programs / "zizmor"), *zizmor, ".github", external=True)
