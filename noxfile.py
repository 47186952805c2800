"""Build packages, check and publish them. `nox -s SESSION -- --help` shows the options of a session."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nox

HERE = Path(__file__).resolve().parent
FOREIGN = ("NOXPYTHON", "NOXFORCEPYTHON", "NOXEXTRAPYTHON", "NOX_PARALLEL")
"""Settings of nox that are about sessions of other projects: NOXPYTHON selects none of these, which name no Python."""


def start_anew() -> None:
    """Start nox once more without settings for other projects: it has read them before this file."""
    here = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    if "nox" in Path(sys.argv[0]).parts[-2:] and len(here) < len(os.environ):
        os.execve(sys.executable, sys.orig_argv, here)  # noqa: S606  # the program that runs already


start_anew()
nox.options.sessions = ["plan"]
nox.needs_version = ">=2024.10"

# An option of the file would yield to NOX_DEFAULT_VENV_BACKEND, NOXFORCEPYTHON and their kin; see prepare.
nox_session = functools.partial(nox.session, python=False, venv_backend="none")
# nox looks for uv even where no session has an environment of nox's.
logging.getLogger("nox").addFilter(lambda record: record.getMessage() != "uv binary not found.")

PROJECT = HERE / "pyproject.toml"
MATRIX = HERE / "matrix.yaml"
EXIT_HOST = 3
SIGNAL_BASE = 128
"""Shells report the end by signal N as exit status 128 + N."""
PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
"""Signals that nox itself does not know."""
PATIENCE = 10.0
"""Seconds that programs have to end after a signal, before they are killed."""
QUICK_PIP = ("--retries=1", "pip>=25")
"""Takes 30 CPU seconds for the environment of the tests, where the pip of Python 3.11 takes 130."""
MANY = 4
"""So many extras are worth a newer pip; the old one will do where there is none."""


def interrupt(number: int, _frame: object) -> None:
    """Treat a signal like Ctrl-C, at which nox ends the programs that it has started."""
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb that
    raise KeyboardInterrupt


for each in PASSED_ON:
    if signal.getsignal(each) != signal.SIG_IGN:  # nohup has asked for that
        signal.signal(each, interrupt)


def ended(argv: list[str], *, env: dict[str, str] | None = None, group: bool = False) -> int:
    """Run a program to its end, and return its exit status: 128 + N if it or nox got signal N.

    Args:
        argv: program and arguments.
        env: its environment.
        group: end all that it has started, too. The tool takes care of that itself.
    """
    children: list[subprocess.Popen[bytes]] = []
    got: list[int] = []

    def send(number: int, _frame: object = None) -> None:
        got.append(number)
        for child in children:
            if not group:
                child.send_signal(number)
            elif child.poll() is None:
                os.killpg(child.pid, signal.SIGTERM)

    # Of Ctrl-C the tool gets two, from the terminal and from here; it takes one.
    numbers = (*PASSED_ON, signal.SIGINT)
    old = {number: signal.signal(number, send) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        with subprocess.Popen(argv, env=env, start_new_session=group) as child:
            children.append(child)
            if got:  # it came before there was a child to get it
                children[0].send_signal(got[0])
            status = _status(child, got, group=group)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if got:
        return SIGNAL_BASE + got[0]
    return SIGNAL_BASE - status if status < 0 else status


def _status(child: subprocess.Popen[bytes], got: list[int], *, group: bool) -> int:
    """Wait for a program; kill its group if that does not end after a signal."""
    while True:
        try:
            return child.wait(PATIENCE if group else None)
        except subprocess.TimeoutExpired:
            if got:
                os.killpg(child.pid, signal.SIGKILL)


def prepare(session: nox.Session, name: str, *extras: str) -> Path:
    """Make the environment `.nox/<name>` with this project in it, unless it is up to date; return its bin folder.

    nox's own environments cannot be shared by sessions. pip needs a second and the network even when there is nothing
    to do, so it runs only when the project's dependencies have changed. It would compile all modules, of which few are
    ever used; Python compiles these when it first imports them.
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
            newer = [python, "-m", "pip", "install", "--quiet", *QUICK_PIP]
            for argv in (
                [sys.executable, "-m", "venv", "--clear", str(environment)],
                *([newer] if len(extras) >= MANY else []),
                [python, "-m", "pip", "install", "--quiet", "--no-compile", "--editable", project],
            ):
                status = ended(argv, group=True)
                if status > SIGNAL_BASE:
                    sys.exit(status)
                if status != 0 and argv is not newer:
                    print(f"error: the Python environment .nox/{name} could not be made", file=sys.stderr)
                    hint = "is a package index reachable? pip's own settings apply (PIP_*)"
                    if os.environ.get("PIKAFORGE_OFFLINE", "0") not in ("", "0"):
                        hint = "offline: pip says above what is missing; `nox -s bundle -- --extra NAME` adds it"
                    print(f"  hint: {hint}", file=sys.stderr)
                    sys.exit(EXIT_HOST)
            stamp.write_text(wanted, encoding="ascii")
    return environment / "bin"


def uses_bucket(matrix: str, environ: Mapping[str, str]) -> bool:
    """Return whether the shared store is one that needs the extra `store`: in a bucket, or of another kind of fsspec.

    Args:
        matrix: the text of matrix.yaml, whose part `store` names it.
        environ: variables.
    """
    part = re.search(r"^store:.*\n(?:(?:[ \t].*)?\n)*", f"{matrix}\n", re.MULTILINE)
    named = environ.get("PIKAFORGE_STORE", "") or (part[0] if part else "")
    schemes = re.findall(r"([a-z][a-z0-9+.-]*)://", re.sub(r"endpoint:\s*\S+", "", named))
    return bool(schemes) and schemes[0] not in ("http", "https", "file")


def matrix_text(session: nox.Session) -> str:
    """Return the text of the matrix.yaml of a run; "" if it cannot be read, which the tool itself says."""
    named = re.search(r"(?:^|\0)--matrix[=\0]([^\0]+)", "\0".join(session.posargs))
    folder = Path(os.environ.get("PIKAFORGE_CWD", str(session.invoked_from)))
    try:
        return (folder / named[1] if named else MATRIX).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run_tool(session: nox.Session, *words: str, environment: str = "tool", extras: tuple[str, ...] = ()) -> None:
    """Run the tool, and end with its exit status; nox itself would end with 1."""
    if environment in ("tool", "bench") and uses_bucket(matrix_text(session), os.environ):
        environment, extras = f"{environment}-store", (*extras, "store")
    if any(word.partition("=")[0] == "--farm" for word in session.posargs):
        environment, extras = f"{environment}-farm", (*extras, "farm")
    programs = prepare(session, environment, *extras)
    variables = {**os.environ, "PIKAFORGE_CWD": os.environ.get("PIKAFORGE_CWD", str(session.invoked_from))}
    argv = [str(programs / "python"), "-m", "pikaforge", *words, *session.posargs]
    status = ended(argv, env=variables)
    if status:
        sys.exit(status)


@contextmanager
def beside(session: nox.Session, other: str) -> Iterator[None]:
    """Run another session while the block runs, and print its output afterwards. If it fails, this session fails.

    It uses the time in which tests wait.
    """
    argv = [sys.executable, "-m", "nox", "--noxfile", str(HERE / "noxfile.py"), "--session", other]
    with tempfile.TemporaryFile() as said, subprocess.Popen(argv, stdout=said, stderr=said) as child:
        try:
            yield
        except BaseException:
            child.terminate()
            raise
        finally:
            status = child.wait()
            said.seek(0)
            print(said.read().decode(errors="replace"), end="", flush=True)
    if status:
        session.error(f"{other} failed")


@nox_session()
def build(session: nox.Session) -> None:
    """Build, test and pack the selected cells: nox -s build -- R620."""
    run_tool(session, "build")


@nox_session()
def plan(session: nox.Session) -> None:
    """Show what a build would do, and why: nox -s plan -- R620."""
    run_tool(session, "plan")


@nox_session()
def sweep(session: nox.Session) -> None:
    """Build one cell of each compilation, and write docs/coverage.md: nox -s sweep."""
    run_tool(session, "sweep")


@nox_session()
def bundle(session: nox.Session) -> None:
    """Write one file with all that a build without network needs: nox -s bundle -- R620."""
    run_tool(session, "bundle")


@nox_session()
def matrix(session: nox.Session) -> None:
    """List the cells of matrix.yaml: nox -s matrix -- --format json."""
    run_tool(session, "matrix")


@nox_session()
def audit(session: nox.Session) -> None:
    """Check that programs and packages run on a model's CPUs: nox -s audit -- FILE --model R620."""
    run_tool(session, "audit")


@nox_session()
def check(session: nox.Session) -> None:
    """Check matrix.yaml, patch series and waivers for mistakes: nox -s check -- matrix.yaml."""
    run_tool(session, "check")


@nox_session()
def verify(session: nox.Session) -> None:
    """Check digests, signatures, provenance and contents: nox -s verify -- dist/debian12 --key FILE."""
    run_tool(session, "verify")


@nox_session()
def publish(session: nox.Session) -> None:
    """Put packages into repositories: nox -s publish -- R620 --to staging --yes."""
    run_tool(session, "publish", environment="publish", extras=("publish",))


@nox_session()
def report(session: nox.Session) -> None:
    """Put the build reports of several runs on one page: nox -s report -- DIR."""
    run_tool(session, "report")


@nox_session()
def bench(session: nox.Session) -> None:
    """Compare models or allocators under load, with a plot: nox -s bench -- R620 --allocators."""
    run_tool(session, "bench", environment="bench", extras=("bench",))


@nox_session()
def doctor(session: nox.Session) -> None:
    """Show what this machine lacks, what that stops, and what mends it: nox -s doctor."""
    run_tool(session, "doctor")


@nox_session()
def completion(session: nox.Session) -> None:
    """Print a script by which a shell completes names and options: nox -s completion -- bash > FILE."""
    run_tool(session, "completion", environment="shell", extras=("shell",))


@nox_session()
def manual(session: nox.Session) -> None:
    """Write the man page, docs/pikaforge.1: nox -s manual."""
    run_tool(session, "manual", environment="shell", extras=("shell",))


@nox_session()
def tool(session: nox.Session) -> None:
    """Run any verb of the tool: nox -s tool -- lock. `invoke --list` shows those for upkeep."""
    run_tool(session)


@nox_session()
def tests(session: nox.Session) -> None:
    """Run all tests, and lint beside them; or some: nox -s tests -- tests/unit."""
    programs = prepare(session, "check", "upkeep", "tests", "lint", "bench", "publish", "docs")
    pytest = (str(programs / "python"), "-m", "pytest")
    if session.posargs:
        session.run(*pytest, *session.posargs, external=True)
        return
    # The kernel shares the processors between the containers as one, and each process outside of them. Without this,
    # what is compiled in containers takes longer than all the rest, and one processor is idle at the end. With 10, a
    # client of the tests may have to wait ten seconds for its turn.
    os.nice(5)
    with beside(session, "lint"):
        # Each worker would rewrite all modules for itself where none has yet done it.
        session.run(*pytest, "--collect-only", "-qq", "--disable-warnings", external=True, silent=True)
        # Tests wait for containers and servers more than half of their time: so many workers keep two processors busy.
        session.run(*pytest, "-n", "6", "--dist", "loadgroup", "--costs", "40", external=True)


@nox_session()
def docs(session: nox.Session) -> None:
    """Build the site of docs/ in out/docs; a warning is an error: nox -s docs -- --help."""
    programs = prepare(session, "docs", "docs")
    session.run(str(programs / "python"), "docs/make.py", *session.posargs, external=True)


SCRIPTS = (
    "docker/guest/**/*.sh", "docker/guest/cc", "docker/*.sh", "build/recipes/*.sh", "build/pikaforge/**/*.sh",
    "build/pikaforge/cli/assets/completion.bash",
    "tests/**/*.sh", "setup.sh", ".ci/run", ".ci/*.sh",
)  # fmt: skip
"""The shell scripts that shellcheck reads."""


SCHEMAS = (
    ("github-workflows", ".github/workflows/*.yml", "examples/github/*.yml"),
    ("github-actions", "action.yml"),
    ("dependabot", ".github/dependabot.yml"),
    ("github-issue-forms", ".github/ISSUE_TEMPLATE/*.yml"),
    ("gitlab-ci", "examples/gitlab/*.yml"),
    ("renovate", "examples/renovate/renovate.json"),
)
"""Schemas of files for services; check-jsonschema carries them."""
ACTIONS = (".github", "action.yml", "examples/github")
"""What zizmor reads."""


@nox_session()
def lint(session: nox.Session) -> None:
    """Check style, types, imports, shell scripts, and the files for GitHub, GitLab and Renovate."""
    programs = prepare(session, "check", "upkeep", "tests", "lint", "bench", "publish", "docs")
    python = ["build/pikaforge", "tests", "benchmarks", "docs", "noxfile.py", "tasks.py"]
    session.run(str(programs / "ruff"), "check", *python, external=True)
    session.run(str(programs / "ruff"), "format", "--check", *python, external=True)
    session.run(str(programs / "mypy"), *python, external=True)
    session.run(str(programs / "lint-imports"), "--no-cache", external=True)
    scripts = sorted(
        str(path.relative_to(HERE)) for pattern in SCRIPTS for path in HERE.glob(pattern) if path.is_file()
    )
    session.run("shellcheck", *scripts, external=True)
    for schema, *patterns in SCHEMAS:
        files = sorted(str(path.relative_to(HERE)) for pattern in patterns for path in HERE.glob(pattern))
        builtin = ("--builtin-schema", f"vendor.{schema}")  # no network is needed
        session.run(str(programs / "check-jsonschema"), *builtin, *files, external=True)
    zizmor = ("--offline", "--quiet", "--no-progress", "--strict-collection", "--persona", "pedantic")
    session.run(str(programs / "zizmor"), *zizmor, *ACTIONS, external=True)
