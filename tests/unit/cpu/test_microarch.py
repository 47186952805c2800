"""Targets: what a model's build may assume, and how each compiler is told."""

from __future__ import annotations

import pytest
from unit.helpers import ROOT

from pikaforge.config import load
from pikaforge.cpu import microarch
from pikaforge.cpu.microarch import Resolution

GOLDEN = {
    "R610": "nehalem",
    "R710": "nehalem",
    "R620": "sandybridge",
    "R720": "sandybridge",
    "R630": "haswell",
    "R730": "haswell",
    "R640": "skylake_avx512",
    "R740": "skylake_avx512",
    "R650": "icelake",
    "R750": "icelake",
    "R660": "sapphirerapids",
    "R760": "sapphirerapids",
    "R670": "x86_64_v3",
    "R770": "x86_64_v3",
    "R6415": "zen",
    "R6515": "zen2",
    "R7515": "zen2",
    "R6525": "zen2",
    "R7525": "zen2",
    "R6615": "zen4",
    "R7615": "zen4",
    "R6625": "zen4",
    "R7625": "zen4",
    "KVM": "x86_64_v2",
    "x86_64_v2": "x86_64_v2",
    "x86_64_v3": "x86_64_v3",
}

ZEN4_OF_GCC_12_2 = (
    "-march=znver3", "-mtune=znver3", "-mavx512f", "-mavx512dq", "-mavx512ifma", "-mavx512cd", "-mavx512bw",
    "-mavx512vl", "-mavx512vbmi", "-mavx512vbmi2", "-mavx512vnni", "-mavx512bitalg",
    "-mno-fsgsbase", "-mno-pku", "-mno-wbnoinvd", "-mno-xsaves",
)  # fmt: skip


def _tuned(name: str, *off: str) -> tuple[str, ...]:
    return f"-march={name}", f"-mtune={name}", *(f"-mno-{feature}" for feature in off)


ICELAKE = _tuned("icelake-server", "fsgsbase", "pconfig", "pku", "sgx", "wbnoinvd", "xsaves")


def test_every_model_of_matrix_yaml_has_its_target() -> None:
    spec = load.load(ROOT / "matrix.yaml")
    assert {name: microarch.common_target(model.cpus) for name, model in spec.hardware.items()} == GOLDEN


@pytest.mark.parametrize(
    ("cpus", "target"),
    [
        (("sandybridge", "ivybridge"), "sandybridge"),
        (("ivybridge", "sandybridge"), "sandybridge"),
        (("ivybridge",), "ivybridge"),
        (("haswell", "zen2"), "x86_64_v3"),
        (("nehalem", "zen4"), "x86_64_v2"),
        (("sapphirerapids", "x86_64_v3"), "x86_64_v3"),
        (("nocona", "zen4"), "x86_64"),
        (("cascadelake", "icelake"), "cascadelake"),
        (("cannonlake", "cascadelake"), "skylake"),
    ],
)
def test_the_common_target_is_the_best_that_all_cpus_run(cpus: tuple[str, ...], target: str) -> None:
    assert microarch.common_target(cpus) == target
    assert all(microarch.features(target) <= microarch.features(cpu) for cpu in cpus)


@pytest.mark.parametrize(
    ("target", "gcc", "flags"),
    [
        ("sandybridge", "4.8.5", _tuned("corei7-avx")),
        ("sandybridge", "8.5", _tuned("sandybridge")),
        ("sandybridge", "12.2", _tuned("sandybridge")),
        ("sandybridge", "14.2", _tuned("sandybridge")),
        ("haswell", "4.8.5", _tuned("core-avx2", "fsgsbase", "rtm")),
        ("haswell", "12.2", _tuned("haswell", "fsgsbase")),
        ("nehalem", "4.8.5", _tuned("corei7")),
        ("icelake", "8.5", (*ICELAKE[:3], "-mno-mpx", *ICELAKE[3:])),
        ("icelake", "12.2", ICELAKE),
        ("icelake", "14.2", ICELAKE),
        ("zen4", "12.2", ZEN4_OF_GCC_12_2),
        ("zen4", "14.2", _tuned("znver4", "fsgsbase", "pku", "wbnoinvd", "xsaves")),
        ("x86_64_v3", "12.2", ("-march=x86-64-v3", "-mtune=generic")),
    ],
)
def test_flags(target: str, gcc: str, flags: tuple[str, ...]) -> None:
    assert microarch.resolve(target, gcc) == Resolution(target=target, flags=flags)


def test_a_level_that_gcc_does_not_name_is_spelt_out() -> None:
    flags = microarch.resolve("x86_64_v3", "8.5").flags
    assert flags[:2] == ("-march=x86-64", "-mtune=generic")
    assert {"-mavx2", "-mbmi2", "-mfma", "-mlzcnt", "-mmovbe"} <= set(flags)


@pytest.mark.parametrize("gcc", ["8.5.0", "11.5.0", "12.2.0", "14.2.0"])
@pytest.mark.parametrize("target", sorted(set(GOLDEN.values())))
def test_a_patch_level_changes_nothing(target: str, gcc: str) -> None:
    full, short = microarch.resolve(target, gcc), microarch.resolve(target, gcc.rpartition(".")[0])
    assert (full.flags, full.nearest) == (short.flags, short.nearest)


@pytest.mark.parametrize(
    ("target", "gcc", "nearest"),
    [
        ("skylake_avx512", "4.8.5", "haswell"),
        ("icelake", "4.8.5", "haswell"),
        ("zen", "4.8.5", "x86_64_v3"),
        ("zen4", "8.5", "zen"),
        ("sapphirerapids", "8.5", "icelake"),
    ],
)
def test_where_the_compiler_is_too_old_the_nearest_is_named(target: str, gcc: str, nearest: str) -> None:
    found = microarch.resolve(target, gcc)
    assert found == Resolution(target=target, nearest=nearest, reason=f"gcc {gcc} cannot produce code for {target}")
    assert not found.possible
    assert microarch.resolve(nearest, gcc).possible
    assert microarch.features(nearest) <= microarch.features(target)


def test_each_target_of_the_matrix_is_possible_or_has_a_nearest_on_each_image() -> None:
    spec = load.load(ROOT / "matrix.yaml")
    for image in spec.images.values():
        for target in GOLDEN.values():
            found = microarch.resolve(target, image.gcc)
            assert (bool(found.flags), bool(found.nearest)) in {(True, False), (False, True)}
            assert found.possible is bool(found.flags)


def test_only_x86_64_is_known() -> None:
    known = microarch.known()
    assert {"x86_64", "x86_64_v4", "zen5", "haswell"} <= known
    assert not known & {"i686", "aarch64", "power9le", "pentium4"}


def test_features_are_spelled_as_the_kernel_does() -> None:
    for target in microarch.known():
        flags = microarch.kernel_flags(target)
        assert "sse3" not in flags
        assert "flush_l1d" not in flags
        assert ("pni" in flags) is ("sse3" in microarch.features(target) or "pni" in microarch.features(target))
        assert flags - {"pni"} <= microarch.features(target) - {"sse3", "pni", "flush_l1d"}


def test_a_cpu_that_lost_a_feature_of_its_ancestor_gets_no_code_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = microarch.features

    def without_f16c(name: str) -> frozenset[str]:
        return real(name) - {"f16c"} if name == "haswell" else real(name)

    monkeypatch.setattr(microarch, "features", without_f16c)
    common_target = microarch.common_target.__wrapped__
    assert common_target(("ivybridge", "skylake")) == "ivybridge"
    assert common_target(("ivybridge", "haswell")) == "sandybridge", "ivybridge has f16c, too"
