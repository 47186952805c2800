"""`.ci/pipeline.sh`: variables become arguments, whatever is in them. setup.sh and nox are stand-ins that record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORD = f"""#!{sys.executable}
import json, os, sys
print("prepares", file=sys.stdout)
with open(os.environ["RECORD"], "a") as stream:
    named = {{k: v for k, v in os.environ.items() if k.startswith("PIKAFORGE_") or k == "CI"}}
    stream.write(json.dumps([sys.argv[0], sys.argv[1:], named]) + "\\n")
"""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A program that the script has started."""

    program: str
    words: list[str]
    environ: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What has come of the script."""

    status: int
    out: str
    err: str
    calls: list[Call]

    @property
    def words(self) -> list[str]:
        """The arguments of the last program."""
        return self.calls[-1].words


@dataclass(frozen=True, kw_only=True)
class Place:
    """The tool with stand-ins, and a folder in which its script is run."""

    tool: Path
    work: Path

    def run(self, *argv: str, **variables: str) -> Job:
        """Run the script with variables."""
        record = self.tool.parent / "record"
        record.write_bytes(b"")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIKAFORGE_")}
        done = subprocess.run(
            ["bash", str(self.tool / ".ci/pipeline.sh"), *argv],
            cwd=self.work,
            env={**inherited, "CI": "true", "RECORD": str(record), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        calls = [Call(program=Path(name).name, words=words, environ=environ) for name, words, environ in lines]
        return Job(status=done.returncode, out=done.stdout, err=done.stderr, calls=calls)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A tool whose path has a blank, and a folder with files that a glob would match."""
    tool, work = tmp_path / "the tool", tmp_path / "work"
    (tool / ".ci").mkdir(parents=True)
    (tool / ".venv/bin").mkdir(parents=True)
    work.mkdir()
    shutil.copy2(ROOT / ".ci/pipeline.sh", tool / ".ci/pipeline.sh")
    shutil.copy2(ROOT / "noxfile.py", tool / "noxfile.py")
    (tool / "setup.py").write_text(RECORD, encoding="utf-8")
    (tool / "setup.sh").write_text(f'exec "{sys.executable}" "${{0%.sh}}.py" "$@"\n', encoding="utf-8")
    (tool / ".venv/bin/nox").write_text(RECORD, encoding="utf-8")
    (tool / ".venv/bin/nox").chmod(0o755)
    for name in ("R620-file", "all"):
        (work / name).touch()
    return Place(tool=tool, work=work)


FOLDERS = ["--matrix=matrix.yaml", "--out=out", "--dist=dist"]


def test_a_build_gets_what_its_variables_say(place: Place) -> None:
    job = place.run(
        "build",
        PIKAFORGE_SELECT="R620 'R7*\n",
        PIKAFORGE_OS="el9",
        PIKAFORGE_ALLOCATOR="none",
        PIKAFORGE_MATRIX="a b/matrix.yaml",
        PIKAFORGE_SOURCE="sample",
        PIKAFORGE_FORMATS="tar,deb",
        PIKAFORGE_LOCKED="true",
        PIKAFORGE_CHUNK="1/2",
        PIKAFORGE_OUT="/o",
        PIKAFORGE_DIST="/d",
    )
    assert job.status == 0, job.err
    assert [call.program for call in job.calls] == ["setup.py"]
    options = ["--matrix=a b/matrix.yaml", "--out=/o", "--dist=/d", "--source=sample", "--formats=tar,deb"]
    assert job.words == [*options, "--chunk=1/2", "--locked", "--os=el9", "--allocator=none", "R620", "'R7*"]
    assert job.calls[0].environ["PIKAFORGE_CWD"] == str(place.work)


def test_nothing_is_selected_by_nothing_but_the_whole_matrix(place: Place) -> None:
    for select in ("", " \n\t"):
        job = place.run("build", PIKAFORGE_SELECT=select, PIKAFORGE_LOCKED="false")
        assert job.words == [*FOLDERS, "--os=all", "--allocator=all", "all"]
    assert place.run("build", PIKAFORGE_OS="el9").words == [*FOLDERS, "--os=el9", "--allocator=all", "all"]


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_a_plan_is_all_that_is_printed(place: Place, service: str) -> None:
    job = place.run("plan", service, PIKAFORGE_SELECT="R620", PIKAFORGE_CHUNKS="7")
    assert [call.program for call in job.calls] == ["setup.py", "nox"]
    assert job.out == "prepares\n", "the stand-in of nox; what setup.sh says is for people"
    at = ["-f", str(place.tool / "noxfile.py"), "-s", "matrix", "--"]
    assert job.words == [*at, f"--format={service}", "--matrix=matrix.yaml", "--chunks=7", "R620"]


def test_a_publication_is_a_dry_run_unless_it_is_confirmed(place: Place) -> None:
    """With CI=true the tool takes a named destination for consent."""
    job = place.run("publish", PIKAFORGE_TO="stable")
    assert (job.words[-1], "--yes" in job.words, "CI" in job.calls[-1].environ) == ("all", False, False)
    job = place.run("publish", PIKAFORGE_TO="stable", PIKAFORGE_YES="true")
    assert ("--to=stable" in job.words, "--yes" in job.words) == (True, True)
    assert place.run("publish").status == 2


def test_credentials_are_the_destinations_and_never_arguments(place: Place) -> None:
    secrets = {"PIKAFORGE_PUBLISH_USER": "robot", "PIKAFORGE_PUBLISH_PASSWORD": "hunter2 $(x)"}
    job = place.run("publish", PIKAFORGE_TO="my-repo.x", PIKAFORGE_SIGNING_KEY="-----BEGIN", **secrets)
    environ = job.calls[-1].environ
    assert (environ["PIKAFORGE_MY_REPO_X_USER"], environ["PIKAFORGE_MY_REPO_X_PASSWORD"]) == ("robot", "hunter2 $(x)")
    assert not [word for call in job.calls for word in call.words if "hunter2" in word or "BEGIN" in word]
    assert "hunter2" not in job.out + job.err


@pytest.mark.parametrize("to", ["a,b", "a\nb", "a b", "a;b", "$(touch made)", "é"])
def test_credentials_need_one_destination(place: Place, to: str) -> None:
    job = place.run("publish", PIKAFORGE_TO=to, PIKAFORGE_PUBLISH_TOKEN="secret")
    assert (job.status, job.calls) == (2, [])
    assert "secret" not in job.err
    assert not (place.work / "made").exists()


def test_reports_are_merged_if_the_tool_can(place: Place) -> None:
    noxfile = place.tool / "noxfile.py"
    noxfile.write_text("", encoding="utf-8")
    job = place.run("report", PIKAFORGE_DIST="d")
    assert (job.status, job.calls) == (0, [])
    assert job.out.startswith("note: ")
    noxfile.write_text("def report(session):\n    pass\n", encoding="utf-8")
    job = place.run("report", PIKAFORGE_DIST="d")
    assert job.words[-4:] == ["--matrix=matrix.yaml", "--out=out", "--dist=d", "d"]


HOSTILE = (
    "R620; rm R620-file",
    "$(touch made)",
    "`touch made`",
    "R620\n::set-output name=x::y",
    "\n##[set-env name=x]y",
    "*",
    "all ../*",
    "R620 & touch made",
    "'\"\\",
    "\x1b[31m",
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("job", ["build", "plan github", "publish"])
def test_hostile_selectors_are_words_and_nothing_else(place: Place, text: str, job: str) -> None:
    done = place.run(*job.split(), PIKAFORGE_SELECT=text, PIKAFORGE_TO="stable")
    assert done.status == 0, done.err
    assert done.words[-len(text.split()) :] == text.split()
    _harmless(place, done)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_are_values_and_nothing_else(place: Place, text: str) -> None:
    names = ("OS", "ALLOCATOR", "MATRIX", "SOURCE", "FORMATS", "CHUNK", "OUT", "DIST")
    done = place.run("build", **{f"PIKAFORGE_{name}": text for name in names})
    assert {word.partition("=")[2] for word in done.words[:-1]} == {text}
    _harmless(place, done)


def _harmless(place: Place, done: Job) -> None:
    assert sorted(path.name for path in place.work.iterdir()) == ["R620-file", "all"]
    shown = (done.out + done.err).splitlines()
    assert [line for line in shown if line.lstrip().startswith("::") or "##[" in line or "\x1b" in line] == []


@pytest.mark.parametrize(
    ("argv", "variables"),
    [
        (("build",), {"PIKAFORGE_SELECT": "R620 --debug"}),
        (("build",), {"PIKAFORGE_SELECT": "R620; rm -rf all"}),
        (("build",), {"PIKAFORGE_SELECT": "--out=/"}),
        (("build",), {"PIKAFORGE_SELECT": "-"}),
        (("build",), {"PIKAFORGE_LOCKED": "yes"}),
        (("build",), {"PIKAFORGE_LOCKED": "\n::error::x"}),
        (("publish",), {"PIKAFORGE_TO": "a", "PIKAFORGE_YES": "True"}),
        (("plan",), {}),
        (("plan", "\n::error::x"), {}),
        (("\n::error::x",), {}),
        ((), {}),
    ],
)
def test_what_is_refused_starts_nothing(place: Place, argv: tuple[str, ...], variables: dict[str, str]) -> None:
    job = place.run(*argv, **variables)
    assert (job.status, job.out, job.calls) == (2, "", [])
    assert job.err.startswith("error: ")
    assert "::" not in job.err
