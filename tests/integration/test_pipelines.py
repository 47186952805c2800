"""The action and the example for GitLab, run here: every script, in order, in a repository that is not the tool's.

That repository has a matrix.yaml with what it names, and the results of the finished build, as from a cache. Stand-ins
for the services are `bash -e`, their variables, and a look-up of `${{ }}`. The tool is a checkout elsewhere, from which
GitLab's jobs fetch it with git.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from integration.keys import new_key
from integration.runner import TOOL, Runner, check_out, make_environments, resolve

if TYPE_CHECKING:
    from conftest import Project
    from integration.conftest import Shop

ROOT = Path(__file__).resolve().parents[2]
SELECT = "R[67]20-debian12-none"
"""Two models with one target: one compilation, and it is the one of the finished build."""
CELLS = ["R620-debian12-none", "R720-debian12-none"]

pytestmark = pytest.mark.xdist_group("workflows")


@pytest.fixture(scope="module")
def checked_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the tool, as a runner has it for an action."""
    return check_out(tmp_path_factory.mktemp("tool") / "tool")


def customer(top: Path, out: Path, shop: Shop, new_project: Callable[[Path], Project]) -> Runner:
    """A repository with a matrix.yaml, and results in `out`, as from a cache."""
    project = new_project(top)
    project.out = out
    shop.take(project, "image", "source", "compile", "audit", "smoke")
    project.lock_path.write_text(json.dumps({"version": 1, "sources": {}, "images": shop.warm.pins}), encoding="utf-8")
    return Runner(checkout=project.folder)


# ---- GitHub's action

ACTION: dict[str, Any] = yaml.load((ROOT / "action.yml").read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506


class Action:
    """The action in a job of a repository."""

    def __init__(self, runner: Runner, tool: Path, temp: Path) -> None:
        """Begin with a machine on which nothing has run.

        Args:
            runner: the repository.
            tool: where the action is.
            temp: the runner's folder for files of a job.
        """
        self.runner, self.tool, self.temp = runner, tool, temp

    def step(self, name: str, **given: str) -> int:
        """Run a step of the action with inputs; its status."""
        inputs = {key: given.pop(key.replace("-", "_"), entry["default"]) for key, entry in ACTION["inputs"].items()}
        assert not given
        [step] = [step for step in ACTION["runs"]["steps"] if step.get("id") == name]
        contexts = {
            "inputs": inputs,
            "runner": {"temp": self.temp},
            "github": {"workspace": self.runner.checkout},
            "env": {"PIKAFORGE_SIGNING_KEY": ""},
        }
        env = {key: resolve(value, contexts) for key, value in step["env"].items()}
        return self.runner.line(step["run"], {"GITHUB_ACTION_PATH": str(self.tool), **env}, name)


@pytest.fixture(scope="module")
def action(
    checked_out: Path, shop: Shop, new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory
) -> Action:
    """The action, and a cache of the finished build."""
    top = tmp_path_factory.mktemp("action")
    return Action(customer(top, top / "temp/pikaforge-out", shop, new_project), checked_out, top / "temp")


@pytest.fixture(scope="module")
def built(action: Action) -> Action:
    """The action's steps up to the build."""
    for step in ("plan", "build"):
        assert action.step(step, select=SELECT, source="sample") == 0, action.runner.printed
    return action


def test_the_plan_of_the_action_gives_the_caches_key(built: Action) -> None:
    outputs = built.runner.outputs["plan"]
    assert outputs["jobs"] == "1"
    [entry] = json.loads(outputs["matrix"])["include"]
    assert re.fullmatch("[0-9a-f]{16}", entry["key"])
    [cache] = [step for step in ACTION["runs"]["steps"] if step.get("id") == "cache"]
    assert "fromJSON(steps.plan.outputs.matrix).include[0].key" in cache["with"]["key"]
    folders = [resolve(line, {"runner": {"temp": built.temp}}) for line in cache["with"]["path"].split("\n") if line]
    assert all(Path(folder).is_dir() for folder in folders if folder.endswith("store"))


def test_the_action_says_what_it_has_built(built: Action) -> None:
    outputs = built.runner.outputs["build"]
    assert set(outputs) == set(ACTION["outputs"])
    assert outputs["dist"] == str(built.runner.checkout / "dist")
    report = json.loads(Path(outputs["report"]).read_text(encoding="utf-8"))
    assert [cell["id"] for cell in report["cells"]] == CELLS
    artifacts = json.loads(outputs["artifacts"])
    assert sorted({artifact["cell"] for artifact in artifacts}) == CELLS
    for artifact in artifacts:
        content = Path(artifact["path"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (artifact["sha256"], artifact["bytes"])
    assert "R720-debian12-none" in built.runner.summary


@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_the_action_publishes_what_is_confirmed(built: Action, tmp_path: Path) -> None:
    with new_key(tmp_path / "key") as key:
        given = {"select": SELECT, "publish": "staging", "signing_key": key.secret.read_text()}
    assert built.step("publish", **given) == 0, built.runner.printed
    assert "this was a dry run" in built.runner.printed
    assert not (built.runner.checkout / "repo-staging").exists()
    assert built.step("publish", **given, confirm="true") == 0, built.runner.printed
    assert [*(built.runner.checkout / "repo-staging").rglob("*R620*.deb")]
    assert "PRIVATE KEY" not in built.runner.printed


@pytest.mark.parametrize(
    "select", ["R620-debian12-none; touch made", "$(touch made)", "R620\n::set-output name=x::y", "`touch made`"]
)
def test_a_hostile_selector_selects_nothing(action: Action, select: str) -> None:
    assert action.step("build", select=select, source="sample") == 2, action.runner.printed
    assert not [*action.runner.checkout.rglob("made")]
    assert not [line for line in action.runner.printed.splitlines() if line.lstrip().startswith("::")]
    assert action.runner.outputs["build"] == {}


# ---- GitLab


class GitLab:
    """Jobs of a pipeline on a runner with a shell."""

    def __init__(self, runner: Runner, variables: Mapping[str, str]) -> None:
        """Begin a pipeline.

        Args:
            runner: the repository; the jobs come one after the other in one folder.
            variables: those of the project and of the pipeline.
        """
        self.runner = runner
        self.variables = {**_example(".gitlab-ci.yml")["variables"], **variables}

    def job(self, job: Mapping[str, Any], **matrix: str) -> int:
        """Run before_script and script of a job in one shell; its status.

        The environments of the tool are made after it was fetched: setup.sh would take them from an index.
        """
        lines = [*job.get("before_script", ()), *job["script"]]
        fetch = [line for line in lines if line.startswith("git ")]
        given = {**self.variables, **matrix}
        given |= {name: _expanded(value, given) for name, value in job.get("variables", {}).items()}
        shutil.rmtree(self.runner.checkout / TOOL, ignore_errors=True)
        assert self.runner.line("\n".join(fetch), given) == 0, self.runner.printed
        make_environments(self.runner.checkout / TOOL)
        return self.runner.line("\n".join(line for line in lines if line not in fetch), given)


def _expanded(value: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: variables[found[1]], value)


def _example(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "examples/gitlab" / name).read_text(encoding="utf-8"))
    return content


def _extended(job: Mapping[str, Any], *jobs: Mapping[str, Any]) -> dict[str, Any]:
    """A job with what it inherits by `extends`."""
    known = {name: each for content in jobs for name, each in content.items()}
    parent = job.get("extends")
    return {**(_extended(known[parent], *jobs) if parent else {}), **job}


def _commit(folder: Path) -> str:
    """Put the tool's files under version control, as GitLab's jobs fetch them; the commit."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null")
    (folder / TOOL).unlink()
    for words in (("init", "--quiet"), ("add", "--all"), (*identity, "commit", "--quiet", "--message=tool")):
        subprocess.run(["git", *words], cwd=folder, check=True, timeout=60)
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, timeout=60, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def pipeline(shop: Shop, new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> GitLab:
    """A pipeline for a tag, in a repository with a cache of the finished build."""
    top = tmp_path_factory.mktemp("gitlab")
    tool = check_out(top / "tool")
    runner = customer(top, top / "project/out", shop, new_project)
    given = {"PIKAFORGE_SELECT": SELECT, "PIKAFORGE_SOURCE": "sample", "PIKAFORGE_TO": "staging"}
    return GitLab(runner, {"PIKAFORGE_REPOSITORY": f"file://{tool}", "PIKAFORGE_COMMIT": _commit(tool), **given})


@pytest.fixture(scope="module")
def chunks(pipeline: GitLab) -> dict[str, Any]:
    """The jobs that the plan job has made."""
    job = _example(".gitlab-ci.yml")["pikaforge-plan"]
    assert pipeline.job(job) == 0, pipeline.runner.printed
    content: dict[str, Any] = yaml.safe_load((pipeline.runner.checkout / job["artifacts"]["paths"][0]).read_text())
    return content


def test_gitlabs_child_pipeline_builds_reports_and_publishes(pipeline: GitLab, chunks: dict[str, Any]) -> None:
    """Its jobs one after the other, as the stages say."""
    child = _example("pikaforge-jobs.yml")
    build = _extended(chunks["pikaforge-build"], chunks, child)
    [entry] = build["parallel"]["matrix"]
    assert entry == {"PIKAFORGE_JOB": "debian12-sandybridge-none", "PIKAFORGE_CHUNK": "1/1"}
    assert pipeline.job(build, **entry) == 0, pipeline.runner.printed
    report = pipeline.runner.checkout / "dist" / entry["PIKAFORGE_JOB"] / "report.json"
    assert [cell["id"] for cell in json.loads(report.read_text(encoding="utf-8"))["cells"]] == CELLS
    assert set(child["stages"]) == {build["stage"], child["pikaforge-publish"]["stage"]}
    assert pipeline.job(_extended(child["pikaforge-publish"], child)) == 0, pipeline.runner.printed
    assert [*(pipeline.runner.checkout / "repo-staging").rglob("*R720*.deb")]


def test_gitlabs_schema_accepts_what_is_generated(chunks: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "chunks.yml"
    path.write_text(json.dumps({**chunks, **_example("pikaforge-jobs.yml")}), encoding="utf-8")
    program = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run([str(program), "--builtin-schema", "vendor.gitlab-ci", str(path)], check=True, timeout=60)
