"""What compilers newer or older than the source need: which entries are for which version, where their flags go, and
what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.cell_results import IMAGE, SOURCE
from unit.cell_results import result as stage_result
from unit.helpers import Ending, FakeEngine, make_spec, make_workspace, refusal, tar_of, the_cell

from pikaforge.cli import plan_output
from pikaforge.config import compilers, load
from pikaforge.config.schema import Spec
from pikaforge.errors import ConfigError
from pikaforge.host import hashing
from pikaforge.pipeline import compile as compile_stage
from pikaforge.plan.plan import expand

ROOT = Path(__file__).resolve().parents[3]
CELL = "R620-debian12-none"
OLD = {"gcc": "<7", "cflags": ["-std=gnu99"], "why": "inline means another thing"}
NEW = {"gcc": ">=11", "cxxflags": ["-include", "limits"], "why": "no <limits>"}
BETWEEN = {"gcc": ">=10,<13", "cflags": ["-fcommon"], "cxxflags": ["-include", "cstdint", "-fpermissive"], "why": "old"}
FUTURE = {"gcc": ">=14", "cflags": ["-Wno-error=int-conversion"], "why": "an error by default"}


def spec_with(*entries: dict[str, Any], **changes: Any) -> Spec:
    return make_spec(product__compilers=list(entries), **changes)


# ---- which versions


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=11", ("11.0", "11.4", "12.2", "100.1", "11.0.1"), ("10.2", "4.8.5", "9.4")),
        ("<7", ("4.8.5", "6.5", "6.99.9"), ("7.0", "7.1", "12.2")),
        (">=10,<13", ("10.0", "10.2", "12.9"), ("9.4", "13.0", "13.1", "4.8.5")),
        (">=10, <13", ("12.2",), ("13.1",)),
        (">=4.8.5", ("4.8.5", "4.9.0", "5.1"), ("4.8.4", "4.8", "4.7.9")),
        (">=12.2,<12.3", ("12.2", "12.2.1"), ("12.1", "12.3")),
        (">=10.0", ("10.0", "10.1"), ("9.9",)),
    ],
)
def test_a_range_is_of_numbers(text: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    assert [version for version in inside if not compilers.includes(text, version)] == []
    assert [version for version in outside if compilers.includes(text, version)] == []


@pytest.mark.parametrize(
    ("text", "empty"),
    [(">=11", False), ("<7", False), (">=10,<13", False), (">=13,<10", True), (">=10,<10.0", True), ("<0.0", True)],
)
def test_a_range_without_versions(text: str, empty: bool) -> None:
    assert compilers.is_empty(text) is empty


@pytest.mark.parametrize(("version", "part"), [("12.2.0", "12.2"), ("4.8.5", "4.8"), ("14", "14"), ("", ""), ("?", "")])
def test_major_and_minor(version: str, part: str) -> None:
    assert compilers.major_minor(version) == part


def test_entries_are_for_the_compiler_of_an_image() -> None:
    spec = spec_with(OLD, NEW, BETWEEN, FUTURE)
    assert [entry.why for entry in compilers.adaptations(spec, "debian12")] == ["no <limits>", "old"]
    assert compilers.cflags(spec, "debian12") == ("-fcommon",)
    assert compilers.cxxflags(spec, "debian12") == ("-include", "limits", "-include", "cstdint", "-fpermissive")
    assert (compilers.cflags(spec, "el7"), compilers.cxxflags(spec, "el7")) == (("-std=gnu99",), ())


def test_an_option_that_several_ask_for_is_there_once_and_the_last_word_counts() -> None:
    entries = [
        {"gcc": ">=10", "cxxflags": ["-fno-common", "-include", "a", "-include", "b"], "why": "x"},
        {"gcc": ">=11", "cxxflags": ["-include", "a", "-fcommon"], "why": "y"},
        {"gcc": ">=12", "cxxflags": ["-fno-common"], "why": "z"},
    ]
    spec = spec_with(*entries)
    assert compilers.cxxflags(spec, "debian12") == ("-include", "b", "-include", "a", "-fcommon", "-fno-common")


# ---- what is refused


@pytest.mark.parametrize(
    "words",
    [
        ["-include", "cstdint"],
        ["-include", "sys/types.h", "-include", "bits/stdc++.h"],
        ["-std=c11", "-std=gnu17"],
        ["-DNAME", "-D_GNU_SOURCE=1", "-DX=a.b", "-DEMPTY="],
        ["-Wno-error=int-conversion", "-Wno-deprecated", "-Wno-error", "-Wno-c++11-compat", "-Wformat=2"],
        sorted(compilers.SWITCHES),
    ],
    ids=" ".join,
)
def test_what_a_version_may_add(words: list[str]) -> None:
    assert list(compilers.faults(words, cxx=False)) == []


@pytest.mark.parametrize(
    "word",
    [
        "-march=native",
        "-mtune=native",
        "-mavx2",
        "-O3",
        "-O0",
        "-g0",
        "-w",
        "-Werror",
        "-Werror=unused",
        "-Wl,-rpath",
        "-Wa,-march",
        "-I/usr/include",
        "-L/lib",
        "-lm",
        "-o",
        "-x",
        "-c",
        "-E",
        "-B/tmp",
        "-specs=x",
        "-fplugin=x.so",
        "-ffile-prefix-map=a=b",
        "-fomit-frame-pointer",
        "-fno-omit-frame-pointer",
        "-flto",
        "-fprofile-use=x",
        "-frandom-seed=1",
        "-std=c++11",  # C++ is not C
        "-std=c99x",
        "-std=",
        "-D",
        "-D1",
        "-U_FORTIFY_SOURCE",
        "cstdint",
        "@file",
        "--param",
        "--sysroot=/",
        "",
    ],
)
def test_what_no_version_may_add(word: str) -> None:
    [(index, message, hint)] = compilers.faults([word], cxx=False)
    assert index == 0
    assert f"`{word}`" in message
    assert hint


@pytest.mark.parametrize("header", ["/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "-include", "-O2", "<a>"])
def test_a_header_is_one_of_the_systems(header: str) -> None:
    [(index, message, _)] = compilers.faults(["-include", header], cxx=True)
    assert (index, message) == (1, f"`{header}` is not the name of a header")


def test_standards_are_of_their_language() -> None:
    assert list(compilers.faults(["-std=gnu++17"], cxx=True)) == []
    assert len(list(compilers.faults(["-std=gnu17"], cxx=True))) == 1


ENTRY = "product.compilers[0]"


@pytest.mark.parametrize(
    ("entry", "message", "path", "hint"),
    [
        (
            {"gcc": "11", "cflags": ["-fcommon"], "why": "x"},
            '`gcc` must be a range of versions, such as ">=11", "<13" or ">=11,<13", got the string \'11\'',
            f"{ENTRY}.gcc",
            'gcc: Range of versions, such as ">=11", "<13" or ">=11,<13".',
        ),
        (
            {"gcc": 11, "cflags": ["-fcommon"], "why": "x"},
            "`gcc` wants a string, got the number 11",
            f"{ENTRY}.gcc",
            'put it in quotes: "11"',
        ),
        (
            {"gcc": ">=13,<11", "cflags": ["-fcommon"], "why": "x"},
            "no version is in the range >=13,<11",
            f"{ENTRY}.gcc",
            "put the lower one first",
        ),
        (
            {"gcc": ">=11,<11.0", "cflags": ["-fcommon"], "why": "x"},
            "no version is in the range >=11,<11.0",
            f"{ENTRY}.gcc",
            "put the lower one first",
        ),
        ({"gcc": ">=11", "why": "x"}, "give `cflags`, `cxxflags` or both", ENTRY, ""),
        (
            {"gcc": ">=11", "cflags": ["-fcommon"]},
            "the key `why` is missing",
            f"{ENTRY}.why",
            "why: What does not compile without, and where that was found.",
        ),
        (
            {"gcc": ">=11", "cflags": ["-include cstdint"], "why": "x"},
            "`cflags[0]` must be one word of letters, digits and _ = . / + -, got the string '-include cstdint'",
            f"{ENTRY}.cflags[0]",
            "cflags: Added where C is compiled, one word each.",
        ),
        (
            {"gcc": ">=11", "cxxflags": ["-DX=$(id)"], "why": "x"},
            "`cxxflags[0]` must be one word of letters, digits and _ = . / + -, got the string '-DX=$(id)'",
            f"{ENTRY}.cxxflags[0]",
            "cxxflags: Added where C++ is compiled, one word each.",
        ),
        (
            {"gcc": ">=11", "cxxflags": ["-fpermissive", "-march=native"], "why": "x"},
            "`-march=native` is not for `compilers`: the target decides about the CPU",
            f"{ENTRY}.cxxflags[1]",
            "see `hardware`",
        ),
        (
            {"gcc": ">=11", "cxxflags": ["-include"], "why": "x"},
            "`-include` names no header",
            f"{ENTRY}.cxxflags[0]",
            "write two words: [-include, cstdint]",
        ),
        (
            {"gcc": ">=11", "cflags": ["-O3"], "why": "x"},
            "`-O3` is not a flag that may be given for a compiler's version",
            f"{ENTRY}.cflags[0]",
            compilers.ALLOWED,
        ),
    ],
)
def test_an_entry_that_is_wrong(entry: dict[str, Any], message: str, path: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_with(entry)
    told = refusal(caught)
    assert (told[0], told[1].partition(", ")[2], told[2]) == (message, path, hint)
    assert caught.value.also == ()


@pytest.mark.parametrize(
    "text", [">=" + "9" * 5000, "<" + "9" * 5000, ">=1.2.3.4", "=>11", ">= 11", ">=11,", ">11", "*"]
)
def test_a_range_that_is_none_is_refused_and_not_computed(text: str) -> None:
    with pytest.raises(ConfigError):
        spec_with({**NEW, "gcc": text})


# ---- where it goes

FACTS = tar_of({"facts/dropped.tsv": "12\t-Werror\n", "facts/compiler.txt": "gcc 12.2\n", "facts/macros.txt": "\n"})


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[Spec, str], dict[str, str]]:
    """Run the compile stage for a cell; the environment of its job."""

    def run(spec: Spec, cell: str) -> dict[str, str]:
        fake = FakeEngine()
        fake.endings["compile"] = Ending(
            outputs={"packed/tree.tar": tar_of({}), "packed/debug.tar": tar_of({}), "packed/facts.tar": FACTS}
        )
        shop = make_workspace(tmp_path, fake)
        (tmp_path / "source.tar").write_bytes(b"")
        source = stage_result("source", SOURCE, {"source.tar": tmp_path / "source.tar"})
        image = stage_result("image", IMAGE)
        result = compile_stage.make(shop, spec, the_cell(spec, cell), source, image, key="0" * 32)
        assert result.facts["dropped"] == [[12, "-Werror"]]
        return dict(fake.jobs[0].env)

    return run


def test_the_job_gets_the_words_of_its_compiler(compiled: Callable[[Spec, str], dict[str, str]]) -> None:
    env = compiled(spec_with(OLD, NEW, BETWEEN), CELL)
    assert env["PIKAFORGE_EXTRA_CFLAGS"] == "-fcommon"
    assert env["PIKAFORGE_EXTRA_CXXFLAGS"] == "-include limits -include cstdint -fpermissive"
    assert env["PIKAFORGE_KEEP_WERROR"] == "0"
    assert compiled(spec_with(product__keep_werror=True), CELL)["PIKAFORGE_KEEP_WERROR"] == "1"


def test_only_what_is_for_a_compiler_is_part_of_its_key(tmp_path: Path) -> None:
    shop = make_workspace(tmp_path, FakeEngine())

    def key(spec: Spec, cell: str = CELL) -> str:
        return hashing.key(
            "compile", compile_stage.material(spec, the_cell(spec, cell), base=tmp_path, home=shop.home), {}
        )

    base = spec_with(NEW)
    assert key(spec_with(NEW, FUTURE, OLD)) == key(base), "entries for other versions change nothing"
    assert key(spec_with({**NEW, "why": "told better", "gcc": ">=12"})) == key(base), "nor does what is said of one"
    assert key(spec_with(NEW), "R620-el7-none") == key(make_spec(), "R620-el7-none")
    assert key(spec_with(NEW, BETWEEN)) != key(base)
    assert key(make_spec()) != key(base)
    assert key(spec_with(NEW, product__keep_werror=True)) != key(base)


# ---- what is told


def test_the_plan_tells_what_is_added_and_why() -> None:
    spec = spec_with(OLD, BETWEEN, FUTURE, product__keep_werror=True)
    plan = expand(spec, [the_cell(spec, name) for name in ("R620-el7-none", CELL, "R640-el7-none")])
    assert plan_output.plan_text(plan, [], spec).split("\n\n")[1:3] == [
        "\n".join(
            [
                "IMAGE     GCC    WITH      LANGUAGE  ADDED                          WHY",
                "el7       4.8.5  <7        C         -std=gnu99                     inline means another thing",
                "debian12  12.2   >=10,<13  C         -fcommon                       old",
                "debian12  12.2   >=10,<13  C++       -include cstdint -fpermissive  old",
            ]
        ),
        "-Werror of the product's build files counts (product.keep_werror)",
    ]
    assert json.loads(plan_output.plan_json(plan, [], spec))["compilers"]["debian12"] == {
        "gcc": "12.2",
        "cflags": ["-fcommon"],
        "cxxflags": ["-include", "cstdint", "-fpermissive"],
        "adaptations": [BETWEEN],
        "keep_werror": True,
    }


def test_a_plan_without_any_says_nothing_of_it() -> None:
    spec = make_spec()
    plan = expand(spec, [the_cell(spec, CELL)])
    assert plan_output.plan_text(plan, [], spec) == plan_output.plan_text(plan, [])


# ---- the project's own matrix


def test_the_product_of_this_matrix_is_adapted_to_each_image() -> None:
    spec = load.load(ROOT / "matrix.yaml")
    needs = {image: " ".join(compilers.cxxflags(spec, image)) for image in spec.images}
    limits, both = "-include limits", "-include limits -include cstdint"
    assert needs == {
        "el7": "",
        "el8": "",
        "ubuntu2004": "",
        "debian11": "",
        "el9": limits,
        "ubuntu2204": limits,
        "debian12": limits,
        "debian13": both,
    }
    assert not spec.product.keep_werror
