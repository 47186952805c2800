"""What people copy for their pipelines: docs/pipelines.md shows the files of examples/, and these are right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import documented
import pytest
import yaml

from pikaforge.cli.arguments import parser
from pikaforge.host.lockfile import Lock

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/pipelines.md"
EXAMPLES = ROOT / "examples"
PLACE = "0" * 40
"""What stands for a commit of the tool in examples."""


def read(path: str) -> Any:
    """A YAML or JSON file; YAML 1.1 reads GitHub's `on` as true."""
    content = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return (
        {"on" if key is True else key: value for key, value in content.items()}
        if isinstance(content, dict)
        else content
    )


def test_what_is_shown_is_what_is_tested() -> None:
    shown = [block.text for block in documented.blocks(PAGE) if block.language != "sh"]
    paths = (path for path in EXAMPLES.rglob("*") if path.is_file() and path.parent.name != "farm")
    files = {path: path.read_text(encoding="utf-8") for path in paths}
    assert sorted(shown) == sorted(files.values())
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for path, content in files.items():
        name = path.relative_to(ROOT).as_posix()
        assert -1 < text.find(f"`{name}`") < text.find(content), f"{name} is named before it is shown"


def test_the_jobs_of_the_script_are_shown() -> None:
    [block] = [block.text for block in documented.blocks(PAGE) if block.language == "sh"]
    script = (ROOT / ".ci/pipeline.sh").read_text(encoding="utf-8")
    jobs = re.findall(r"^    (\w+)\)$", script, re.MULTILINE)
    assert list(dict.fromkeys(line.split()[2] for line in block.splitlines())) == jobs


# ---- GitHub


def test_the_action_and_the_workflow_take_the_same() -> None:
    action, workflow = read("action.yml"), read(".github/workflows/fleet.yml")
    inputs, own = set(action["inputs"]), set(workflow["on"]["workflow_call"]["inputs"])
    secrets = {"signing-key", "publish-user", "publish-password", "publish-token"}
    assert inputs - secrets == own - {"chunks", "environment", "published"}
    assert {name.replace("-", "_").upper() for name in secrets} == set(workflow["on"]["workflow_call"]["secrets"])
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert {name for name in inputs | own if f"`{name}`" not in text} == set()
    assert {name for name in action["outputs"] if f"`{name}`" not in text} == set()


def test_every_input_is_used_and_every_used_one_exists() -> None:
    for path, inputs in (
        ("action.yml", read("action.yml")["inputs"]),
        (".github/workflows/fleet.yml", read(".github/workflows/fleet.yml")["on"]["workflow_call"]["inputs"]),
    ):
        text = (ROOT / path).read_text(encoding="utf-8")
        assert set(re.findall(r"\binputs\.([\w-]+)", text)) == set(inputs), path


def test_no_value_is_text_of_the_actions_scripts() -> None:
    steps = read("action.yml")["runs"]["steps"]
    lines = [step for step in steps if "run" in step]
    assert len(lines) == 3
    for step in lines:
        assert re.fullmatch(r'bash "\$GITHUB_ACTION_PATH/\.ci/pipeline\.sh" [a-z ]+', step["run"])
        assert step["shell"] == "bash"
    secret = {"inputs.signing-key", "inputs.publish-user", "inputs.publish-password", "inputs.publish-token"}
    for step in steps:
        used = set(re.findall(r"inputs\.[\w-]+", json.dumps({**step, "env": {}})))
        assert used & secret == set(), "secrets reach the environment of the steps that need them, and nothing else"


def test_the_script_reads_what_the_pipelines_set() -> None:
    script = (ROOT / ".ci/pipeline.sh").read_text(encoding="utf-8")
    known = set(re.findall(r"PIKAFORGE_[A-Z_]+", script)) | {"PIKAFORGE_SIGNING_KEY"}
    ours = {"PIKAFORGE_REPOSITORY", "PIKAFORGE_COMMIT", "PIKAFORGE_JOB"}
    for path in ("action.yml", ".github/workflows/fleet.yml", *(str(p.relative_to(ROOT)) for p in gitlab_files())):
        named = set(re.findall(r"PIKAFORGE_[A-Z_]+", (ROOT / path).read_text(encoding="utf-8")))
        assert named - known - ours == set(), path


def test_callers_give_what_is_taken() -> None:
    job = read("examples/github/fleet.yml")["jobs"]["fleet"]
    call = read(".github/workflows/fleet.yml")["on"]["workflow_call"]
    assert set(job["with"]) <= set(call["inputs"])
    assert set(job["secrets"]) <= set(call["secrets"])
    assert job["uses"] == f"pikaforge/pikaforge/.github/workflows/fleet.yml@{PLACE}"
    *_, step, upload = read("examples/github/packages.yml")["jobs"]["packages"]["steps"]
    action = read("action.yml")
    assert set(step["with"]) <= set(action["inputs"])
    assert step["uses"] == f"pikaforge/pikaforge@{PLACE}"
    [output] = re.findall(r"steps\.packages\.outputs\.([\w-]+)", json.dumps(upload))
    assert output in action["outputs"]


def test_actions_have_one_commit_everywhere() -> None:
    paths = [ROOT / "action.yml", *(ROOT / ".github/workflows").iterdir(), *(EXAMPLES / "github").iterdir()]
    pins: dict[str, set[str]] = {}
    for path in paths:
        for action, pin in re.findall(r"uses: ([\w.-]+/[\w.-]+)\S*@(\S+ # \S+)", path.read_text(encoding="utf-8")):
            pins.setdefault(action, set()).add(pin)
    assert len(pins) >= 5
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


# ---- GitLab


def gitlab_files() -> list[Path]:
    """The files of the example for GitLab."""
    return sorted((EXAMPLES / "gitlab").iterdir())


def test_the_child_pipeline_is_the_generated_file_and_the_copied_one() -> None:
    parent, child = read("examples/gitlab/.gitlab-ci.yml"), read("examples/gitlab/pikaforge-jobs.yml")
    include = parent["pikaforge-fleet"]["trigger"]["include"]
    assert [entry["local"] for entry in include if "local" in entry] == ["pikaforge-jobs.yml"]
    [generated] = [entry for entry in include if "artifact" in entry]
    plan = parent[generated["job"]]
    assert plan["artifacts"]["paths"] == [generated["artifact"]]
    assert plan["script"][-1].endswith(f">{generated['artifact']}")
    assert ".pikaforge-build" in child
    assert plan["script"][:-1] == child[".pikaforge-tool"]["before_script"]


# ---- pre-commit


def test_the_hook_is_a_command_that_takes_files() -> None:
    [hook] = read(".pre-commit-hooks.yaml")
    python, dash, module, *words = hook["entry"].split()
    assert (python, dash, module) == ("python", "-m", "pikaforge")
    assert parser().parse_args([*words, "matrix.yaml", "series.yaml"]).files == ["matrix.yaml", "series.yaml"]
    [repo] = read("examples/pre-commit-config.yaml")["repos"]
    assert [entry["id"] for entry in repo["hooks"]] == [hook["id"]]
    assert repo["rev"] == PLACE


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("matrix.yaml", True),
        ("a/b/matrix.yml", True),
        ("patches/v3.4.0/series.yaml", True),
        ("waivers.yaml", True),
        ("matrix.schema.json", False),
        ("my-matrix.yaml", False),
        ("matrix.yaml.orig", False),
    ],
)
def test_the_hook_takes_configuration_files(path: str, taken: bool) -> None:
    [hook] = read(".pre-commit-hooks.yaml")
    assert bool(re.search(hook["files"], path)) == taken


# ---- Renovate

URL = "https://example.org/fork.git"


def managers(file: str) -> list[dict[str, Any]]:
    """The managers that read a file."""
    found = [
        manager
        for manager in read("examples/renovate/renovate.json")["customManagers"]
        if any(re.search(pattern.strip("/"), file) for pattern in manager["managerFilePatterns"])
    ]
    assert found
    return found


def matches(manager: dict[str, Any], text: str) -> list[dict[str, str]]:
    """What the patterns of a manager find; Python writes named groups with a P."""
    patterns = [re.compile(each.replace("(?<", "(?P<")) for each in manager["matchStrings"]]
    return [found.groupdict() for pattern in patterns for found in pattern.finditer(text)]


def test_renovate_finds_the_tag_of_the_matrix() -> None:
    [manager] = managers("matrix.yaml")
    product = read("matrix.yaml")["product"]["source"]
    text = (ROOT / "matrix.yaml").read_text(encoding="utf-8")
    assert {"packageName": product["git"], "currentValue": product["tag"]} in matches(manager, text)


def test_renovate_finds_the_pins_of_sources_lock(tmp_path: Path) -> None:
    """The file is as the tool writes it, with all pins that entries have."""
    lock = Lock(tmp_path / "sources.lock")
    commits = {f"{URL}#main": "a" * 40, f"{URL}#v1.0": "b" * 40}
    for entry, commit in commits.items():
        lock.check("sources", entry, "submodule third/x", "c" * 40)
        lock.check("sources", entry, "patch pull-1", "d" * 64)
        lock.check("sources", entry, "commit", commit)
    lock.check("sources", "https://example.org/x.tar.gz", "tarball", "e" * 64)
    images = read("matrix.yaml")["images"]
    for number, name in enumerate(images):
        lock.check("images", name, "packages", "f" * 64)
        lock.check("images", name, "digest", f"sha256:{number:064}")
    text = lock.path.read_text(encoding="utf-8")
    commits_found, *of_images = managers("sources.lock")
    assert [found["currentDigest"] for found in matches(commits_found, text)] == list(commits.values())
    assert {f"{found['packageName']}#{found['currentValue']}" for found in matches(commits_found, text)} == set(commits)
    assert len(of_images) >= 3
    for manager in of_images:
        [name] = [word for word in re.findall(r'"(\w+)"', manager["matchStrings"][0]) if word in images]
        [found] = matches(manager, text)
        assert found["currentDigest"] == f"sha256:{list(images).index(name):064}"
        assert f"{manager['depNameTemplate']}:{manager['currentValueTemplate']}" == images[name]["base"]


def test_renovate_may_run_the_command_that_it_shall_run() -> None:
    rules = read("examples/renovate/renovate.json")["packageRules"]
    [command] = [each for rule in rules if "postUpgradeTasks" in rule for each in rule["postUpgradeTasks"]["commands"]]
    [allowed] = read("examples/renovate/self-hosted.json")["allowedCommands"]
    assert re.search(allowed, command)
    assert not re.search(allowed, f"{command}; id")
    program, _, _, *words = command.split()
    assert program == "invoke"
    assert parser().parse_args(words).matrix == "matrix.yaml"
