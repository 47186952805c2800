"""Builds and servers that fail: what went wrong is told in the first lines, and other cells go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Done, Engine, Project

pytestmark = pytest.mark.engine

GROUP = "debian12-sandybridge-none"
ONLY_CONF = 'mkdir -p "$OUT/conf"; echo x >"$OUT/conf/pika.conf"'
PING = 'r->reply.Status("PONG");'


def fail(project: Project, *args: str) -> Done:
    """A build that ends with status 4 and leaves nothing but what went well."""
    done = project.build("R620", *args)
    assert done.returncode == 4, done.text
    assert done.stderr == "", "an error of a stage is told once, where it happened"
    assert project.half_done() == []
    assert not list(project.dist.rglob("*R620.tar.gz"))
    return done


def compile_fails(project: Project, *args: str) -> Done:
    """As `fail`, in the compile stage."""
    done = fail(project, *args)
    assert f"  where: stage compile, {GROUP}" in done.stdout
    assert f"  log: {project.out / 'logs' / GROUP / 'compile.log'}" in done.stdout
    assert f"smoke    {GROUP} not run: it needs compile:{GROUP}" in done.stdout
    assert project.stored("compile") == {}
    return done


def add_to_source(project: Project, name: str, old: str, new: str) -> None:
    """Give the sample's server another line."""
    path = project.folder / "tests/sample/server" / name
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_syntax_error(ready: Project, engine: Engine) -> None:
    add_to_source(ready, "src/pika_cmd_admin.cc", PING, f"{PING} forgotten(")
    done = compile_fails(ready)
    assert "error: the build failed" in done.stdout
    assert "  command: sh guest/run.sh compile tree debug facts (exit status 64)" in done.stdout
    reasons = done.lines(r"^  reason: ")
    assert re.match(r"  reason: src/pika_cmd_admin\.cc:\d+:\d+: error: ", reasons[0]), reasons
    tail = done.lines(r"^    \| ")
    assert 1 < len(tail) <= 15
    log = (ready.out / "logs" / GROUP / "compile.log").read_text(encoding="utf-8")
    assert "make: *** " in log  # what else was being compiled may say more after that
    assert [line.removeprefix("    | ") for line in tail] == [line[:300] for line in log.splitlines()[-len(tail) :]]
    assert "hint: see the recipe build/recipes/pika.sh and the log" in done.stdout
    assert engine.containers(done.pid) == []


@pytest.mark.parametrize(
    ("prologue", "reason"),
    [
        (f"{ONLY_CONF}; exit 0", "the recipe made no bin/pika"),
        (
            f'{ONLY_CONF}; mkdir "$OUT/bin"; printf "#!/bin/sh\\n" >"$OUT/bin/pika"; chmod 755 "$OUT/bin/pika"; exit 0',
            "bin/pika is not an ELF file (is it a script?)",
        ),
        ("make no-such-target || true; exit 0", "the recipe made no bin/pika"),
        ('mkdir -p "$OUT/bin"; cp /bin/true "$OUT/bin/pika"; exit 0', "the recipe made no conf/pika.conf"),
    ],
    ids=["no-binary", "script", "failed-make-ignored", "no-conf"],
)
def test_recipe_that_leaves_no_usable_result(prologue: str, reason: str, tiny: Callable[..., Project]) -> None:
    done = compile_fails(tiny(prologue=prologue))
    assert "error: the build left no usable result" in done.stdout
    assert "(exit status 65)" in done.stdout
    assert reason in done.stdout
    assert "hint: product.binaries and product.files name what it must leave" in done.stdout


def test_recipe_that_is_wrong_shell(tiny: Callable[..., Project]) -> None:
    done = compile_fails(tiny(prologue="if then"))
    assert "error: the build failed" in done.stdout
    assert any("recipe.sh" in line and "yntax error" in line for line in done.lines(r"^    \| ")), done.stdout


def test_library_that_is_missing(tiny: Callable[..., Project]) -> None:
    """A linker's error is a reason, too."""
    project = tiny()
    text = project.recipe.read_text(encoding="utf-8").replace("tiny.c\n", "tiny.c -lno-such-library\n")
    project.recipe.write_text(text, encoding="utf-8")
    done = compile_fails(project)
    assert any("no-such-library" in line for line in done.lines(r"^    \| ")), done.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('fprintf(stderr, "tiny: giving up\\n"); abort();', "killed by SIGABRT"),
        (
            'fprintf(stderr, "tiny: giving up\\n"); __builtin_trap();',
            "killed by SIGILL (illegal instruction: built for a CPU that this one is not)",
        ),
        ('fprintf(stderr, "tiny: giving up\\n"); _exit(3);', "exit status 3"),
    ],
    ids=["abort", "illegal-instruction", "exit"],
)
def test_server_that_dies_at_the_first_request(answer: str, said: str, tiny: Callable[..., Project]) -> None:
    project = tiny(answer=answer)
    done = fail(project)
    assert f"error: the server ended before it answered: {said}" in done.stdout
    assert f"  where: stage smoke, {GROUP}" in done.stdout
    log = project.out / "logs" / GROUP / "smoke.log"
    assert f"  log: {log}" in done.stdout
    assert "tiny: giving up" in log.read_text(encoding="utf-8")
    assert "    | tiny: giving up" in done.stdout
    assert project.stored("smoke") == {}


def test_server_that_dies_during_the_checks(tiny: Callable[..., Project]) -> None:
    """It lives until a request that is not the first; the checks after that one are not held against it alone."""
    bang = 'if (strstr(request, "BANG")) { fprintf(stderr, "tiny: bang\\n"); abort(); }'
    project = tiny(answer=f'{bang} if (write(client, "+PONG\\r\\n", 7) != 7) break;')

    def more_checks(matrix: dict[str, Any]) -> None:
        ask = [{"check": name, "steps": [{"send": [name], "expect": "PONG"}]} for name in ("ONE", "BANG", "TWO")]
        matrix["product"]["smoke"] = ask

    project.change(more_checks)
    done = fail(project)
    assert "killed by SIGABRT" in done.stdout
    assert any(line.startswith("  reason: check BANG: step 1: sent BANG; ") for line in done.lines("reason")), (
        done.stdout
    )
    assert not done.lines("reason: check ONE")
    assert "    | tiny: bang" in done.stdout


def test_server_that_never_answers(tiny: Callable[..., Project], engine: Engine) -> None:
    project = tiny(answer=";")
    project.change(lambda matrix: matrix["product"]["server"].update(within=3))
    done = fail(project)
    assert "error: the server did not answer within 3 s: " in done.stdout
    assert f"  where: stage smoke, {GROUP}" in done.stdout
    assert "    | tiny serves port " in done.stdout
    assert engine.containers(done.pid) == []


def test_server_that_does_not_stop(tiny: Callable[..., Project]) -> None:
    project = tiny()
    text = project.recipe.read_text(encoding="utf-8").replace("signal(SIGTERM, stop)", "signal(SIGTERM, SIG_IGN)")
    project.recipe.write_text(text, encoding="utf-8")
    project.change(lambda matrix: matrix["product"]["server"]["stop"].update(within=1))
    done = fail(project)
    assert "smoke checks failed: stop" in done.stdout
    assert "  reason: check stop: sent SIGTERM; it still runs after 1 s" in done.stdout


def test_another_version_than_was_asked_for(tiny: Callable[..., Project]) -> None:
    project = tiny()
    text = project.recipe.read_text(encoding="utf-8").replace("pika_version: 3.4.0", "pika_version: 3.3.6")
    project.recipe.write_text(text, encoding="utf-8")
    done = fail(project)
    assert "smoke checks failed: version" in done.stdout
    assert r"wanted a match of 'pika_version: 3\\.4\\.0'; it printed 'pika_version: 3.3.6\n'" in done.stdout


def test_other_cells_go_on(tiny: Callable[..., Project]) -> None:
    """One of two allocators fails to build: the other's package is made, and the status is that of a failed stage."""
    project = tiny(
        prologue='[ "$PIKAFORGE_ALLOCATOR" != system ] || { echo "tiny.c:1: error: not with system"; exit 1; }'
    )
    cells = ("R620-debian12-none", "R620-debian12-system")
    done = project.build(*cells)
    assert done.returncode == 4, done.text
    assert "compile  debian12-sandybridge-system FAILED after " in done.stdout
    assert "  reason: tiny.c:1: error: not with system" in done.stdout
    assert "package  R620-debian12-system not run: it needs " in done.stdout
    assert done.lines(r"^package  R620-debian12-none done in ")
    packages = ["pika-v3.4.0-R620-debuginfo.tar.gz", "pika-v3.4.0-R620.tar.gz"]
    assert sorted(path.name for path in project.dist.rglob("*.tar.gz")) == packages
    again = project.build(*cells)
    assert again.returncode == 4, "a failure is not forgotten"
    assert f"package  {'R620-debian12-none'} is up to date" in again.stdout
