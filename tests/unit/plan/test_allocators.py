"""Which gperftools is built where, which pairs are refused, and what a plan makes of an allocator."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
import yaml
from unit.helpers import make_spec, refusal, the_cell

from pikaforge.cli import plan_output
from pikaforge.config.registry import STAGES
from pikaforge.config.schema import Spec
from pikaforge.errors import ConfigError
from pikaforge.plan import allocators
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import Plan, expand

URL = "https://example.org/{}.tar.gz"
WHY = 'rocksdb aborts with "Attempt to free invalid pointer"'
CRASH = "presumes frame pointers in every library, and can crash where the heap is sampled"


def tarball(version: str, name: str = "gperftools") -> dict[str, str]:
    """An entry of `tarballs`."""
    return {"version": version, "url": URL.format(f"{name}-{version}"), "sha256": "7" * 64}


TARBALLS = {
    **{version: tarball(version) for version in ("2.6.1", "2.6.2", "2.7", "2.8", "2.15", "2.16")},
    "unwind": tarball("1.3.1", "libunwind"),
}
LIBUNWIND: dict[str, Any] = {"kind": "gperftools", "unwinder": "libunwind", "tarball": "2.7", "libunwind": "unwind"}
FRAMES: dict[str, Any] = {"kind": "gperftools", "unwinder": "frame-pointers", "tarball": "2.7"}


def spec_with(*, entry: dict[str, Any] | None = None, tarballs: dict[str, Any] | None = None, **changes: Any) -> Spec:
    """The small specification with the allocators none, system, own (libunwind) and frames; `entry` changes `own`."""
    return make_spec(
        allocators={
            "none": {"kind": "none"},
            "system": {"kind": "system"},
            "own": {**LIBUNWIND, **(entry or {})},
            "frames": FRAMES,
        },
        tarballs={**TARBALLS, **(tarballs or {})},
        **changes,
    )


# ---- which sources


@pytest.mark.parametrize(
    ("by_place", "el7", "debian12"),
    [
        ({}, "2.7", "2.7"),
        ({"debian": "2.16"}, "2.7", "2.16"),
        ({"debian12": "2.15"}, "2.7", "2.15"),
        ({"debian": "2.16", "debian12": "2.15"}, "2.7", "2.15"),
        ({"debian12": "2.15", "debian": "2.16", "el7": "2.6.2"}, "2.6.2", "2.15"),
    ],
    ids=["default", "family", "image", "image before family", "the order is no matter"],
)
def test_the_gperftools_of_an_image(by_place: dict[str, str], el7: str, debian12: str) -> None:
    spec = spec_with(entry={"tarballs": by_place})
    found = {image: allocators.sources(spec, image, "own")["src"] for image in ("el7", "debian12")}
    assert found == {"el7": spec.tarballs[el7], "debian12": spec.tarballs[debian12]}


@pytest.mark.parametrize("name", ["none", "system"])
def test_other_allocators_are_not_built(name: str) -> None:
    spec = spec_with()
    for image in spec.images:
        assert allocators.sources(spec, image, name) == {}
        assert (allocators.problem(spec, image, name), allocators.remark(spec, image, name)) == ("", "")


DEV = {"build": ["libunwind-dev"]}


@pytest.mark.parametrize(
    ("packages", "built"),
    [
        ({}, ["el7", "debian12"]),
        ({"debian": DEV}, ["el7"]),
        ({"debian12": DEV}, ["el7"]),
        ({"el7": DEV}, ["debian12"]),
        ({"el7": DEV, "debian": {"build": ["libunwind-devel"]}}, []),
    ],
)
def test_libunwind_is_built_where_the_image_brings_none(packages: dict[str, Any], built: list[str]) -> None:
    spec = spec_with(entry={"packages": packages})
    found = {image: allocators.sources(spec, image, "own").get("libunwind") for image in spec.images}
    assert [image for image, source in found.items() if source == spec.tarballs["unwind"]] == built
    assert all(source is None for image, source in found.items() if image not in built)


def test_libunwind_is_not_built_where_none_is_named_or_needed() -> None:
    spec = spec_with(entry={"libunwind": None})
    assert list(allocators.sources(spec, "debian12", "own")) == ["src"]
    assert list(allocators.sources(spec, "debian12", "frames")) == ["src"]


# ---- known bad pairs

TOO_NEW = (
    "gperftools {} needs a compiler with {}, which gcc has since {}; debian12 has gcc {}: "
    "name an older one in allocators.own.tarballs"
)


@pytest.mark.parametrize(
    ("gperftools", "gcc", "problem"),
    [
        ("2.7", "4.1.2", ""),
        ("2.7", "4.8.0", ""),
        ("2.8", "4.8.0", TOO_NEW.format("2.8", "C++11", "4.8.1", "4.8.0")),
        ("2.8", "4.8", TOO_NEW.format("2.8", "C++11", "4.8.1", "4.8")),
        ("2.8", "4.8.1", ""),
        ("2.8", "4.9", ""),
        ("2.8", "10.2", ""),
        ("2.15", "4.7.2", TOO_NEW.format("2.15", "C++11", "4.8.1", "4.7.2")),
        ("2.15", "6.5", ""),
        ("2.16", "6.5", TOO_NEW.format("2.16", "C++17", "7", "6.5")),
        ("2.16", "7.0", ""),
        ("2.16", "7.1.0", ""),
        ("2.16", "10.2", ""),
        # What tells most: a compiler that lacks both is told of the newer one.
        ("2.16", "4.8.0", TOO_NEW.format("2.16", "C++17", "7", "4.8.0")),
    ],
)
def test_a_gperftools_that_the_compiler_is_too_old_for(gperftools: str, gcc: str, problem: str) -> None:
    spec = spec_with(entry={"tarball": gperftools}, images__debian12__gcc=gcc)
    assert allocators.problem(spec, "debian12", "own") == problem


LEAST = {"version": "2.6.2", "why": WHY}


@pytest.mark.parametrize(
    ("least", "gperftools", "refused"),
    [
        (LEAST, "2.6.1", True),
        (LEAST, "2.6.2", False),
        (LEAST, "2.7", False),
        (LEAST, "2.16", False),
        ({**LEAST, "version": "2.10"}, "2.8", True),  # by number, not by letter
        ({**LEAST, "version": "2.7"}, "2.6.2", True),
        (None, "2.6.1", False),
    ],
)
def test_a_gperftools_that_the_product_does_not_run_with(
    least: dict[str, str] | None, gperftools: str, refused: bool
) -> None:
    spec = spec_with(entry={"tarball": gperftools}, product__gperftools=least)
    said = allocators.problem(spec, "debian12", "own")
    if not refused:
        assert said == ""
        return
    assert least is not None
    assert said == f"gperftools {gperftools} is older than {least['version']}: {WHY}"


def test_a_version_may_leave_a_nought_out() -> None:
    spec = spec_with(product__gperftools={**LEAST, "version": "2.7.0"})
    assert allocators.problem(spec, "debian12", "own") == ""


def test_a_bad_pair_is_one_image_and_not_the_others() -> None:
    spec = spec_with(entry={"tarball": "2.16", "tarballs": {"el7": "2.8"}}, images__el7__gcc="4.8.5")
    assert [allocators.problem(spec, image, "own") for image in spec.images] == ["", ""]
    spec = spec_with(entry={"tarball": "2.16"}, images__el7__gcc="4.8.5")
    assert [bool(allocators.problem(spec, image, "own")) for image in ("el7", "debian12")] == [True, False]


# ---- what works, and is to be known


@pytest.mark.parametrize(
    ("version", "warned"), [("2.6.2", True), ("2.7", True), ("2.8.1", True), ("2.9", False), ("2.10", False)]
)
def test_the_old_unwinder_by_frame_pointers_is_remarked_on(version: str, warned: bool) -> None:
    spec = spec_with(tarballs={"2.7": {**tarball(version), "url": URL.format("it")}})
    remark = allocators.remark(spec, "debian12", "frames")
    assert (CRASH in remark, f"gperftools {version} " in remark) == (warned, warned)
    assert bool(remark) is warned
    assert allocators.remark(spec, "debian12", "own") == ""


# ---- plans


def plan_of(spec: Spec, *ids: str, engine: Literal["docker", "host"] = "docker") -> Plan:
    return expand(spec, [the_cell(spec, cell_id) for cell_id in ids], engine=engine)


def needs(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {node.id: node.needs for node in plan.nodes}


@pytest.mark.parametrize("engine", ["docker", "host"])
def test_an_allocator_that_is_built_is_a_node_of_its_own(engine: Literal["docker", "host"]) -> None:
    spec = spec_with()
    plan = plan_of(spec, "R620-debian12-own", "R720-debian12-own", engine=engine)
    group = "debian12-sandybridge-own"
    tools = ("image:tools",) if engine == "docker" else ()
    assert needs(plan) == {
        **({"image:tools": ()} if tools else {}),
        "source:v1.0": tools,
        "image:debian12": (),
        f"allocator:{group}": ("image:debian12",),
        f"compile:{group}": ("source:v1.0", "image:debian12", f"allocator:{group}"),
        f"audit:{group}": (f"compile:{group}", "image:debian12", f"allocator:{group}"),
        f"smoke:{group}": (f"compile:{group}", "image:debian12"),
        **{
            f"package:{model}-debian12-own": (
                "source:v1.0", "image:debian12", f"compile:{group}", f"allocator:{group}", f"audit:{group}",
                f"smoke:{group}", *tools,
            )
            for model in ("R620", "R720")
        },
    }  # fmt: skip
    [node] = [node for node in plan.nodes if node.stage == "allocator"]
    assert [cell.id for cell in node.cells] == ["R620-debian12-own", "R720-debian12-own"]
    assert plan.warnings == ()
    assert STAGES.names.index("image") < STAGES.names.index("allocator") < STAGES.names.index("compile")


def test_each_way_and_target_and_image_has_an_allocator_of_its_own() -> None:
    spec = spec_with()
    cells = ["R620-debian12-own", "R620-debian12-frames", "R640-debian12-own", "R620-el7-own"]
    built = [node for node in plan_of(spec, *cells).nodes if node.stage == "allocator"]
    assert {node.label: node.needs for node in built} == {
        "debian12-sandybridge-own": ("image:debian12",),
        "debian12-sandybridge-frames": ("image:debian12",),
        "debian12-skylake_avx512-own": ("image:debian12",),
        "el7-sandybridge-own": ("image:el7",),
    }


@pytest.mark.parametrize("allocator", ["none", "system"])
def test_an_allocator_that_is_not_built_is_no_node(allocator: str) -> None:
    plan = plan_of(spec_with(), f"R620-debian12-{allocator}")
    assert not [node for node in plan.nodes if "allocator" in (node.stage, *(n.partition(":")[0] for n in node.needs))]


def test_a_bad_pair_is_a_problem_of_its_cells_alone() -> None:
    spec = spec_with(entry={"tarball": "2.16"}, images__el7__gcc="4.8.5", images__el7__fallback="nearest")
    bad = {cell.id: cell.problem for cell in all_cells(spec) if cell.problem}
    assert list(bad) == ["R620-el7-own", "R720-el7-own", "R640-el7-own"]
    assert set(bad.values()) == {TOO_NEW.format("2.16", "C++17", "7", "4.8.5").replace("debian12", "el7")}
    plan = expand(spec, all_cells(spec))
    assert {cell.id for cell in plan.problems} == set(bad)
    assert not [node for node in plan.nodes if node.label == "el7-sandybridge-own"]
    assert "allocator:debian12-sandybridge-own" in needs(plan)
    told = {cell["id"]: cell["problem"] for cell in json.loads(plan_output.plan_json(plan, []))["cells"]}
    assert {name: text for name, text in told.items() if text} == bad


def test_remarks_of_a_cell_are_told_together_and_as_warnings() -> None:
    spec = spec_with(images__el7__fallback="nearest")
    both, one = the_cell(spec, "R640-el7-frames"), the_cell(spec, "R620-el7-frames")
    fallback, _, frames = both.remark.partition("; built for the nearest, haswell; ")
    assert fallback == "gcc 4.8.5 cannot produce code for skylake_avx512"
    assert frames == one.remark == allocators.remark(spec, "el7", "frames")
    assert CRASH in frames
    plan = expand(spec, [both, one, the_cell(spec, "R620-el7-own")])
    assert plan.warnings == (f"{both.id}: {both.remark}", f"{one.id}: {one.remark}")
    assert plan.problems == ()


# ---- what matrix.yaml may say


def refused(entry: dict[str, Any], tarballs: dict[str, Any] | None = None) -> tuple[str, str, str]:
    """What is said of an allocator `own` of exactly these keys."""
    with pytest.raises(ConfigError) as caught:
        make_spec(
            allocators={"none": {"kind": "none"}, "own": entry},
            tarballs=TARBALLS if tarballs is None else tarballs,
        )
    assert caught.value.also == (), [error.message for error in caught.value.also]
    message, where, hint = refusal(caught)
    return message, where.partition(", ")[2], hint


NEEDS = "kind gperftools needs `unwinder` and `tarball`"
OWN = "allocators.own"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "gperftools"}, NEEDS),
        ({"kind": "gperftools", "unwinder": "libunwind"}, NEEDS),
        ({"kind": "gperftools", "tarball": "2.7"}, NEEDS),
        *(
            ({"kind": kind, name: value}, f"kind {kind} takes no `{name}`")
            for kind in ("none", "system")
            for name, value in (
                ("unwinder", "libunwind"), ("tarball", "2.7"), ("tarballs", {"el7": "2.7"}), ("libunwind", "unwind"),
            )
        ),
        ({**FRAMES, "libunwind": "unwind"}, "unwinder frame-pointers takes no `libunwind`"),
    ],
)  # fmt: skip
def test_what_a_kind_needs_and_takes(entry: dict[str, Any], message: str) -> None:
    assert refused(entry) == (message, OWN, "")


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "none"}, {"kind": "system", "packages": {"debian": DEV}}, LIBUNWIND, FRAMES,
        {**LIBUNWIND, "libunwind": None}, {**LIBUNWIND, "packages": {"debian": DEV}},
        {**FRAMES, "tarballs": {"el7": "2.8", "debian": "2.16"}},
    ],
)  # fmt: skip
def test_what_goes_together(entry: dict[str, Any]) -> None:
    spec = make_spec(allocators={"none": {"kind": "none"}, "own": entry}, tarballs=TARBALLS)
    assert spec.allocators["own"].frame_pointers is (entry.get("unwinder") == "frame-pointers")


UNWINDER = "unwinder: How a gperftools that is built walks the stack; with frame-pointers the product has them, too."


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({**LIBUNWIND, "tarball": "2.77"}, ("there is no tarball '2.77'", f"{OWN}.tarball", "did you mean '2.7'?")),
        (
            {**LIBUNWIND, "tarball": "jemalloc"},
            (
                "there is no tarball 'jemalloc'",
                f"{OWN}.tarball",
                f"known are: {', '.join(sorted(TARBALLS))}",
            ),
        ),
        (
            {**LIBUNWIND, "libunwind": "unwnd"},
            ("there is no tarball 'unwnd'", f"{OWN}.libunwind", "did you mean 'unwind'?"),
        ),
        (
            {**LIBUNWIND, "tarballs": {"el7": "unwnd"}},
            ("there is no tarball 'unwnd'", f"{OWN}.tarballs.el7", "did you mean 'unwind'?"),
        ),
        (
            {**LIBUNWIND, "tarballs": {"debiam": "2.7"}},
            ("there is no image or family 'debiam'", f"{OWN}.tarballs.debiam", "did you mean 'debian'?"),
        ),
        (
            {**LIBUNWIND, "packages": {"debain12": DEV}},
            ("there is no image or family 'debain12'", f"{OWN}.packages.debain12", "did you mean 'debian12'?"),
        ),
        (
            {**LIBUNWIND, "unwinder": "frame-pointer"},
            (
                "`unwinder` must be 'libunwind' or 'frame-pointers', got the string 'frame-pointer'",
                f"{OWN}.unwinder",
                "did you mean 'frame-pointers'?",
            ),
        ),
    ],
)
def test_names_that_name_nothing(entry: dict[str, Any], error: tuple[str, str, str]) -> None:
    assert refused(entry) == error


SHA = "sha256: As `sha256sum` prints it."
ADDRESS = "url: Where it is; its last part is the name of the file."
FOUR_WORDS = "must be a URL with https://, http:// or file:// and no spaces or quotes"
DIGEST_WORDS = "`sha256` must be a SHA-256: 64 digits and letters a to f, in lower case"
GIVE_NAME = "give the tarball's own URL, such as …/name-1.0.tar.gz"


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("sha256", "7" * 63, (f"{DIGEST_WORDS}, got the string {'7' * 63!r:.60}", "sha256", SHA)),
        ("sha256", "A" * 64, (f"{DIGEST_WORDS}, got the string", "sha256", SHA)),
        ("sha256", "md5", (f"{DIGEST_WORDS}, got the string 'md5'", "sha256", SHA)),
        ("url", "ftp://example.org/a.tar.gz", (f"`url` {FOUR_WORDS}, got the string", "url", ADDRESS)),
        ("url", "https://example.org/a b.tar.gz", (f"`url` {FOUR_WORDS}, got the string", "url", ADDRESS)),
        (
            "url",
            "https://example.org/dir/",
            ("the URL of extra does not end with the name of a file", "url", GIVE_NAME),
        ),
        ("url", "https://x/?a=b.tar.gz", ("the URL of extra does not end with the name of a file", "url", GIVE_NAME)),
        ("url", "https://x/.hidden", ("the URL of extra does not end with the name of a file", "url", GIVE_NAME)),
        ("url", "https://x/a%20b.tgz", ("the URL of extra does not end with the name of a file", "url", GIVE_NAME)),
        (
            "url",
            "https://elsewhere.org/x/gperftools-2.7.tar.gz?token=1",
            (
                "extra and 2.7 have the same file name gperftools-2.7.tar.gz",
                "url",
                "both would be kept in one place: give another URL",
            ),
        ),
        (
            "version",
            "2.7rc",
            (
                "`version` must be a version of two or three numbers, such as 12.2, got the string '2.7rc'",
                "version",
                "version: Of what is in it, such as 2.7.",
            ),
        ),
    ],
)
def test_tarballs_that_cannot_be_had(key: str, value: str, error: tuple[str, str, str]) -> None:
    extra = {**tarball("1.0", "extra"), key: value}
    message, where, hint = refused(LIBUNWIND, {**TARBALLS, "extra": extra})
    assert message.startswith(error[0])
    assert (where, hint) == (f"tarballs.extra.{error[1]}", error[2])


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/gperftools-2.7.1.tar.gz", "gperftools-2.7.1.tar.gz"),
        ("https://example.org/get/a-1.0.tgz?ref=/x/b.tgz", "a-1.0.tgz"),
        ("file:///srv/google-perftools_2.10.orig.tar.gz", "google-perftools_2.10.orig.tar.gz"),
    ],
)
def test_the_file_of_a_tarball(url: str, name: str) -> None:
    assert spec_with(tarballs={"x": {**tarball("1.0"), "url": url}}).tarballs["x"].file == name


def test_an_unquoted_version_is_no_number() -> None:
    entry = {**tarball("2.1"), "version": 2.1}
    message, where, hint = refused(LIBUNWIND, {**TARBALLS, "extra": entry})
    assert message == "`version` wants a string, got the number 2.1"
    assert (where, hint) == ("tarballs.extra.version", 'put it in quotes: "2.1"')
    assert yaml.safe_load("2.10") == 2.1, "which is why"
