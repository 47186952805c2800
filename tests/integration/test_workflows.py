"""GitHub's workflows, run here: every run line, as the runner would, with the values that its job gets.

What stands in for GitHub: a copy of the checkout's files, `bash -e`, the files behind GITHUB_OUTPUT and
GITHUB_STEP_SUMMARY, and the values of `${{ }}`, which may only be plain names (anything else fails here). The copy gets
Python environments that borrow this one's packages, and the results of the finished build; all else is done for real.

Two lines would run what runs this, so that they are shortened: `bash setup.sh tests` is compared with what `.ci/run`
runs, and gets one file of tests as its argument; `nox -s lint` has stand-ins for ruff and mypy, which look at Python
that this copy has unchanged, and the real shellcheck, check-jsonschema and zizmor.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from integration.keys import new_key
from integration.runner import TOOL, Runner, check_out, give_program, resolve

if TYPE_CHECKING:
    from conftest import Project
    from integration.conftest import Shop

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ("build", "ci", "fleet")
RUNNER = "ubuntu-24.04"
READ = {"contents": "read"}
ATTEST = {"id-token": "write", "attestations": "write"}
ON_A_TAG = "github.event_name == 'push' && github.ref_type == 'tag'"
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
    """All steps with their jobs; a job that calls a workflow has none."""
    for name, job in jobs():
        for step in job.get("steps", ()):
            yield name, job, step


def run_lines() -> dict[str, str]:
    """Every run line with where it is."""
    return {step["run"]: name for name, _, step in steps() if "run" in step}


def inputs(**given: object) -> dict[str, object]:
    """The inputs of the reusable workflow: given ones, and the others' defaults."""
    taken = workflow("fleet")["on"]["workflow_call"]["inputs"]
    assert set(given) <= set(taken)
    return {name: given.get(name, entry["default"]) for name, entry in taken.items()}


def documented_commands() -> set[str]:
    """The lines of the blocks of shell of README and of the pages on pipelines, without remarks."""
    pages = ("README.md", "docs/pipelines.md", "docs/github.md")
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {re.sub(r"\s+# .*", "", line).strip() for block in blocks for line in block.splitlines()} - {""}


# ---- what is written


def test_all_workflows_are_looked_at() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yml" for name in NAMES}


def test_run_lines_are_commands_of_the_documents() -> None:
    assert len(run_lines()) >= 6
    assert {line.replace(f"{TOOL}/", "") for line in run_lines()} - documented_commands() == set()


def test_nothing_gets_into_a_script_but_by_its_environment() -> None:
    for name, _, step in steps():
        line = step.get("run", "")
        assert "${{" not in line, name
        assert set(re.findall(r"\$\{?(\w+)", line)) == ({*step.get("env", {})} if "$" in line else set()), name
        assert not {"shell", "working-directory"} & step.keys(), f"{name}: docs/github.md says nothing of it"


def test_actions_are_pinned_by_commit() -> None:
    text = "".join((FOLDER / f"{name}.yml").read_text(encoding="utf-8") for name in NAMES)
    pinned = re.findall(r"uses: ([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)\n", text)
    assert len(pinned) == text.count("uses: ") - text.count("uses: $/") == sum("uses" in step for _, _, step in steps())
    assert len({action for action, *_ in pinned}) == len({(action, *pin) for action, _, *pin in pinned})


def test_permissions_are_the_least() -> None:
    for name in NAMES:
        assert workflow(name)["permissions"] == {}
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & workflow(name)["on"].keys()
    for name, job in jobs():
        attests = [step for step in job.get("steps", ()) if step.get("uses", "").startswith("actions/attest")]
        assert job["permissions"] == (ATTEST if attests else READ), name
    ours = {"repository": "${{ job.workflow_repository }}", "ref": "${{ job.workflow_sha }}", "path": TOOL}
    for name, _, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] in ({"persist-credentials": False}, {**ours, "persist-credentials": False}), name


def test_the_reusable_workflow_runs_the_tool_of_its_own_commit() -> None:
    for name, job in workflow("fleet")["jobs"].items():
        places = [s["with"].get("path", ".") for s in job["steps"] if s.get("uses", "").startswith("actions/checkout@")]
        assert places == [".", TOOL], name


def test_secrets_are_behind_the_environment_of_a_release() -> None:
    told = {name: job for name, job in jobs() if "secrets." in json.dumps(job)}
    assert set(told) == {"build.yml: fleet", "fleet.yml: publish"}
    publish, fleet = told["fleet.yml: publish"], told["build.yml: fleet"]
    assert publish["environment"] == "${{ inputs.environment }}"
    assert publish["if"] == "inputs.publish != ''"
    assert publish["needs"] == "build"
    assert fleet["uses"] == "$/.github/workflows/fleet.yml", "this repository's, at this commit"
    assert fleet["with"]["publish"] == f"${{{{ {ON_A_TAG} && 'stable' || '' }}}}"
    assert fleet["with"]["environment"] == f"${{{{ {ON_A_TAG} && 'release' || '' }}}}"
    assert set(fleet["secrets"]) == set(workflow("fleet")["on"]["workflow_call"]["secrets"])
    assert fleet["secrets"] == {name: f"${{{{ secrets.{name} }}}}" for name in fleet["secrets"]}
    assert workflow("build")["jobs"]["attest"]["if"] == ON_A_TAG
    assert workflow("build")["on"]["push"]["tags"] == ["v*"]


def test_jobs_end_and_run_on_a_known_system() -> None:
    for name, job in jobs():
        if "uses" not in job:
            wanted = "${{ matrix.runs-on }}" if name == "fleet.yml: build" else RUNNER
            assert (job["runs-on"], job["timeout-minutes"] > 0) == (wanted, True), name


def test_a_release_takes_nothing_from_a_cache() -> None:
    caching = [step for _, _, step in steps() if step.get("uses", "").startswith("actions/cache")]
    assert len(caching) == 2
    for step in caching:
        assert step["if"].startswith("inputs.cache")
        assert step["with"]["path"].split() == ["out/store", "out/downloads"]
    assert workflow("build")["jobs"]["fleet"]["with"]["cache"] == "${{ github.ref_type != 'tag' }}"


def test_ci_runs_the_tests_as_ci_run_does() -> None:
    """`.ci/run` is what other systems start: the same line with the same setting."""
    [line] = re.findall(r"^exec (.*) \"\$@\"$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    [step] = [step for _, _, step in steps() if step.get("run") == line]
    settings = re.findall(r"^export (\w+)=(.*)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert step["env"] == dict(settings)


# ---- what it does


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
    job = workflow("fleet")["jobs"]["plan"]
    assert runner.job(job, inputs=inputs(select=SELECT, source="sample")) == 0, runner.printed
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
    job = workflow("fleet")["jobs"]["build"]
    assert runner.job(job, inputs=inputs(source="sample"), matrix=entry) == 0, runner.printed
    return runner


def test_the_plan_job_gives_the_build_job_what_it_names(entry: dict[str, str]) -> None:
    assert entry["name"] == "debian12-sandybridge-none"
    assert entry["cells"] == "R620-debian12-none R720-debian12-none"
    text = (FOLDER / "fleet.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmatrix\.([\w-]+)", text)) - {"outputs", "matrix", "yaml"} <= entry.keys()
    assert re.fullmatch(r"[\w.+-]+", entry["name"] + entry["key"]), "caches and artifacts are named after it"


def test_a_plan_of_nothing_starts_no_build_job(runner: Runner) -> None:
    """GitHub refuses a matrix without entries; none of these cells can be built without a fallback."""
    [step] = [step for step in workflow("fleet")["jobs"]["plan"]["steps"] if "id" in step]
    text = (runner.checkout / "matrix.yaml").read_text(encoding="utf-8")
    (runner.checkout / "strict.yaml").write_text(
        text.replace("fallback: nearest", "fallback: refuse"), encoding="utf-8"
    )
    assert (
        runner.line(step["run"], {"PIKAFORGE_SELECT": "R640-el7-*", "PIKAFORGE_MATRIX": "strict.yaml"}, step["id"]) == 0
    )
    assert runner.outputs[step["id"]] == {"matrix": '{"include": []}', "jobs": "0"}
    assert workflow("fleet")["jobs"]["build"]["if"] == "needs.plan.outputs.jobs != '0'"


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
    title, _, header, rule, *rest = built.summary.partition("<details>")[0].splitlines()
    rows = [line for line in rest if line.startswith("|")]
    assert title == "### pika v3.4.0"
    assert header.count("|") == rule.count("|") == 7
    assert [row.split("|")[1].strip() for row in rows] == entry["cells"].split()
    for row in rows:
        assert re.search(r"\| passed.*\| \d+ of \d+ checks passed in .* \| yes \|$", row)


def test_a_build_that_fails_fails_the_job(runner: Runner) -> None:
    """Its source is not there."""
    job = workflow("fleet")["jobs"]["build"]
    matrix = {"cells": "R620-debian12-none"}
    assert runner.job(job, inputs=inputs(source=str(runner.checkout / "nothing.tar.gz")), matrix=matrix) != 0
    assert "nothing.tar.gz" in runner.printed


@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_the_publish_job_signs_and_publishes_what_the_build_jobs_made(
    built: Runner, entry: dict[str, str], tmp_path: Path
) -> None:
    job, report = workflow("fleet")["jobs"]["publish"], workflow("fleet")["jobs"]["report"]
    [download] = [step["with"] for step in job["steps"] if "download-artifact" in step.get("uses", "")]
    names, upload = [step["with"] for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    fetch, attest = [step["with"] for step in workflow("build")["jobs"]["attest"]["steps"]]
    assert (names["name"], names["path"]) == (fetch["name"], attest["subject-path"])
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
        secrets = {"SIGNING_KEY": key.secret.read_text(), "PUBLISH_USER": "robot", "PUBLISH_PASSWORD": "hunter2"}
    given = inputs(publish="stable", confirm=True, published="repo-stable")
    assert built.job(report, inputs=given) == 0, built.printed
    assert built.job(job, inputs=given, secrets={**secrets, "PUBLISH_TOKEN": ""}) == 0, built.printed
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
    published = {
        path.name for path in (built.checkout / resolve(upload["path"], {"inputs": given})).rglob("*") if path.is_file()
    }
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
