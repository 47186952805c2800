"""The command line: grammar, exit statuses, and what goes to which stream."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import requests
import yaml
from unit.helpers import BASE

from pikaforge.cli import call, main, signals
from pikaforge.cli.context import Context
from pikaforge.cpu import microarch
from pikaforge.errors import ConfigError, HostError, LoadError, PublishError, StageError, StageFailure
from pikaforge.host import machine
from pikaforge.host.docker import DockerEngine

ASKED = "error: the engine was asked\n  see: docs/troubleshooting.md#e-host\n"
ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine runs none of the images; its CPU is one of Ice Lake's time."""
    monkeypatch.setattr(machine, "cpu_flags", lambda: microarch.kernel_flags("icelake"))
    monkeypatch.setattr(machine, "OS_RELEASE", Path("/nonexistent"))
    monkeypatch.setattr(machine, "os_release", lambda: ("", ""))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a matrix.yaml and what it names."""
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False), encoding="utf-8")
    (tmp_path / "recipe.sh").write_text("make\n")
    return tmp_path


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the tool in the project: exit status, standard output, standard error."""

    def run(*argv: str) -> tuple[int, str, str]:
        places = ("--matrix", str(project / "matrix.yaml"), "--out", str(project / "out"), "--dist", str(project / "d"))
        try:
            status = main.main([*argv, *places])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


# ---- matrix


def test_matrix_as_a_table(run: Run) -> None:
    status, out, err = run("matrix", "--all")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["CELL", "MODEL", "IMAGE", "ALLOCATOR", "TARGET", "POSSIBLE"]
    assert len(lines) == 1 + 12


@pytest.mark.parametrize(
    ("argv", "count"),
    [
        ([], 12),
        (["R620"], 1),
        (["R620-*"], 4),
        (["--os", "el7"], 3),
        (["--os", "el7", "--allocator", "all"], 6),
        (["all"], 3),
        (["R640", "--os", "all", "--allocator", "system"], 2),
    ],
)
def test_matrix_as_json(run: Run, argv: list[str], count: int) -> None:
    status, out, err = run("matrix", *argv, "--format", "json")
    assert (status, err) == (0, "")
    cells = json.loads(out)["cells"]
    assert len(cells) == count
    assert set(cells[0]) == {
        "id", "model", "image", "allocator", "target", "wanted", "flags", "problem", "remark",
    }  # fmt: skip


def test_matrix_for_github_tells_what_it_leaves_out(run: Run) -> None:
    status, out, err = run("matrix", "--format", "github")
    assert status == 0
    assert [entry["name"] for entry in json.loads(out)["include"]] == [
        "el7-sandybridge-none",
        "el7-sandybridge-system",
        "debian12-sandybridge-none",
        "debian12-sandybridge-system",
        "debian12-skylake_avx512-none",
        "debian12-skylake_avx512-system",
    ]
    assert out.count("\n") == 1, "a step's output is one line"
    assert err.splitlines() == [
        f"left out: R640-el7-{allocator}: gcc 4.8.5 cannot produce code for skylake_avx512; "
        "the nearest it can produce is haswell (`fallback: nearest` at images.el7 accepts it)"
        for allocator in ("none", "system")
    ]


def test_matrix_for_github_is_an_output_of_the_step(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = project / "outputs"
    outputs.write_text("earlier=step\n")
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))
    status, out, _ = run("matrix", "R620", "R640-el7-none", "--format", "github")
    assert status == 0
    assert outputs.read_text() == f"earlier=step\nmatrix={out}jobs=1\n"
    run("matrix", "R640-el7-none", "--format", "github")
    assert outputs.read_text().endswith('matrix={"include": []}\njobs=0\n')
    before = outputs.read_text()
    for form in ("table", "json"):
        assert run("matrix", "--format", form)[0] == 0
    assert outputs.read_text() == before


def test_outputs_that_cannot_be_written(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(project))
    status, _, err = run("matrix", "R620", "--format", "github")
    assert status == 3
    assert err == (
        f"error: {project} cannot be written: Is a directory\n"
        "  where: GITHUB_OUTPUT\n"
        "  hint: GitHub's runner sets GITHUB_OUTPUT to a file of its own; anywhere else, unset it\n"
        "  see: docs/troubleshooting.md#e-host\n"
    )


# ---- selections and files that are wrong


@pytest.mark.parametrize("verb", ["matrix", "plan", "build"])
def test_an_unknown_selector(run: Run, verb: str) -> None:
    assert run(verb, "R62O") == (
        2,
        "",
        (
            "error: no model, cell id or glob matches 'R62O'\n"
            "  where: SELECTOR\n"
            "  hint: did you mean R620 or R720 or R640?\n"
            "  see: docs/troubleshooting.md#e-selection\n"
        ),
    )


@pytest.mark.parametrize("verb", ["plan", "build"])
def test_no_selector(run: Run, verb: str) -> None:
    assert run(verb) == (
        2,
        "",
        (
            "error: nothing is selected\n"
            "  hint: name a model, a cell id, a glob over ids or `all`: `nox -s build -- R620`\n"
            "  see: docs/troubleshooting.md#e-selection\n"
        ),
    )


def test_a_build_of_what_is_impossible_starts_nothing(run: Run, project: Path) -> None:
    status, out, err = run("build", "R640-el7-none", "R620-el7-none")
    assert (status, out) == (2, "")
    assert err.splitlines()[:2] == [
        "error: 1 of 2 cells cannot be built; nothing was started",
        "  where: images",
    ]
    assert err.splitlines()[2].startswith("  hint: R640-el7-none: gcc 4.8.5 cannot produce code for skylake_avx512; ")
    assert not (project / "out").exists()


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "no YAML": b"product: [",
    "tabs": b"product:\n\tname: x\n",
    "a list": b"- 1\n- 2\n",
    "a scalar": b"42",
    "binary": bytes(range(256)),
    "UTF-16": "product: {}".encode("utf-16"),
    "two documents": b"a: 1\n---\nb: 2\n",
    "an alias": b"a: &x [1]\nb: *x\n",
    "a bomb": b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n",
    "a tag": b"a: !!python/object/apply:os.system ['true']\n",
    "nested": b"[" * 5000,
    "unknown keys": b"product: {nmae: x}\n",
    "duplicate keys": b"product: {}\nproduct: {}\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_matrix_yaml_is_told_without_a_traceback(run: Run, project: Path, name: str) -> None:
    (project / "matrix.yaml").write_bytes(BROKEN[name])
    status, out, err = run("matrix")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert f"  where: {project / 'matrix.yaml'}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", ["absent", "folder"])
def test_a_matrix_yaml_that_cannot_be_read(run: Run, project: Path, kind: str) -> None:
    (project / "matrix.yaml").unlink()
    if kind == "folder":
        (project / "matrix.yaml").mkdir()
    status, out, err = run("matrix")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert str(project / "matrix.yaml") in err


def test_a_lock_that_cannot_be_read(run: Run, project: Path) -> None:
    (project / "sources.lock").write_text("<<<<<<< HEAD\n")
    status, out, err = run("plan", "R620")
    assert (status, out) == (2, "")
    assert err.startswith("error: sources.lock cannot be read: ")


# ---- plan


def test_a_plan_needs_neither_engine_nor_network(run: Run, project: Path) -> None:
    """The fixtures of unit tests make both raise."""
    before = sorted(project.rglob("*"))
    status, out, err = run("plan", "R620", "R720", "--json")
    assert (status, err) == (0, "")
    plan = json.loads(out)
    assert [cell["id"] for cell in plan["cells"]] == ["R620-debian12-none", "R720-debian12-none"]
    assert {node["cached"] for node in plan["nodes"]} == {False}
    whys = {f"{node['stage']}:{node['label']}": node["why"] for node in plan["nodes"]}
    assert whys["source:v1.0"] == "not pinned yet; the first build looks it up"
    assert whys["image:debian12"] == "not pinned yet; the first build looks it up"
    assert all(len(node["key"]) == 32 for node in plan["nodes"])
    assert sorted(project.rglob("*")) == before, "a plan writes nothing"


def test_a_plan_is_the_same_each_time(run: Run) -> None:
    assert run("plan", "all", "--json", "--os", "debian12") == run("plan", "all", "--json", "--os", "debian12")


def test_a_plan_as_text(run: Run) -> None:
    status, out, err = run("plan", "R620", "--os", "el7")
    assert (status, err) == (0, "")
    assert "R620-el7-none  sandybridge  sandybridge  -march=corei7-avx -mtune=corei7-avx" in out


def test_a_recipe_that_reads_old_names_is_reported_once(run: Run, project: Path) -> None:
    text = "#!/bin/sh\nmake -j$FORGE_JOBS\necho $FORGE_JOBS\n"
    (project / "recipe.sh").write_text(text)
    notice = "recipe.sh:2: FORGE_JOBS is now PIKAFORGE_JOBS; for now, jobs set the old names as well"
    status, out, err = run("plan", "R620", "R720")
    assert (status, err, out.count(f"warning: {notice}\n")) == (0, "", 1)
    assert json.loads(run("plan", "R620", "--json")[1])["warnings"] == [notice]
    (project / "recipe.sh").write_text(text.replace("FORGE_", "PIKAFORGE_"))
    assert json.loads(run("plan", "R620", "--json")[1])["warnings"] == []


def test_a_plan_that_a_build_would_refuse_ends_with_2_and_is_shown(run: Run) -> None:
    status, out, err = run("plan", "R640", "R620", "--os", "el7", "--json")
    assert (status, err) == (2, "")
    plan = json.loads(out)
    assert list(plan["problems"]) == ["R640-el7-none"]
    assert {cell for node in plan["nodes"] for cell in node["cells"]} == {"R620-el7-none"}


def _fallback(project: Path) -> None:
    path = project / "matrix.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data["images"]["el7"]["fallback"] = "nearest"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


@pytest.mark.parametrize("verb", [("plan",), ("matrix", "--all")])
def test_the_nearest_target_is_taken_and_told_or_refused(run: Run, project: Path, verb: tuple[str, ...]) -> None:
    _fallback(project)
    status, out, _ = run(*verb, "R640", "--os", "el7")
    assert status == 0
    assert "haswell (wanted skylake_avx512)" in out
    status, out, _ = run(*verb, "R640", "--os", "el7", "--strict-targets")
    assert status == (2 if verb == ("plan",) else 0)
    assert "gcc 4.8.5 cannot produce code for skylake_avx512; the nearest it can produce is haswell" in out


def test_the_plan_of_what_this_machine_cannot_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: microarch.kernel_flags("sandybridge"))
    status, out, err = run("plan", "R640", "R620")
    assert (status, err) == (0, "")
    assert "R640-debian12-none  skylake_avx512  sandybridge  -march=skylake-avx512" in out
    assert "R640-debian12-none: function tried as sandybridge; AVX-512 code audited, not run" in out
    status, out, _ = run("plan", "R640", "R620", "--require-run", "--json")
    assert status == 2
    data = json.loads(out)
    assert list(data["problems"]) == ["R640-debian12-none"]
    assert {cell["id"]: cell["tried"] for cell in data["cells"]}["R620-debian12-none"] == "sandybridge"


def test_a_plan_for_an_engine_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine, whose CPU is not known: the plan has no twins, and is shown all the same."""
    monkeypatch.setattr(machine, "cpu_flags", frozenset)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setattr(DockerEngine, "owned_images", _no_engine)
    status, out, _ = run("plan", "R640")
    assert status == 0
    assert "R640-debian12-none  skylake_avx512  skylake_avx512" in out


def _no_engine(_: DockerEngine) -> None:
    raise HostError("no container engine answers")


def test_a_plan_with_a_source_that_is_not_there(run: Run) -> None:
    status, out, err = run("plan", "R620", "--source", "nowhere")
    assert (status, out) == (2, "")
    assert err.splitlines()[:2] == ["error: there is no 'nowhere'", "  where: --source"]


def test_relative_paths_are_the_users(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """setup.sh and nox change the folder, and say where the user was."""
    monkeypatch.chdir("/")
    monkeypatch.setenv("PIKAFORGE_CWD", str(project))
    (project / "source.tar.gz").write_text("x")
    argv = ["plan", "R620", "--json", "--matrix", "matrix.yaml", "--out", "out", "--source", "source.tar.gz"]
    assert main.main(argv) == 0
    source = next(n for n in json.loads(capsys.readouterr().out)["nodes"] if n["stage"] == "source")
    assert source["why"] == "needs image first"


# ---- errors, once


def _verb_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def verb(context: Context) -> int:
        raise error

    monkeypatch.setattr(call, "_verb", lambda name: verb)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            ConfigError("wrong", where="here", hint="do"),
            2,
            "error: wrong\n  where: here\n  hint: do\n  see: docs/troubleshooting.md#e-config\n",
        ),
        (HostError("lacking"), 3, "error: lacking\n  see: docs/troubleshooting.md#e-host\n"),
        (
            StageError("no", StageFailure(stage="smoke", label="x")),
            4,
            "error: no\n  where: stage smoke, x\n  see: docs/troubleshooting.md#e-stage-smoke\n",
        ),
        (PublishError("half"), 5, "error: half\n  see: docs/troubleshooting.md#e-publish\n"),
        (LoadError("other"), 4, "error: other\n  see: docs/troubleshooting.md#e-load\n"),
        (
            KeyboardInterrupt(),
            130,
            (
                "error: interrupted; what was running is removed\n  hint: run it again: it continues where it stopped\n"
                "  see: docs/troubleshooting.md#e-interrupted\n"
            ),
        ),
    ],
)
def test_each_kind_of_error_has_its_status(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, text: str
) -> None:
    _verb_that_raises(monkeypatch, error)
    assert run("matrix") == (status, "", text)


def _engine_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(_: DockerEngine) -> None:
        raise HostError("the engine was asked")

    monkeypatch.setattr(DockerEngine, "verify", verify)


BUILDING = ("build", "bench", "sweep")
"""Verbs that compile."""


@pytest.mark.parametrize("verb", ["plan", *BUILDING])
def test_a_family_without_a_dockerfile(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    _engine_asked(monkeypatch)
    spec = deepcopy(BASE)
    spec["images"]["debian12"]["family"] = "gentoo"
    spec["product"]["packages"] = {"gentoo": {"build": [], "runtime": []}}
    (project / "matrix.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    status, _, err = run(verb, "R620")
    assert (status, err.splitlines()[:2]) == (
        2,
        [
            "error: the family 'gentoo' is unknown: there is no docker/gentoo/Dockerfile",
            "  where: images.debian12.family",
        ],
    )
    assert "  hint: known: debian, el, el7" in err
    status, _, err = run(verb, "R620", "--os", "el7")
    assert (status, err) == ((0, "") if verb == "plan" else (3, ASKED)), "the control"


@pytest.mark.parametrize("verb", BUILDING)
def test_a_patch_file_that_is_missing_stops_a_build_before_it_starts(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    _engine_asked(monkeypatch)
    spec = deepcopy(BASE)
    spec["product"]["patches"] = "series.yaml"
    (project / "matrix.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (project / "series.yaml").write_text("patches:\n  - {file: gone.patch}\n")
    status, _, err = run(verb, "R620")
    assert (status, f"error: there is no file {project}/gone.patch" in err) == (2, True)
    assert f"where: {project}/series.yaml:2:12, patches[0].file" in err
    (project / "gone.patch").touch()
    assert run(verb, "R620") == (3, "", ASKED)


@pytest.mark.parametrize("verb", BUILDING)
def test_a_tarball_with_another_digest_stops_a_build_before_it_starts(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    _engine_asked(monkeypatch)
    good = project / "gperftools-2.10.tar.gz"
    good.write_bytes(b"good")
    spec = deepcopy(BASE)
    url, sha256 = f"https://example.org/{good.name}", hashlib.sha256(b"good").hexdigest()
    spec["tarballs"] = {"gp": {"version": "2.10", "url": url, "sha256": sha256}}
    spec["allocators"]["own"] = {"kind": "gperftools", "unwinder": "frame-pointers", "tarball": "gp"}
    (project / "matrix.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (project / "bad.tar.gz").write_bytes(b"bad")
    argv = (verb, "R620", "--allocator")
    status, _, err = run(*argv, "own", "--gperftools", str(project / "bad.tar.gz"))
    assert (status, f"{project}/bad.tar.gz is not the {good.name} that is pinned" in err) == (2, True)
    asked = (3, "", ASKED)
    assert run(*argv, "own", "--gperftools", str(good)) == asked
    assert run(*argv, "none", "--gperftools", str(project / "bad.tar.gz")) == asked, "nothing needs it"


@pytest.mark.parametrize("flags", [frozenset({"lm"}), None], ids=["known", "not known"])
def test_what_this_machine_cannot_measure_is_refused_before_it_is_compiled(
    run: Run, monkeypatch: pytest.MonkeyPatch, flags: frozenset[str] | None
) -> None:
    def asked(_: DockerEngine) -> int:
        raise HostError("the engine was asked")

    monkeypatch.setattr(DockerEngine, "verify", lambda _: None)
    monkeypatch.setattr(DockerEngine, "known_cpu_flags", lambda _: flags)
    monkeypatch.setattr(DockerEngine, "cores", asked)
    monkeypatch.setattr(DockerEngine, "memory", asked)
    status, _, err = run("bench", "R620")
    if flags is None:
        assert (status, err) == (3, ASKED), "an engine elsewhere is known by its images only"
        return
    assert (status, ", so sandybridge cannot be measured here\n" in err) == (4, True), err
    assert err.startswith("error: this machine lacks ")
    assert "where: stage bench, debian12-sandybridge-none" in err


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (
            OSError(28, "No space left on device", "/out/x"),
            "no space left in /out\n  where: /out/x",
            "free space there",
        ),
        (OSError(28, "No space left on device"), "no space left on the disk", "free space there"),
        (
            OSError(122, "Disk quota exceeded", "/out/x"),
            "no space left in /out: the disk quota is used up\n  where: /out/x",
            "free space there",
        ),
        (OSError(30, "Read-only file system", "/x"), "Read-only file system\n  where: /x", "the folder is read-only"),
        (OSError(2, "No such file or directory", "/x"), "No such file", "is a file of this checkout missing?"),
        # As an engine that died: the exceptions of HTTP libraries are OSErrors.
        (
            requests.exceptions.ConnectionError("Connection aborted."),
            "Connection aborted.",
            "a connection to the engine",
        ),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            "Connection reset",
            "a connection to the engine, or to a server, has ended",
        ),
        (OSError(24, "Too many open files"), "Too many open files", "--debug shows where it happened"),
    ],
)
def test_errors_of_the_system_have_advice_that_fits(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str, hint: str
) -> None:
    _verb_that_raises(monkeypatch, error)
    status, out, text = run("matrix")
    assert (status, out) == (3, "")
    assert text.startswith(f"error: {message}")
    assert f"\n  hint: {hint}" in text
    assert ("free space" in text) is (error.errno in (28, 122))


@pytest.mark.parametrize("error", [ConfigError("wrong"), OSError(28, "No space left on device")])
def test_debug_shows_the_traceback_too(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    _verb_that_raises(monkeypatch, error)
    _, _, err = run("matrix", "--debug")
    assert err.startswith("Traceback (most recent call last):")
    assert "\nerror: " in err


def test_a_mistake_in_the_tool_itself_is_not_dressed_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _verb_that_raises(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run("matrix")


@pytest.mark.parametrize("number", signals.ENDING)
def test_a_signal_is_an_interrupt_and_is_as_before_afterwards(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = {each: signal.getsignal(each) for each in signals.ENDING}
    cleaned: list[bool] = []

    def verb(context: Context) -> int:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # as from a terminal and from nox: it does not disturb the removal
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)
        return 0

    monkeypatch.setattr(call, "_verb", lambda name: verb)
    status, _, err = run("matrix")
    assert (status, cleaned) == (128 + number, [True])
    assert err.startswith("error: interrupted; what was running is removed")
    assert {each: signal.getsignal(each) for each in signals.ENDING} == before


def test_control_a_signal_that_nohup_ignores_stays_ignored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def verb(context: Context) -> int:
        signal.raise_signal(signal.SIGHUP)
        return 0

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(call, "_verb", lambda name: verb)
        assert run("matrix")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_a_terminal_that_goes_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    dropped: list[bool] = []
    monkeypatch.setattr(signals, "drop_streams", lambda: dropped.append(True))
    _verb_that_raises(monkeypatch, error)
    status, _, said = run("matrix")
    assert (status, dropped) == (3, []), "a disk or a connection has failed, and somebody still reads"
    assert f"error: {error.strerror}" in said
    monkeypatch.setattr(signals, "_is_gone", lambda stream: True)
    assert run("matrix")[0] == 129
    assert dropped == [True]


def test_main_of_the_package_hands_on_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    monkeypatch.setattr(main, "main", lambda argv=None: 3)
    monkeypatch.delitem(sys.modules, "pikaforge.__main__", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module("pikaforge", run_name="__main__")
    assert end.value.code == 3


def test_an_output_without_arrows_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    with pytest.raises(SystemExit) as ended:
        main.main(["publish", "--help"])
    sys.stdout.flush()
    assert ended.value.code == 0
    assert b"--promote FROM?TO" in output.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "R620", "--source", "https://user:CANARY@example.org/x.git"),
        ("plan", "R620", "--json", "--source", "https://CANARY@example.org/x.git#v1"),
        ("plan", "R620", "--source", "https://user:CA#NARY@example.org/x.git"),
        ("plan", "R620", "--source", "user:CANARY@example.org:x.git"),
        ("plan", "R620", "--source", "https://example.org/x.git?token=CANARY"),
        ("verify", "--unsigned", "https://user:CANARY@example.org/x.rpm"),
        ("verify", "--unsigned", "https://CANARY@example.org/"),
    ],
)
def test_a_secret_in_a_url_is_refused_before_anything_has_it(
    run: Run, project: Path, arguments: tuple[str, ...]
) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert "NARY" not in out + err
    assert ".netrc" in err
    assert not [path for path in project.rglob("*") if path.is_file() and b"NARY" in path.read_bytes()]


def test_a_token_in_the_query_of_a_patch_is_not_listed(run: Run, project: Path) -> None:
    (project / "series.yaml").write_text(
        "patches:\n  - {pull: 1, url: 'https://example.org/1.patch?token=CANARY'}\n", encoding="utf-8"
    )
    matrix = yaml.safe_load((project / "matrix.yaml").read_text(encoding="utf-8"))
    matrix["product"]["patches"] = "series.yaml"
    (project / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
    status, out, err = run("patches", "list")
    assert (status, err) == (0, "")
    assert "https://example.org/1.patch?***" in out
    assert "CANARY" not in out
