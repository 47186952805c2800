"""Selectors: which cells they choose, of the matrix and among those that exist, and why they choose none."""

from __future__ import annotations

from typing import Any

import pytest
from unit.helpers import make_spec, refusal

from pikaforge.config.schema import Spec
from pikaforge.errors import ConfigError
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.selectors import Selection, nothing_selected, select, select_existing

SEE_TABLE = "see `nox -s matrix -- --all`"


def _ids(spec: Spec, *selectors: str, os: str = "", allocator: str = "", **machine: Any) -> list[str]:
    selection = Selection(selectors=selectors, os=os, allocator=allocator)
    return [cell.id for cell in select(spec, selection, **machine)]


def _refused(spec: Spec, *selectors: str, **options: Any) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught:
        _ids(spec, *selectors, **options)
    return refusal(caught)


# ---- selecting


@pytest.mark.parametrize(
    ("selectors", "options", "ids"),
    [
        # Without --os: the machine's image, else the default; without --allocator: the image's own default.
        (["R620"], {}, ["R620-debian12-none"]),
        (["R620"], {"host_image": "el7"}, ["R620-el7-none"]),
        (["R620"], {"host_image": "el7", "os": "debian12"}, ["R620-debian12-none"]),
        (["R620"], {"os": "all"}, ["R620-el7-none", "R620-debian12-none"]),
        (["R620"], {"allocator": "system"}, ["R620-debian12-system"]),
        (["R620"], {"allocator": "all"}, ["R620-debian12-none", "R620-debian12-system"]),
        (
            ["R620"],
            {"os": "all", "allocator": "all"},
            ["R620-el7-none", "R620-el7-system", "R620-debian12-none", "R620-debian12-system"],
        ),
        (["all"], {}, ["R620-debian12-none", "R720-debian12-none", "R640-debian12-none"]),
        (["all"], {"os": "el7"}, ["R620-el7-none", "R720-el7-none", "R640-el7-none"]),
        # An id says all; options may repeat it.
        (["R620-el7-system"], {}, ["R620-el7-system"]),
        (["R620-el7-system"], {"host_image": "debian12"}, ["R620-el7-system"]),
        (["R620-el7-system"], {"os": "el7", "allocator": "system"}, ["R620-el7-system"]),
        (["R620-el7-system"], {"os": "all", "allocator": "all"}, ["R620-el7-system"]),
        # A glob is over ids; options narrow it.
        (["R?20-el7-*"], {}, ["R620-el7-none", "R620-el7-system", "R720-el7-none", "R720-el7-system"]),
        (["R620-*"], {"allocator": "none"}, ["R620-el7-none", "R620-debian12-none"]),
        (["*-system"], {"os": "el7"}, ["R620-el7-system", "R720-el7-system", "R640-el7-system"]),
        (["R[67]20-el7-none"], {}, ["R620-el7-none", "R720-el7-none"]),
        # Several selectors: the matrix's order, once each.
        (["R640", "R620"], {}, ["R620-debian12-none", "R640-debian12-none"]),
        (
            ["R620-debian12-none", "R6*-debian12-none", "R620", "all"],
            {},
            ["R620-debian12-none", "R720-debian12-none", "R640-debian12-none"],
        ),
    ],
)
def test_selection(selectors: list[str], options: dict[str, str], ids: list[str]) -> None:
    assert _ids(make_spec(), *selectors, **options) == ids


def test_an_image_may_have_an_allocator_of_its_own_as_default() -> None:
    spec = make_spec(images__el7__allocator="system")
    assert _ids(spec, "R620", os="all") == ["R620-el7-system", "R620-debian12-none"]


@pytest.mark.parametrize(
    ("selectors", "options", "error"),
    [
        (
            [],
            {},
            (
                "nothing is selected",
                "",
                "name a model, a cell id, a glob over ids or `all`: `nox -s build -- R620`",
            ),
        ),
        (
            ["R62O"],
            {},
            ("no model, cell id or glob matches 'R62O'", "SELECTOR", "did you mean R620 or R720 or R640?"),
        ),
        (
            ["R620-debian11-none"],
            {},
            (
                "no model, cell id or glob matches 'R620-debian11-none'",
                "SELECTOR",
                "did you mean R620-debian12-none or R720-debian12-none or R640-debian12-none?",
            ),
        ),
        (["Z*"], {}, ("no model, cell id or glob matches 'Z*'", "SELECTOR", SEE_TABLE)),
        (["r620"], {}, ("no model, cell id or glob matches 'r620'", "SELECTOR", "did you mean R620 or R720 or R640?")),
        (["R620", ""], {}, ("no model, cell id or glob matches ''", "SELECTOR", SEE_TABLE)),
        (["R620"], {"os": "debain12"}, ("there is no image 'debain12'", "--os", "did you mean debian12?")),
        (["R620"], {"os": "beos"}, ("there is no image 'beos'", "--os", "known: el7, debian12")),
        (
            ["R620"],
            {"allocator": "jemalloc"},
            ("there is no allocator 'jemalloc'", "--allocator", "known: none, system"),
        ),
        (
            ["R620-el7-none"],
            {"os": "debian12"},
            (
                "R620-el7-none and --os debian12 exclude one another",
                "SELECTOR",
                "a cell id or glob names image and allocator itself: leave the option out",
            ),
        ),
        (
            ["R620-el7-none"],
            {"os": "el7", "allocator": "system"},
            (
                "R620-el7-none and --os el7 and --allocator system exclude one another",
                "SELECTOR",
                "a cell id or glob names image and allocator itself: leave the option out",
            ),
        ),
        (
            ["R6*-el7-*"],
            {"os": "debian12", "allocator": "all"},
            (
                "R6*-el7-* and --os debian12 exclude one another",
                "SELECTOR",
                "a cell id or glob names image and allocator itself: leave the option out",
            ),
        ),
    ],
)
def test_a_selection_that_makes_no_sense(
    selectors: list[str], options: dict[str, str], error: tuple[str, str, str]
) -> None:
    assert _refused(make_spec(), *selectors, **options) == error


EXCLUDED = {
    "matrix__exclude": [
        {"image": "el7", "allocator": "system", "reason": "it aborts there"},
        {"model": "R640", "image": "el7"},
    ]
}
ADD_IT = "add it under matrix.include, or choose another cell"


@pytest.mark.parametrize(
    ("selector", "options", "error"),
    [
        ("R620-el7-system", {}, ("the matrix excludes R620-el7-system: it aborts there", "matrix.exclude", ADD_IT)),
        ("R640-el7-none", {}, ("the matrix excludes R640-el7-none", "matrix.exclude", ADD_IT)),
        ("R640-el7-none", {"os": "debian12"}, ("the matrix excludes R640-el7-none", "matrix.exclude", ADD_IT)),
        ("*-el7-system", {}, ("the matrix excludes *-el7-system: it aborts there", "matrix.exclude", ADD_IT)),
        ("*-system", {"os": "el7"}, ("the matrix excludes *-system: it aborts there", "matrix.exclude", ADD_IT)),
        (
            "R620",
            {"os": "el7", "allocator": "system"},
            (
                "the matrix has no cell R620 with image el7 and allocator system",
                "matrix",
                f"it aborts there\n{SEE_TABLE}",
            ),
        ),
        (
            "all",
            {"os": "el7", "allocator": "system"},
            (
                "the matrix has no cell all with image el7 and allocator system",
                "matrix",
                f"it aborts there\n{SEE_TABLE}",
            ),
        ),
        # A reason that has nothing to do with what was asked for is not told.
        (
            "R640",
            {"os": "el7"},
            ("the matrix has no cell R640 with image el7 and allocator (the default)", "matrix", SEE_TABLE),
        ),
    ],
)
def test_what_the_matrix_excludes_is_refused_with_the_reason(
    selector: str, options: dict[str, str], error: tuple[str, str, str]
) -> None:
    assert _refused(make_spec(**EXCLUDED), selector, **options) == error


def test_an_exclusion_elsewhere_is_not_the_reason() -> None:
    spec = make_spec(**EXCLUDED)
    assert _refused(spec, "R640-el7-*", os="debian12")[0] == "the matrix excludes R640-el7-*: it aborts there"
    assert _refused(spec, "R620-el7-*", os="debian12")[0] == "R620-el7-* and --os debian12 exclude one another"


def test_include_wins_over_exclude() -> None:
    spec = make_spec(
        matrix__exclude=[{"image": "el7"}, {"allocator": "system"}],
        matrix__include=[{"model": "R620", "image": "el7", "allocator": "system"}],
    )
    assert _ids(spec, "R620-el7-system") == ["R620-el7-system"]
    assert all_cells(spec)[0].id == "R620-el7-system"


def test_a_model_outside_the_axes_is_told_apart_from_one_that_does_not_exist() -> None:
    spec = make_spec(matrix__axes={"model": ["R620"]})
    assert _refused(spec, "R720")[0] == "the matrix has no cell R720 with image debian12 and allocator (the default)"
    assert _refused(spec, "R999")[0] == "no model, cell id or glob matches 'R999'"


# ---- the host engine


def test_the_host_engine_builds_for_its_own_image() -> None:
    assert _ids(make_spec(), "R620", engine="host", host_image="el7") == ["R620-el7-none"]


HOST_HINT = "use a container engine for other images, or run on a machine with that OS"


@pytest.mark.parametrize(
    ("selectors", "options", "message"),
    [
        (["R620"], {"host_image": "el7", "os": "debian12"}, "this machine is el7, not debian12"),
        (["R620"], {"host_image": "el7", "os": "all"}, "this machine is el7, not debian12"),
        (["R620"], {}, "no image matches this machine, not debian12"),
        (["*"], {}, "no image matches this machine, not debian12, el7"),
    ],
)
def test_the_host_engine_refuses_foreign_images(selectors: list[str], options: dict[str, str], message: str) -> None:
    assert _refused(make_spec(), *selectors, engine="host", **options) == (
        f"the host engine builds only for the machine it runs on; {message}",
        "--engine host",
        HOST_HINT,
    )


def test_cells_come_in_one_order_and_once() -> None:
    spec = make_spec()
    ids = [cell.id for cell in all_cells(spec)]
    assert ids == [f"{m}-{i}-{a}" for m in spec.hardware for i in spec.images for a in spec.allocators]
    assert len(set(ids)) == 12
    assert _ids(spec, "*") == ids
    assert _ids(spec, *reversed(ids)) == ids


# ---- cells that exist

EXISTING = {
    "R620-el7-none": ("R620", "el7", "none"),
    "R620-debian12-none": ("R620", "debian12", "none"),
    "R620-debian12-libunwind": ("R620", "debian12", "libunwind"),
    "R640-debian12-none": ("R640", "debian12", "none"),
}


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(selectors=("R620",)), [0, 1, 2]),
        (Selection(selectors=("all",)), [0, 1, 2, 3]),
        (Selection(), [0, 1, 2, 3]),
        (Selection(os="debian12"), [1, 2, 3]),
        (Selection(selectors=("R6*-debian12-none",)), [1, 3]),
        (Selection(selectors=("R640", "R620-el7-none")), [0, 3]),
        (Selection(selectors=("R620",), os="debian12"), [1, 2]),
        (Selection(selectors=("all",), os="all", allocator="none"), [0, 1, 3]),
    ],
)
def test_existing_cells(selection: Selection, wanted: list[int]) -> None:
    ids = list(EXISTING)
    assert select_existing(selection, EXISTING, what="built", hint="build it") == [ids[number] for number in wanted]


@pytest.mark.parametrize(
    ("selection", "message", "near"),
    [
        (
            Selection(selectors=("R620", "R642"), os="debian12"),
            "nothing of R642 --os debian12 is built",
            "R640 or R620",
        ),
        (Selection(selectors=("R620",), os="debain12"), "nothing of R620 --os debain12 is built", "debian12"),
        (Selection(selectors=("R640",), allocator="nome"), "nothing of R640 --allocator nome is built", "none"),
        (Selection(selectors=("R640",), os="el7"), "nothing of R640 --os el7 is built", ""),
        (Selection(selectors=("*-el9-*",)), "nothing of *-el9-* is built", ""),
        (Selection(allocator="system"), "nothing of all --allocator system is built", ""),
    ],
)
def test_existing_cells_that_there_are_not(selection: Selection, message: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select_existing(selection, EXISTING, what="built", hint="build it")
    hints = [f"did you mean {near}?"] if near else []
    assert refusal(caught) == (message, "SELECTOR", "\n".join([*hints, "build it"]))


def test_an_existing_cell_whose_id_contradicts_an_option() -> None:
    with pytest.raises(ConfigError, match="R620-el7-none and --os debian12 exclude one another"):
        select_existing(Selection(selectors=("R620-el7-none",), os="debian12"), EXISTING, what="built", hint="build it")


def test_of_nothing_that_exists_nothing_is_selected() -> None:
    with pytest.raises(ConfigError, match="nothing of all is built"):
        select_existing(Selection(), {}, what="built", hint="build it")


def test_the_error_for_no_selector_names_the_verb() -> None:
    assert "`nox -s publish -- R620`" in nothing_selected("publish").hint
