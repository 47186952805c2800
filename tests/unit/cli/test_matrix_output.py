"""What `matrix` prints for people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.helpers import make_matrix, make_spec

from pikaforge.cli import main, matrix_output
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.plan.explain import explain
from pikaforge.plan.matrix import all_cells

HASWELL = Machine(flags=microarch.kernel_flags("haswell"))


def _run(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str, **changes: object) -> tuple[int, str, str]:
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(make_matrix(**changes), encoding="utf-8")
    (tmp_path / "recipe.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    status = main.main(["matrix", "--matrix", str(matrix), *words])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_one_line_for_each_model() -> None:
    spec = make_spec(images__el7__fallback="nearest", matrix={"exclude": [{"model": "R720", "image": "el7"}]})
    lines = matrix_output.summary_text(spec, all_cells(spec)).splitlines()
    assert lines[0].split() == ["MODEL", "CPUS", "TARGET", "IMAGES", "ALLOCATORS", "BUT"]
    by_model = {line.split()[0]: line for line in lines[1:4]}
    assert list(by_model) == ["R620", "R720", "R640"]
    assert by_model["R620"].split()[:4] == ["R620", "sandybridge,", "ivybridge", "sandybridge"]
    assert "  all  " in by_model["R620"]
    assert by_model["R640"].endswith("haswell on el7")
    assert "  debian12  " in by_model["R720"]
    assert lines[5] == "images:     el7 (gcc 4.8.5), debian12 (gcc 12.2)"


def test_what_no_model_has_is_said_once() -> None:
    spec = make_spec(matrix={"exclude": [{"image": "el7", "allocator": "none"}]})
    cells = all_cells(spec)
    assert any(cell.image == "el7" for cell in cells), "the control: el7 has other allocators"
    text = matrix_output.summary_text(spec, cells)
    assert text.count("el7-none") == 1
    assert "\nleft out:   el7-none, of every model\n" in text


def test_what_is_impossible_is_said_in_the_line() -> None:
    spec = make_spec()
    (line,) = (x for x in matrix_output.summary_text(spec, all_cells(spec)).splitlines() if x.startswith("R640"))
    assert "impossible: el7-none" in line


def test_an_explanation_as_text() -> None:
    text = matrix_output.why_text(explain(make_spec(), "R620-debian12-none", HASWELL))
    assert text.splitlines()[0] == "R620-debian12-none: model R620, image debian12, allocator none"
    assert "\n             sandybridge has no f16c, rdrand\n" in text
    assert "\n  flags      -march=sandybridge -mtune=sandybridge\n" in text
    assert text.endswith("\n  in matrix  yes")
    assert max(map(len, text.splitlines())) <= matrix_output.WIDTH


def test_notes_of_a_configuration_control_no_terminal() -> None:
    spec = make_spec()
    model = spec.hardware["R620"].model_copy(update={"note": "a\x1b[31m\nb"})
    hostile = spec.model_copy(update={"hardware": {**spec.hardware, "R620": model}})
    text = matrix_output.why_text(explain(hostile, "R620-debian12-none", HASWELL))
    assert "\x1b" not in text
    assert "(a\\x1b[31m\\x0ab)" in text


@pytest.mark.parametrize(
    ("words", "first"),
    [((), "MODEL "), (("--all",), "CELL "), (("--format", "table"), "MODEL "), (("R620",), "MODEL ")],
)
def test_the_default_is_one_line_a_model(
    words: tuple[str, ...], first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = _run(tmp_path, capsys, *words)
    assert (status, err) == (0, "")
    assert out.startswith(first)


def test_a_model_means_all_its_images_for_people_and_the_default_for_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = _run(tmp_path, capsys, "R620", "--all")
    assert {"el7", "debian12"} == {line.split()[2] for line in out.splitlines()[1:]}
    _, out, _ = _run(tmp_path, capsys, "R620", "--format", "json")
    assert {"debian12"} == {cell["image"] for cell in json.loads(out)["cells"]}


def test_an_explanation_takes_no_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = _run(tmp_path, capsys, "--why", "R620-el7-none", "--format", "json")
    assert (status, out) == (2, "")
    assert "error: --why explains one cell" in err
    status, out, err = _run(tmp_path, capsys, "--why", "R620-el7-none")
    assert (status, err) == (0, "")
    assert out.startswith("R620-el7-none: ")
