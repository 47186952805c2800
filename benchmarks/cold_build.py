"""Compare a cold build of one cell with the same guest commands by hand.

    python benchmarks/cold_build.py [--model R620] [--image debian12] [--rounds 3] [--stages STAGE,…] [--out FOLDER]

The sample is built for one cell. Images are there, and nothing else is stored; no compiler cache is used. The jobs of
the stages source, compile and package are noted: image, command, variables and inputs. Then the same jobs are run by
hand: `docker create`, `docker cp` of the inputs, `docker start`, `docker cp` of the outputs, `docker rm`. The overhead
is what the nodes of these stages take longer: keys, the log, checks of what comes out, digests, the store. The audit
and the smoke test are no guest commands, so they are not among them. Both sides take turns, and the best of each is
compared.

On a machine with other work, seconds say little: the CPU time here, without the engine's, is printed, too. The tool's
is that of the whole command. `--stages source,package` leaves the compilation out, and `--out` takes the results of an
earlier build, so that there is none before the first round.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "build")]

from pikaforge.cli.main import main as run_tool  # noqa: E402
from pikaforge.host.container import ROOT  # noqa: E402
from pikaforge.host.docker import DockerEngine  # noqa: E402
from pikaforge.host.job import Input, Job, JobResult  # noqa: E402

STAGES = ("source", "compile", "package")
RUN = DockerEngine.run


def cpu() -> float:
    """Return the seconds of CPU time of this process and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@dataclass(slots=True, kw_only=True)
class Notes:
    """The jobs of a build, with copies of their inputs."""

    folder: Path
    stages: tuple[str, ...]
    jobs: list[Job] = field(default_factory=list)
    seconds: float = 0.0
    """What they took, as the tool runs them."""
    cpu: float = 0.0
    """CPU time of the whole command."""

    def run(self, engine: DockerEngine, job: Job, into: Path) -> JobResult:
        """Run a job, and note it. The copies of inputs are not in the time."""
        if not job.label.startswith(self.stages):
            return RUN(engine, job, into)
        inputs = tuple(self._copied(item) for item in job.inputs)
        self.jobs.append(replace(job, inputs=inputs))
        began = time.perf_counter()
        try:
            return RUN(engine, job, into)
        finally:
            self.seconds += time.perf_counter() - began

    def _copied(self, item: Input) -> Input:
        target = Path(tempfile.mkdtemp(dir=self.folder)) / "input.tar"
        if isinstance(item.archive, bytes):
            target.write_bytes(item.archive)
        else:
            shutil.copyfile(item.archive, target)
        return replace(item, archive=target)


def build(model: str, image: str, stages: tuple[str, ...], out: Path) -> tuple[float, Notes]:
    """Build one cell; return the seconds of the nodes that are compared, and their jobs."""
    words = ["build", model, "--os", image, "--source", "sample", "--no-compiler-cache", "--json", "--out", str(out)]
    for stage in stages:
        shutil.rmtree(out / "store" / stage, ignore_errors=True)
    notes = Notes(folder=Path(tempfile.mkdtemp(dir=out)), stages=stages)

    def noted(engine: DockerEngine, job: Job, into: Path) -> JobResult:
        return notes.run(engine, job, into)

    said, before = io.StringIO(), cpu()
    with redirect_stdout(said), mock.patch.object(DockerEngine, "run", noted):
        status = run_tool([*words, "--dist", str(out / "dist")])
    notes.cpu = cpu() - before
    if status != 0:
        raise SystemExit(said.getvalue())
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    made = [event for event in events if event["event"] == "ended" and event["status"] == "done"]
    return sum(event["seconds"] for event in made if event["stage"] in stages), notes


def by_hand(jobs: Sequence[Job], folder: Path) -> float:
    """Run jobs by hand; return the seconds."""
    began = time.perf_counter()
    for number, job in enumerate(jobs):
        given = {**job.env, "PIKAFORGE_ROOT": ROOT}
        variables = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
        made = docker("create", "--network", "none", "-v", ROOT, "-w", ROOT, *variables, job.image, *job.argv)
        container = made.decode().strip()
        folders = folder / f"folders-{number}.tar"
        with tarfile.open(folders, "w") as archive:
            for name in sorted({"out", *(item.folder for item in job.inputs)} - {""}):
                archive.addfile(directory(name))
        docker("cp", "-", f"{container}:{ROOT}", given=folders)
        for item in job.inputs:
            assert isinstance(item.archive, Path)
            docker("cp", "-", f"{container}:{ROOT}/{item.folder}", given=item.archive)
        docker("start", "-a", container)
        for path in (*job.outputs, *job.facts):
            docker("cp", f"{container}:{ROOT}/{path}", str(folder))
        docker("rm", "-v", container)
    return time.perf_counter() - began


def directory(name: str) -> tarfile.TarInfo:
    """Return a folder's member of an archive. Folders above it need none."""
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member


def docker(*words: str, given: Path | None = None) -> bytes:
    """Run a command of the engine's program; return what it printed."""
    with (given or Path("/dev/null")).open("rb") as stream:
        done = subprocess.run(["docker", *words], stdin=stream, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"docker {words[0]}: {(done.stdout + done.stderr).decode()[-1500:]}")
    return done.stdout


def main() -> None:
    """Print what a build takes longer than its commands by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="R620")
    parser.add_argument("--image", default="debian12")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", default=",".join(STAGES), help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="results of an earlier build; those of the stages are removed")
    given = parser.parse_args()
    stages = tuple(given.stages.split(","))
    tool: list[float] = []
    hand: list[float] = []
    print("nodes     their jobs   by hand   CPU here: command   by hand   (seconds)")
    with tempfile.TemporaryDirectory(prefix="pikaforge-bench-") as folder:
        out = given.out or Path(folder) / "out"
        out.mkdir(exist_ok=True)
        if given.out is None:
            build(given.model, given.image, stages, out)  # so that images and the sample's repository are there
        for number in range(given.rounds):
            nodes, notes = build(given.model, given.image, stages, out)
            place = Path(folder) / str(number)
            place.mkdir()
            tool.append(nodes)
            before = cpu()
            hand.append(by_hand(notes.jobs, place))
            used = cpu() - before
            print(
                f"{nodes:>7.2f}  {notes.seconds:>10.2f}   {hand[-1]:>8.2f}   {notes.cpu:>17.2f}   {used:>7.2f}",
                flush=True,
            )
    more = min(tool) - min(hand)
    print(f"overhead: {more:.2f} s, {100 * more / min(hand):.1f} %")


if __name__ == "__main__":
    main()
