"""The commands of README.md and of the guides in docs/, in their order, in a project that begins with a finished build.

A session of nox or a task of invoke is the verb that it runs; `bash setup.sh` is the build after it. All else is run as
it is written. The fragments of YAML in a guide are put into the project's configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import documented
import pytest
import yaml

from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, EXIT_HOST

if TYPE_CHECKING:
    from conftest import Done, Project

    from .conftest import Shop

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("guides"), pytest.mark.long(150)]

SETTING = re.compile(r"[A-Z_]+=\S*")
NOX = re.compile(r"(?:\.venv/bin/)?nox -s ([a-z]+)(?: --(?: (.*))?)?")
TASK = re.compile(r"(?:\.venv/bin/)?invoke ([a-z]+)\.?([a-z]*)(?: (.*))?")
SETUP = re.compile(r"bash setup\.sh (R.*)")
CELLS = re.compile(r"[A-Za-z0-9*?]+-[a-z0-9]+-\S+")
BUILDING = ("build", "plan", "bench")
"""Verbs whose image is that of the machine, unless `--os` or the SELECTOR names one."""


@dataclass(kw_only=True)
class Guide:
    """A project in which commands are run."""

    project: Project
    env: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.project.folder

    def run(self, lines: Iterable[str], *, statuses: Mapping[str, Collection[int]] | None = None) -> list[str]:
        """Run commands, and return what each has printed; `statuses` has those that may end with another than 0."""
        return [self.line(re.sub(r"\s+# .*", "", line), (statuses or {}).get(line, (EXIT_DONE,))) for line in lines]

    def line(self, line: str, wanted: Collection[int] = (EXIT_DONE,)) -> str:
        """Run a command."""
        env = dict(self.env)
        while found := SETTING.match(line):
            name, _, value = found[0].partition("=")
            env[name], line = value, line[found.end() :].lstrip()
        line, pipe, reader = line.partition(" | ")
        words = self.words(line)
        if words is None:
            line += pipe + reader
            done = subprocess.run(
                ["sh", "-ec", line],
                cwd=self.folder, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            status, text = done.returncode, done.stdout + done.stderr
        else:
            ran: Done = self.project.tool(*words, *self.project.places, env=env, cwd=self.folder)
            status, text = ran.returncode, ran.text
            if reader and status in wanted:
                text = subprocess.run(
                    ["sh", "-ec", reader], input=ran.stdout, capture_output=True, text=True, check=True, timeout=60
                ).stdout
        assert status in wanted, f"$ {line}\n{text}"
        return text

    def words(self, line: str) -> list[str] | None:
        """Return the verb and its arguments; None if it is no command of the tool."""
        if found := SETUP.fullmatch(line):
            words = ["build", *shlex.split(found[1])]
        elif found := NOX.fullmatch(line):
            words = [found[1], *shlex.split(found[2] or "")]
        elif found := TASK.fullmatch(line):
            words = [found[1], *([found[2]] if found[2] else []), *shlex.split(found[3] or "")]
        else:
            return None
        if words[0] in BUILDING and "--os" not in words and not any(map(CELLS.fullmatch, words)):
            words += ["--os", "debian12"]
        return words

    def fragment(self, page: str, section: str) -> None:
        """Put a fragment of matrix.yaml into the project's."""
        more: dict[str, dict[str, Any]] = yaml.safe_load(documented.in_language(page, section, "yaml"))

        def edit(matrix: dict[str, Any]) -> None:
            for key, entries in more.items():
                assert not entries.keys() & matrix[key].keys(), "the guide adds nothing"
                matrix[key].update(entries)

        self.project.change(edit)


def new_guide(shop: Shop, top: Path) -> Guide:
    """A project with the results of the finished build, in the folders that the pages name."""
    project = shop.ready(top)
    shop.take(project, "source", "compile", "audit", "smoke")
    (top / "out").rename(project.folder / "out")
    project.out, project.dist = project.folder / "out", project.folder / "dist"
    (top / "gnupg").mkdir(mode=0o700)
    return Guide(project=project, env={"GNUPGHOME": str(top / "gnupg")})


@pytest.fixture(scope="module")
def guide(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Guide:
    """One for all pages but that on signing."""
    return new_guide(shop, tmp_path_factory.mktemp("guides"))


def test_the_first_five_minutes(guide: Guide) -> None:
    first, _, second, plan = guide.run(documented.commands("README.md", "The first five minutes"))
    assert "compile  debian12-sandybridge-none is up to date" in first + second
    assert "R720-debian12-none" in second
    assert "R610-debian12-none" not in second
    assert "R640-debian12-none" in plan


def test_the_first_build(guide: Guide) -> None:
    guide.run(documented.commands("docs/index.md", "pikaforge"))
    guide.run(documented.commands("docs/first-build.md", "Build"))
    _, sums, verified, audited = guide.run(documented.commands("docs/first-build.md", "Look at the result"))
    assert "pika-v3.4.0-R620.tar.gz" in sums
    assert "verified: all" in verified
    assert "passed" in audited
    guide.run(documented.commands("docs/first-build.md", "Add a model"))
    dry, done = guide.run(documented.commands("docs/first-build.md", "Publish it"))
    assert "this was a dry run" in dry
    assert (guide.folder / "repo-staging/index.html").is_file()
    assert "files were written" in done


def test_models_and_cells_are_shown_and_explained(guide: Guide) -> None:
    models, some, cells, of_one = guide.run(documented.commands("docs/selecting.md", "What there is"))
    assert re.search(r"^R620 .* sandybridge ", models, re.MULTILINE)
    assert re.search(r"^R620 ", some, re.MULTILINE) and not re.search(r"^R7", some, re.MULTILINE)
    every, own = (set(re.findall(r"^R\S+-\S+-\S+", text, re.MULTILINE)) for text in (cells, of_one))
    assert "R620-debian12-none" in own < every
    (why,) = guide.run(documented.commands("docs/selecting.md", "Why a cell is what it is"))
    assert "skylake_avx512" in why


def test_reports_are_put_on_one_page(guide: Guide) -> None:
    guide.run(documented.commands("docs/first-build.md", "Build", "Publish it"))
    for name in ("job-1", "job-2"):
        shutil.copytree(guide.folder / "dist", guide.folder / name)
    lines = documented.commands("docs/report.md", "Reports of several runs on one page")
    guide.run(line.replace("repo-stable", "repo-staging") for line in lines)
    for page in (guide.folder / "report.html", guide.folder / "dist/report.html"):
        assert "R620-debian12-none" in page.read_text(encoding="utf-8")


def test_a_script_reads_the_events(guide: Guide) -> None:
    (sums,) = guide.run(documented.commands("docs/terminal.md", "Events"))
    lines = sums.splitlines()
    assert lines
    for line in lines:
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((guide.folder / name).read_bytes()).hexdigest() == digest


def test_a_machine_is_looked_at(guide: Guide) -> None:
    lines = documented.commands("docs/doctor.md", "What a machine lacks")
    # Whether the source can be reached is a fact of the machine that runs this.
    statuses = dict.fromkeys(lines, (EXIT_DONE, EXIT_HOST))
    own, every, sample, host, for_scripts = guide.run(lines, statuses=statuses)
    assert re.search(r"^ok +configuration +matrix.yaml: ", own, re.MULTILINE)
    assert "debian11: " in every
    assert re.search(r"^LACKING +source ", sample, re.MULTILINE) is None
    assert "storage driver" in own
    assert "storage driver" not in host
    found = {each["check"] for each in json.loads(for_scripts)["findings"]}
    assert found >= {"configuration", "engine", "disk", "source"}


def test_publish_again_promote_and_go_back(guide: Guide) -> None:
    lines = documented.commands("docs/publishing.md", "Commands")
    dry, again, promoted, back = guide.run(lines, statuses={lines[3]: (EXIT_CONFIG,)})
    assert "everything is there already" in dry + again
    assert "this was a dry run" in promoted
    assert not (guide.folder / "repo-stable").exists()
    assert "nothing of R620 is published to stable" in back


@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_sign_and_verify(shop: Shop, tmp_path: Path) -> None:
    guide = new_guide(shop, tmp_path)
    try:
        sign_and_verify(guide)
    finally:
        agent = ["gpgconf", "--kill", "gpg-agent"]
        subprocess.run(agent, env={**os.environ, **guide.env}, check=False, timeout=60)


def sign_and_verify(guide: Guide) -> None:
    """The commands of both pages."""
    guide.run(documented.commands("docs/signing.md", "Make a key"))
    guide.run(documented.commands("docs/signing.md", "Sign"))
    assert (guide.folder / "dist/debian12/SHA256SUMS.asc").is_file()
    by_key, _ = guide.run(documented.commands("docs/verifying.md", "Packages of this tool"))
    assert "verified: all" in by_key
    guide.run(documented.commands("docs/verifying.md", "Files of others"))


def test_without_network(guide: Guide) -> None:
    _, plan = guide.run(documented.commands("docs/offline.md", "Prepare where there is a network"))
    assert "R620-debian12-none" in plan
    (text,) = guide.run(documented.commands("docs/offline.md", "Build where there is none"))
    assert "everything is up to date" in text


def test_a_patch_is_added(guide: Guide) -> None:
    entries = yaml.safe_load(documented.in_language("docs/add-a-patch.md", "List it", "yaml"))
    assert [next(iter(entry)) for entry in entries] == ["pull", "file", "quilt"]
    listed, checked = guide.run(documented.commands("docs/add-a-patch.md", "Ask whether it applies"))
    assert "988" in listed
    assert "988" in checked
    guide.run(documented.commands("docs/add-a-patch.md", "Build it"))


def test_a_model_is_added(guide: Guide) -> None:
    guide.fragment("docs/add-a-model.md", "Name it")
    table, plan = guide.run(documented.commands("docs/add-a-model.md", "See what it means"))
    assert re.search(r"^R320-debian12-none +R320 +debian12 +none +sandybridge ", table, re.MULTILINE)
    assert "R320-el7-none" in plan
    (built,) = guide.run(documented.commands("docs/add-a-model.md", "Build it"))
    assert "compile  debian12-sandybridge-none is up to date" in built
    assert guide.project.package("R320").is_file()


def test_an_image_is_added(guide: Guide) -> None:
    """Its build is not run: see `documented.NOT_RUN`."""
    guide.fragment("docs/add-an-image.md", "Describe it")
    (block,) = [each for each in documented.blocks("docs/add-an-image.md") if each.language == documented.SHELL]
    text = guide.line(block.text.splitlines()[0])
    assert "R620-ubuntu2404-none" in text


def test_an_allocator_is_added(guide: Guide) -> None:
    guide.fragment("docs/add-an-allocator.md", "Name it")
    (plan,) = guide.run(documented.commands("docs/add-an-allocator.md", "See what it means"))
    assert "R620-debian12-newer-frame-pointers" in plan
