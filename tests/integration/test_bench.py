"""`bench` as a user runs it, on a small server: a table, figures and plots; and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from pikaforge.cpu import emulation
from pikaforge.cpu.microarch import resolve

if TYPE_CHECKING:
    from conftest import Done, Project

pytestmark = pytest.mark.engine

SMALL = ("--seconds", "1", "--rounds", "1", "--connections", "1", "--pipeline", "1")
"""The tiny server serves one connection at a time, and answers a packet once."""
DIES = "if (write(client, \"+PONG\\r\\n\", 7) != 7 || request[1] == '3') _exit(3);"
"""Requests with three words are writes: the server is ready, and dies of the first one."""


def bench(project: Project, *args: str | Path, check: int | None = None, image: str = "debian12") -> Done:
    """Run `bench` in a project."""
    system = ["--os", image] if image else []
    return project.tool("bench", *args, *system, "--source", "sample", *project.places, check=check)


def kept(project: Project) -> dict[str, Path]:
    """The files that it has left, by suffix."""
    folder = project.out / "bench"
    return {path.suffix: path for path in folder.iterdir()} if folder.is_dir() else {}


def test_a_table_figures_and_plots(tiny: Callable[..., Project]) -> None:
    project = tiny()
    done = bench(project, "R620", *SMALL, check=0)
    assert done.lines(r"^round 1 of 1: R620-debian12-none, ")
    head, row = done.lines(r"^allocator |^none ")
    assert re.sub(r" {2,}", " | ", head.strip()) == (
        "allocator | throughput, requests/s | x none | p99 latency, us | x none | memory at its peak, MiB | x none | "
        "memory after equal work, MiB | x none"
    )
    assert re.fullmatch(r"none +[\d,]+ +1\.00 +[\d,]+ +1\.00 +\d+\.\d +1\.00 +\d+\.\d +1\.00 *", row), row
    files = kept(project)
    assert sorted(files) == [".json", ".png", ".svg"]
    assert {path.stem for path in files.values()} == {"R620-debian12"}
    assert all(any(line.endswith(path.name) for line in done.stdout.splitlines()) for path in files.values())
    assert files[".png"].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    drawing = files[".svg"].read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawing).tag.endswith("svg")  # our own
    _check(json.loads(files[".json"].read_text(encoding="utf-8")))
    # Only what a load needs is made; what nobody tested is not packed.
    assert {path.name for path in (project.out / "store").iterdir() if path.is_dir()} == {"image", "source", "compile"}
    assert not project.dist.exists() or not list(project.dist.iterdir())
    assert project.half_done() == []
    again = bench(project, "R620-debian12-none", *SMALL, check=0, image="")
    assert again.lines(r"^compile +debian12-sandybridge-none is up to date$")
    assert kept(project) == files


def _check(facts: dict[str, Any]) -> None:
    """Figures of one run of one second."""
    assert {name: facts[name] for name in ("product", "version", "model", "image", "target", "source")} == {
        "product": "pika", "version": "v3.4.0", "model": "R620", "image": "debian12", "target": "sandybridge",
        "source": "sample",
    }  # fmt: skip
    [run] = facts["runs"]
    assert (run["name"], run["round"], len(run["intervals"])) == ("none", 1, 2)
    counted = sum(interval["requests"] for interval in run["intervals"])
    assert 0 < counted <= run["requests"] <= counted + 1, "one may be on its way at the end"
    assert 0 < run["latency_us"]["p50"] <= run["latency_us"]["p99"] <= run["latency_us"]["p999"]
    # A server of one page of C holds some pages, and not some thousand.
    assert 100 << 10 < run["resident_before"] < 64 << 20
    compared = facts["comparison"]
    assert (compared["baseline"], compared["rounds"], list(compared["series"])) == ("none", [1], ["none"])
    figures = compared["series"]["none"]
    assert figures["throughput"]["median"] == pytest.approx(run["intervals"][1]["requests"] * 2, rel=0.01)
    assert figures["throughput"]["ratio"]["median"] == 1
    assert 0 < figures["resident_peak"]["median"] < 64 << 20


def test_a_server_that_dies_under_load_is_told(tiny: Callable[..., Project]) -> None:
    project = tiny(answer=DIES)
    done = bench(project, "R620", *SMALL)
    assert done.returncode not in (0, 1), done.text
    assert "the server `none` at " in done.stderr
    assert "closed a connection" in done.stderr
    assert "Traceback" not in done.text
    assert kept(project) == {}


@pytest.mark.parametrize(("selectors", "image"), [(("R620",), "all"), (("R620-*",), "")], ids=["all images", "a glob"])
def test_a_comparison_is_of_one_image(project: Project, selectors: tuple[str, ...], image: str) -> None:
    done = bench(project, *selectors, *SMALL, check=2, image=image)
    assert re.search(
        r"error: (?!1 )\d+ images are selected; a comparison has one\n"
        r"  where: SELECTOR\n  hint: select one image: nox -s bench -- x86_64_v2 R620 --os debian12",
        done.stderr,
    )
    assert not list(project.out.rglob("*.log")), "nothing was started"


def test_models_are_compared_in_turns_and_what_cannot_run_here_is_said(tiny: Callable[..., Project]) -> None:
    beyond = _beyond_this_machine()
    project = tiny()
    project.change(lambda matrix: matrix["hardware"].update({"R640": {"cpus": [beyond]}}))
    small = ("--seconds", "1", "--rounds", "2", "--connections", "1", "--pipeline", "1")
    done = bench(project, "x86_64_v2", "R720", "R620", "R640", *small, check=0)
    assert re.search(rf"^note: R640-debian12-none is left out: this machine lacks .*{beyond} cannot", done.stdout, re.M)
    same = (
        "note: R620-debian12-none is left out: its server is the same as that of R720: both are built for sandybridge"
    )
    assert done.lines(re.escape(same))
    turns = [line.split()[4].rstrip(",") for line in done.lines("^round ")]
    assert turns == ["x86_64_v2-debian12-none", "R720-debian12-none"] * 2
    assert f"debian12-{beyond}" not in done.text.replace(f"so {beyond}", ""), "nothing is compiled for it"
    head, *rows = done.lines("^(model|x86_64_v2|R720) ")
    assert re.sub(r" {2,}", "|", head).startswith("model|throughput, requests/s|x x86_64_v2|")
    assert [row.split()[0] for row in rows] == ["x86_64_v2", "R720"]
    files = kept(project)
    assert {path.stem for path in files.values()} == {"models-debian12"}
    facts = json.loads(files[".json"].read_text(encoding="utf-8"))
    assert facts["servers"] == {
        "x86_64_v2": {"model": "x86_64_v2", "target": "x86_64_v2", "allocator": "none"},
        "R720": {"model": "R720", "target": "sandybridge", "allocator": "none"},
    }
    assert {out["model"]: bool(out["lacking"]) for out in facts["left_out"]} == {"R620": False, "R640": True}
    assert (facts["comparison"]["baseline"], facts["comparison"]["rounds"]) == ("x86_64_v2", [1, 2])
    assert set(facts["comparison"]["series"]["R720"]["throughput"]["ratio"]) == {"rounds", "median", "low", "high"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rounds", "0"), "'0' is no number from 1 to 1024"),
        (("--seconds", "0.05"), "the load's `seconds` is 0.05; it must be from 0.1 to 3600"),
        (("--connections", "1", "--processes", "2"), "the load has 2 processes, but only 1 connections"),
        (("--keyspace", "0"), "the load's `keyspace` is 0; it must be from 1 to "),
        (("--allocator", "jemalloc"), "there is no allocator 'jemalloc'"),
    ],
)
def test_figures_that_mean_nothing_are_refused_before_anything_starts(
    project: Project, options: tuple[str, ...], message: str
) -> None:
    assert message in bench(project, "R620", *options, check=2).stderr
    assert not list(project.out.rglob("*.log"))


def _beyond_this_machine() -> str:
    """A microarchitecture that gcc 12 can compile for, and that this machine is not."""
    here = emulation.flags_of(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    for name in ("bulldozer", "sapphirerapids", "mic_knl", "zen4"):
        if resolve(name, "12.2").possible and emulation.lacking(name, here):
            return name
    pytest.skip("this machine has all that gcc 12 can compile for")


def test_a_cell_that_this_machine_cannot_run_is_refused(tiny: Callable[..., Project]) -> None:
    target = _beyond_this_machine()
    project = tiny()
    project.change(lambda matrix: matrix["hardware"].update({"R620": {"cpus": [target]}}))
    done = bench(project, "R620", *SMALL, check=4)
    assert re.search(rf"error: this machine lacks \S+.*, so {target} cannot be measured here\n", done.stderr)
    assert f"where: stage bench, debian12-{target}-none" in done.stderr
    assert kept(project) == {}
