"""A build for another CPU than the model's dies under emulation of the model's CPU, whatever this machine can run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.builds import reported

if TYPE_CHECKING:
    from conftest import Project

    from .conftest import Shop

pytestmark = pytest.mark.engine

GROUP = "debian12-sandybridge-none"
FLAGS = set(re.findall(r"[^\s:]+", re.findall(r"^flags.*", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0]))
"""Of this machine, which is the engine's unless DOCKER_HOST says otherwise."""


def quick_checks(matrix: dict[str, Any]) -> None:
    """Without those that have servers of their own."""
    smoke = matrix["product"]["smoke"]
    matrix["product"]["smoke"] = [check for check in smoke if "instances" not in check]


def own_flags(recipe: Path, flags: str) -> None:
    """Compile behind the wrapper's back, as the tree's own Makefile would."""
    text = recipe.read_text(encoding="utf-8")
    text = text.replace("\nset -eu\n", "\nset -eu\nexport PIKAFORGE_WRAPPER=off\n", 1)
    assert text.count('    make "$@" \\\n') == 1
    text = text.replace('    make "$@" \\\n', f"    make \"$@\" CXX='g++ {flags}' \\\n", 1)
    recipe.write_text(text, encoding="utf-8")


@pytest.mark.skipif("avx2" not in FLAGS, reason="this machine does not run code for haswell itself")
def test_a_build_for_a_newer_cpu_is_refused_and_dies_under_emulation(ready: Project, shop: Shop) -> None:
    shop.take(ready, "source")
    ready.change(quick_checks)
    # What the wrapper would do for a compiler that is newer than the source, too.
    own_flags(ready.recipe, "-march=haswell -include limits -w")
    done = ready.build("R620", check=4)
    # Here it runs; on the CPU that the package is named after it would not.
    said = done.lines(r"^error: under emulation of SandyBridge: ")
    assert len(said) == 1, done.text
    assert "SIGILL" in done.stdout
    assert done.lines("killed by SIGILL .illegal instruction: built for a CPU that this one is not.")
    assert done.lines("hint: it holds an instruction that sandybridge lacks: the audit names it and its function")
    assert f"where: stage smoke, {GROUP}" in done.stdout
    assert ready.stored("smoke") == {}
    # Both judges speak, and do not wait for one another. The first names functions, as people and as waivers do.
    (refused,) = done.lines(r"^error: the audit refuses it for sandybridge: \d+ violations$")
    assert f"where: stage audit, {GROUP}" in done.stdout
    finding = r"^  reason: bin/pika: .*\[(_Z\w+)\]: (.*?); first at 0x[0-9a-f]+: ([0-9a-f ]+)  (\w+)"
    named = re.findall(finding, done.stdout, re.MULTILINE)
    assert len({symbol for symbol, *_ in named}) > 3, done.text
    assert any("avx2" in features for _, features, *_ in named)
    assert done.lines(
        r"^  reason: bin/pika: \d+ units, such as .* were compiled with -march=haswell instead of sandybridge$"
    )
    assert ready.stored("audit") == {}
    assert not ready.package().exists()
    (row,) = done.lines(r"^R620-debian12-none ")
    assert re.fullmatch(
        r"R620-debian12-none +sandybridge +REFUSED \(\d+\) +\d+ of \d+ checks passed in [0-9.]+ s +FAILED +-",
        row,
    ), row
    (cell,) = reported(ready.dist)
    assert (cell["status"], cell["artifacts"], cell["native"]["problem"]) == ("failed", [], "")
    assert f": {len(cell['audit']['violations'])} violations" in refused
    assert not cell["audit"]["passed"]
    assert "SIGILL" in cell["emulated"]["problem"]


def test_the_proper_build_passes_under_emulation(ready: Project, shop: Shop) -> None:
    shop.take(ready, "source", "compile", "audit")
    ready.change(quick_checks)
    ready.build("R620", check=0)
    (record,) = ready.stored("smoke").values()
    emulated = record["facts"]["emulated"]
    assert (emulated["ran"], emulated["reason"], emulated["cpu"]) == (True, "", "SandyBridge")
    names = [check["name"] for check in emulated["checks"]]
    assert {"version", "start", "ping", "string", "zset-negative", "expiry", "pipeline", "keyspace", "stop"} <= set(
        names
    )
    assert all(check["passed"] for check in emulated["checks"])
    # The emulator is a file of a result: fetched once, and not part of the package's tree.
    entries = [entry for entry in ready.stored("image").values() if "qemu-x86_64" in entry["files"]]
    assert len(entries) == 1
    assert re.match(r"1:1\d\.", entries[0]["facts"]["version"])
    (verdict,) = ready.stored("audit").values()
    assert verdict["facts"]["passed"]
    assert "avx" in verdict["facts"]["kernel_flags"]
    assert "avx2" not in verdict["facts"]["kernel_flags"]


def add_model(name: str, cpu: str) -> Callable[[dict[str, Any]], None]:
    """Add a hardware model with one CPU."""

    def edit(matrix: dict[str, Any]) -> None:
        matrix["hardware"][name] = {"cpus": [cpu]}

    return edit


def test_what_can_be_tried_nowhere_is_never_called_run(tiny: Callable[..., Project]) -> None:
    """AMD's Piledriver: its FMA4 and XOP are in no CPU since, and the emulator has no model of it."""
    if "xop" in FLAGS:
        pytest.skip("this machine is one")
    project = tiny()
    project.change(add_model("OLD", "piledriver"))
    refused = project.build("OLD", "--require-run", check=2)
    assert "piledriver can be run neither by this machine's CPU nor by the emulator" in refused.stderr
    assert project.stored("compile") == {}
    done = project.build("OLD", check=0)
    (said,) = done.lines("^note: OLD-debian12-none: function tried as x86_64_v2; ")
    assert said.endswith(" code audited, not run")
    assert {record["facts"]["tried"] for record in project.stored("smoke").values()} == {"x86_64_v2"}
    (row,) = done.lines("^OLD-debian12-none +piledriver ")
    assert row.count(" as x86_64_v2: ") == 2


@pytest.mark.skipif("avx512f" not in FLAGS, reason="this machine has no AVX-512")
def test_avx512_is_not_emulated_and_says_so(tiny: Callable[..., Project]) -> None:
    project = tiny()
    done = project.build("R640", check=0)
    (record,) = project.stored("smoke").values()
    emulated = record["facts"]["emulated"]
    assert (emulated["ran"], emulated["checks"]) == (False, [])
    assert emulated["reason"] == "skylake_avx512: it has AVX-512, which the emulator cannot execute"
    assert done.lines("^note: smoke:debian12-skylake_avx512-none: not emulated: skylake_avx512: it has AVX-512")
    nodes = {node["label"] for node in project.plan("R640")["nodes"]}
    assert "emulator" not in nodes
