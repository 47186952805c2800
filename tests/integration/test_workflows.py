"""GitHub's workflows, run here: every run line, as the runner would, with the values that its job gets.

What stands in for GitHub: a copy of the checkout's files, `bash -e`, the files behind GITHUB_OUTPUT and
GITHUB_STEP_SUMMARY, and the values of `${{ }}`, which may only be plain names (anything else fails here). The copy gets
Python environments that borrow this one's packages, and the results of the finished build; all else is done for real.

Two lines would run what runs this, so that they are shortened: `bash setup.sh tests` is compared with what `.ci/run`
runs, and gets one file of tests as its argument; `nox -s lint` has stand-ins for ruff and mypy, which look at Python
that this copy has unchanged, and the real shellcheck, check-jsonschema and zizmor.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import checkout
import pytest
import yaml
from integration.keys import new_key

if TYPE_CHECKING:
    from conftest import Project
    from integration.conftest import Shop

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ("build", "ci")
RUNNER = "ubuntu-24.04"
READ = {"contents": "read"}
ATTEST = {**READ, "id-token": "write", "attestations": "write"}
SESSIONS = ("matrix", "build", "publish", "tests", "lint")
"""Those that run lines come to."""
SELECT = "R[67]20-debian12-none"
"""Two models with one target: one compilation, and it is the one of the finished build."""

pytestmark = pytest.mark.xdist_group("workflows")


def workflow(name: str) -> dict[str, Any]:
    """A workflow; YAML 1.1 reads its `on` as true."""
    content: dict[Any, Any] = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in content.items()}


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """All jobs, as `build.yml: plan`."""
    for name in NAMES:
        for job, content in workflow(name)["jobs"].items():
            yield f"{name}.yml: {job}", content


def steps() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """All steps with their jobs."""
    for name, job in jobs():
        for step in job["steps"]:
            yield name, job, step


def run_lines() -> dict[str, str]:
    """Every run line with where it is."""
    return {step["run"]: name for name, _, step in steps() if "run" in step}


def documented_commands() -> set[str]:
    """The lines of the page's blocks of shell, without remarks."""
    text = (ROOT / "docs/github.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {re.sub(r"\s+# .*", "", line).strip() for block in blocks for line in block.splitlines()} - {""}


# ---- what is written


def test_all_workflows_are_looked_at() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yml" for name in NAMES}


def test_run_lines_are_commands_of_the_page() -> None:
    assert len(run_lines()) >= 6
    assert set(run_lines()) - documented_commands() == set()


def test_nothing_gets_into_a_script_but_by_its_environment() -> None:
    for name, _, step in steps():
        line = step.get("run", "")
        assert "${{" not in line, name
        assert set(re.findall(r"\$\{?(\w+)", line)) == ({*step.get("env", {})} if "$" in line else set()), name
        assert not {"shell", "working-directory"} & step.keys(), f"{name}: docs/github.md says nothing of it"


def test_actions_are_pinned_by_commit() -> None:
    text = "".join((FOLDER / f"{name}.yml").read_text(encoding="utf-8") for name in NAMES)
    pinned = re.findall(r"uses: ([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)\n", text)
    assert len(pinned) == text.count("uses:") == sum("uses" in step for _, _, step in steps())
    assert len({action for action, *_ in pinned}) == len({(action, *pin) for action, _, *pin in pinned})


def test_permissions_are_the_least() -> None:
    for name in NAMES:
        assert workflow(name)["permissions"] == {}
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & workflow(name)["on"].keys()
    for name, job in jobs():
        attests = [step for step in job["steps"] if step.get("uses", "").startswith("actions/attest")]
        assert job["permissions"] == (ATTEST if attests else READ), name
    for name, _, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}, name


def test_secrets_are_behind_the_environment_of_a_release() -> None:
    told = {name: job for name, job in jobs() if "secrets." in json.dumps(job)}
    assert set(told) == {"build.yml: publish"}
    [job] = told.values()
    assert job["environment"] == "release"
    assert job["if"] == "github.event_name == 'push' && github.ref_type == 'tag'"
    assert job["needs"] == "build"
    assert workflow("build")["on"]["push"]["tags"] == ["v*"]


def test_jobs_end_and_run_on_a_known_system() -> None:
    for name, job in jobs():
        assert (job["runs-on"], job["timeout-minutes"] > 0) == (RUNNER, True), name


def test_a_release_takes_nothing_from_a_cache() -> None:
    caching = [step for _, _, step in steps() if step.get("uses", "").startswith("actions/cache")]
    assert len(caching) == 2
    for step in caching:
        assert step["if"].startswith("github.ref_type != 'tag'")
        assert step["with"]["path"].split() == ["out/store", "out/downloads"]


def test_ci_runs_the_tests_as_ci_run_does() -> None:
    """`.ci/run` is what other systems start: the same line with the same setting."""
    [line] = re.findall(r"^exec (.*) \"\$@\"$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    [step] = [step for _, _, step in steps() if step.get("run") == line]
    settings = re.findall(r"^export (\w+)=(.*)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert step["env"] == dict(settings)


# ---- what it does


@dataclass(kw_only=True)
class Runner:
    """A checkout on a machine like GitHub's, and what has come of it."""

    checkout: Path
    ran: list[str] = field(default_factory=list)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """By step id."""
    summary: str = ""
    printed: str = ""
    """Of the last line."""

    def job(self, content: Mapping[str, Any], more: Mapping[str, str] | None = None, **contexts: Any) -> int:
        """Run the run lines of a job, to the first that fails; the last status.

        Args:
            content: the job.
            more: what is put behind a line, by the line.
            contexts: what `${{ }}` may name.
        """
        for step in content["steps"]:
            if "run" in step:
                env = {name: resolve(str(value), contexts) for name, value in step.get("env", {}).items()}
                status = self.line(step["run"] + (more or {}).get(step["run"], ""), env, step.get("id", ""))
                self.ran.append(step["run"])
                if status:
                    return status
        return 0

    def line(self, line: str, env: Mapping[str, str], step: str = "") -> int:
        """Run a line as the runner does; its status."""
        top = self.checkout.parent
        script, output, summary = top / "script.sh", top / "output", top / "summary"
        script.write_text(line, encoding="utf-8")
        for path in (output, summary):
            path.write_bytes(b"")
        mine = ("PIKAFORGE_", "PYTEST_", "GITHUB_", "PYTHONPATH", "VIRTUAL_ENV")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        done = subprocess.run(
            ["bash", "-e", str(script)],
            cwd=self.checkout,
            # An environment that a session does not take for complete must not be made from an index behind our back.
            env={**inherited, "CI": "true", "GITHUB_ACTIONS": "true", "PIP_NO_INDEX": "1", **files, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=600,
        )
        self.printed = done.stdout
        print(f"$ {line}\n{done.stdout}[exit status {done.returncode}]")  # shown with a failure
        lines = output.read_text(encoding="utf-8").splitlines()
        self.outputs[step] = {name: value for name, _, value in (line.partition("=") for line in lines)}
        self.summary = summary.read_text(encoding="utf-8")
        return done.returncode


def resolve(value: str, contexts: Mapping[str, Any]) -> str:
    """A value with its `${{ a.b }}` filled in; no other expression is known here."""

    def fill(match: re.Match[str]) -> str:
        found: Any = contexts
        for name in match[1].split("."):
            found = found[name]
        return str(found)

    text = re.sub(r"\$\{\{ ([\w.-]+) \}\}", fill, value)
    assert "${{" not in text, value
    return text


def borrow(environment: Path, build: Path | None = None) -> None:
    """Make a Python environment with the packages of this one, and the tool from `build`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    packages = next(environment.glob("lib/python*/site-packages"))
    paths = [*([str(build)] if build else []), sysconfig.get_paths()["purelib"]]
    (packages / "borrowed.pth").write_text("\n".join(paths), encoding="utf-8")


def give_program(path: Path, text: str) -> None:
    """Write a shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


class Stopped(Exception):
    """A session has its environment, and would now begin."""


def stop(*_: object, **__: object) -> None:
    """Stands for what a session runs in its environment."""
    raise Stopped


def stand_in_for_pip(build: Path, argv: list[str], **_: object) -> int:
    """Stands for the programs that make a session's environment, and for what runs in it."""
    if "pikaforge" in argv:
        raise Stopped
    if "venv" in argv:
        borrow(Path(argv[-1]), build)
    return 0


def make_environments(checkout: Path) -> None:
    """.venv as setup.sh leaves it, and .nox as the sessions do, by their own marks of completeness."""
    borrow(checkout / ".venv")
    for program in ("nox", "invoke"):
        give_program(checkout / ".venv/bin" / program, f'exec "${{0%/*}}/python" -m {program} "$@"')
    script = (checkout / "setup.sh").read_text(encoding="utf-8")
    wanted = dict(re.findall(r"^(nox|invoke)='(.*)'$", script, re.MULTILINE))
    (checkout / ".venv/.stamp").write_text(f"{checkout} {wanted['nox']} {wanted['invoke']}\n", encoding="utf-8")

    spec = importlib.util.spec_from_file_location("noxfile_of_the_copy", checkout / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    noxfile: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(noxfile)
    noxfile.subprocess = SimpleNamespace(Popen=stop)
    noxfile.ended = partial(stand_in_for_pip, checkout / "build")
    for name in SESSIONS:
        if hasattr(noxfile, name):
            session = SimpleNamespace(log=str, notify=str, posargs=[], invoked_from=checkout, run=stop)
            with pytest.raises(Stopped):
                getattr(noxfile, name)(session)
    for program in ("check-jsonschema", "zizmor"):
        (checkout / ".nox/check/bin" / program).symlink_to(Path(sys.executable).with_name(program))
    for program in ("ruff", "mypy", "lint-imports"):
        give_program(checkout / ".nox/check/bin" / program, "true")


def check_out(folder: Path) -> Path:
    """The files that git would give to a runner."""
    for name in checkout.listed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    make_environments(folder)
    return folder


@pytest.fixture(scope="module")
def runner(shop: Shop, new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A checkout that has the finished build's results, as from a cache."""
    top = tmp_path_factory.mktemp("runner")
    checkout = check_out(top / "project")
    project = new_project(top)
    project.out, project.dist = checkout / "out", checkout / "dist"
    assert project.folder == checkout
    shop.take(project, "image", "source", "compile", "audit", "smoke")
    project.lock_path.write_text(json.dumps({"version": 1, "sources": {}, "images": shop.warm.pins}), encoding="utf-8")
    return Runner(checkout=checkout)


@pytest.fixture(scope="module")
def entry(runner: Runner) -> dict[str, str]:
    """The plan job's lines, and the one entry of the matrix that they give for SELECT."""
    job = workflow("build")["jobs"]["plan"]
    assert runner.job(job, inputs={"select": SELECT, "source": "sample"}) == 0, runner.printed
    outputs = {name: resolve(value, {"steps": told(runner)}) for name, value in job["outputs"].items()}
    assert outputs["jobs"] == "1"
    [entry] = json.loads(outputs["matrix"])["include"]
    return dict(entry)


def told(runner: Runner) -> dict[str, dict[str, dict[str, str]]]:
    """Outputs as `steps` has them."""
    return {step: {"outputs": values} for step, values in runner.outputs.items()}


@pytest.fixture(scope="module")
def built(runner: Runner, entry: dict[str, str]) -> Runner:
    """The build job's lines, with the entry of the plan."""
    job = workflow("build")["jobs"]["build"]
    assert runner.job(job, inputs={"source": "sample"}, matrix=entry) == 0, runner.printed
    return runner


def test_the_plan_job_gives_the_build_job_what_it_names(entry: dict[str, str]) -> None:
    assert entry["name"] == "debian12-sandybridge-none"
    assert entry["cells"] == "R620-debian12-none R720-debian12-none"
    text = (FOLDER / "build.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmatrix\.(\w+)", text)) - {"outputs", "matrix", "yaml"} <= entry.keys()
    assert re.fullmatch(r"[\w.+-]+", entry["name"] + entry["key"]), "caches and artifacts are named after it"


def test_a_plan_of_nothing_starts_no_build_job(runner: Runner) -> None:
    """GitHub refuses a matrix without entries; none of these cells can be built as it is wanted."""
    [step] = [step for step in workflow("build")["jobs"]["plan"]["steps"] if "id" in step]
    assert runner.line(step["run"], {"SELECT": "R640-el7-* --strict-targets"}, step["id"]) == 0
    assert runner.outputs[step["id"]] == {"matrix": '{"include": []}', "jobs": "0"}
    assert workflow("build")["jobs"]["build"]["if"] == "needs.plan.outputs.jobs != '0'"


def test_the_build_job_compiles_once_for_all_of_its_cells(built: Runner, entry: dict[str, str]) -> None:
    report = json.loads((built.checkout / "dist/report.json").read_text(encoding="utf-8"))
    assert [cell["id"] for cell in report["cells"]] == entry["cells"].split()
    for cell in report["cells"]:
        assert cell["status"] == "done"
        assert {s["stage"]: s["status"] for s in cell["stages"]}["compile"] == "cached", "it had the cache"
        assert {artifact["format"] for artifact in cell["artifacts"]} >= {"tar", "deb"}
        assert all((built.checkout / "dist" / artifact["path"]).is_file() for artifact in cell["artifacts"])
    uploads = [s["with"]["path"] for _, job, s in steps() if "strategy" in job and "upload" in s.get("uses", "")]
    assert uploads == ["dist", "out/logs"]
    assert all((built.checkout / path).is_dir() for path in uploads)


def test_the_build_job_has_a_summary(built: Runner, entry: dict[str, str]) -> None:
    title, _, header, rule, *rest = built.summary.splitlines()
    rows = [line for line in rest if line.startswith("|")]
    assert title == "### pika v3.4.0"
    assert header.count("|") == rule.count("|") == 7
    assert [row.split("|")[1].strip() for row in rows] == entry["cells"].split()
    for row in rows:
        assert re.search(r"\| passed.*\| \d+ of \d+ checks passed in .* \| yes \|$", row)


def test_a_build_that_fails_fails_the_job(runner: Runner) -> None:
    """Its source is not there."""
    job = workflow("build")["jobs"]["build"]
    matrix = {"cells": "R620-debian12-none"}
    assert runner.job(job, inputs={"source": str(runner.checkout / "nothing.tar.gz")}, matrix=matrix) != 0
    assert "nothing.tar.gz" in runner.printed


@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_the_publish_job_signs_and_publishes_what_the_build_jobs_made(
    built: Runner, entry: dict[str, str], tmp_path: Path
) -> None:
    job = workflow("build")["jobs"]["publish"]
    [download] = [step["with"] for step in job["steps"] if "download-artifact" in step.get("uses", "")]
    [upload] = [step["with"] for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    [attest] = [step["with"] for step in job["steps"] if "attest" in step.get("uses", "")]
    artifact = f"packages-{entry['name']}"
    assert download == {"pattern": "packages-*", "path": "dist"}, "each artifact is a folder of its own"
    made = built.checkout / "dist"
    (made / artifact).mkdir()
    for path in [*made.iterdir()]:
        if path.name.startswith("."):  # as upload-artifact leaves them out
            path.unlink()
        elif path.name != artifact:
            path.rename(made / artifact / path.name)
    with new_key(tmp_path / "key") as key:
        secrets = {"SIGNING_KEY": key.secret.read_text(), "STABLE_USER": "robot", "STABLE_PASSWORD": "hunter2"}
    assert built.job(job, secrets=secrets) == 0, built.printed
    assert "PRIVATE KEY" not in built.printed
    assert "hunter2" not in built.printed
    sums = [*built.checkout.glob(attest["subject-path"])]
    assert sums
    packages = list(made.rglob("*.deb"))
    assert packages
    for path in (*sums, *packages):
        assert path.with_name(f"{path.name}.asc").is_file()
    for path in sums:
        checked = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
        subprocess.run(checked, cwd=path.parent, check=True, timeout=60)
    published = {path.name for path in (built.checkout / upload["path"]).rglob("*") if path.is_file()}
    assert {path.name for path in packages} <= published


def test_the_tests_job_runs_tests(runner: Runner) -> None:
    job = workflow("ci")["jobs"]["tests"]
    assert runner.job(job, more={"bash setup.sh tests": " tests/unit/test_errors.py"}) == 0, runner.printed
    assert re.search(r"\b[1-9]\d* passed", runner.printed)


BAD = {
    "template-injection": ("run: bash setup.sh tests", "run: bash setup.sh tests ${{ github.head_ref }}"),
    "unpinned-uses": ("@de0fac2e4500dabe0009e67214ff5f5447ce83dd", "@v6"),
    "excessive-permissions": ("permissions: {}", "permissions: write-all"),
    "artipacked": ("        with:\n          persist-credentials: false\n", ""),
}
"""What zizmor must find, and a change of ci.yml that brings it about."""
MISSING = {"'runs-on' is a required property": ("runs-on:", "runs-at:")}
"""The same for the schema, which is looked at before."""


def test_the_lint_job_refuses_bad_workflows(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    job = workflow("ci")["jobs"]["lint"]
    # The linters of Python and of shell have no part in it; lint itself, which runs beside the tests, has them.
    give_program(runner.checkout / ".nox/check/bin/shellcheck", "true")
    monkeypatch.setenv("PATH", str(runner.checkout / ".nox/check/bin"), prepend=os.pathsep)
    assert runner.job(job) == 0, runner.printed
    path = runner.checkout / ".github/workflows/ci.yml"
    good = path.read_text(encoding="utf-8")
    for changes in (BAD, MISSING):
        text = good
        for old, new in changes.values():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        assert runner.line(runner.ran[-1], {}) != 0
        assert [finding for finding in changes if finding not in runner.printed] == []
    path.write_text(good, encoding="utf-8")


def test_every_run_line_was_run_here(runner: Runner, request: pytest.FixtureRequest) -> None:
    """The last test: a line that is added to a workflow needs one of its own."""
    chosen = {item.name for item in request.session.items if item.path == Path(__file__)}
    if not chosen >= {name for name in globals() if name.startswith("test_")}:
        pytest.skip("tests of this file were left out")
    assert set(run_lines()) == set(runner.ran)
