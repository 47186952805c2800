"""What code may assume of a target's hosts: the table against compilers, and against /proc/cpuinfo of real machines.

`cpuinfo_samples.csv` holds the flags of machines, as far as the table knows them, each with its source: archspec's own
samples (Apache-2.0 or MIT), without flags that no Linux has, and public listings for the CPUs that it has none of.
`gcc_macros.csv` holds the features whose macros compilers predefine for targets (those of matrix.yaml, and Arrow Lake)
with archspec's plain flags: what `cc1 -E -quiet -dM FLAGS /dev/null` of Debian's packages cpp-N prints; of gcc 4.8,
which none has, by its source.
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path
from typing import get_args

import pytest
from packaging.version import Version
from unit.helpers import ROOT

from pikaforge.audit.allowed_features import Allowed, from_archspec, from_macros, of_baseline
from pikaforge.config import load
from pikaforge.config.schema import Spec
from pikaforge.cpu import emulation, microarch
from pikaforge.cpu.features import FOLDER, NEVER, Cause, Feature, table, ungated

HERE = Path(__file__).parent
MATRIX = ROOT / "matrix.yaml"


@lru_cache(maxsize=1)
def spec() -> Spec:
    return load.load(MATRIX)


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def samples(cpus: tuple[str, ...]) -> list[dict[str, str]]:
    """Samples of some CPUs; of a psABI level those of all its descendants."""
    levels = {cpu for cpu in cpus if cpu.startswith("x86_64")}
    return [
        row for row in rows("cpuinfo_samples.csv")
        if row["cpu"] in cpus or (levels == set(cpus) and levels & set(microarch.ancestors(row["cpu"])))
    ]  # fmt: skip


def missing(ids: frozenset[str], sample: dict[str, str]) -> set[str]:
    """The features that a sample does not show, although its Linux could."""
    flags = set(sample["flags"].split())
    return {
        name for name in ids
        if not (feature := table()[name]).free and feature.kernel not in flags
        and not (feature.linux not in ("", NEVER) and sample["linux"]
                 and Version(sample["linux"]) < Version(feature.linux))
    }  # fmt: skip


def given(macros: str) -> list[str]:
    return [f"#define {table()[name].gcc} 1" for name in macros.split()]


def judged() -> list[Feature]:
    return [feature for feature in table().values() if not feature.free]


# --- the table by itself ----------------------------------------------------------------------------------------------


def test_every_line_has_as_many_fields_as_the_first() -> None:
    with (FOLDER / "features.csv").open(encoding="utf-8", newline="") as stream:
        assert len({len(fields) for fields in csv.reader(stream)}) == 1


def test_every_line_names_known_things() -> None:
    known = microarch.known()
    for feature in table().values():
        assert {*feature.lineages, *feature.given, *feature.used_from} <= known, feature.id
        assert {absence.lineage for absence in feature.absent} <= {"", *known}, feature.id
        assert {absence.cause for absence in feature.absent} <= set(get_args(Cause)), feature.id
        assert re.fullmatch(rf"([0-9]+\.[0-9]+|{NEVER})?", feature.linux), feature.id
        assert bool(feature.option) == bool(feature.given), feature.id
        assert not (feature.free and (feature.absent or feature.linux or feature.given)), feature.id


def test_a_kernel_that_must_switch_a_feature_on_has_a_version() -> None:
    for feature in judged():
        if any(absence.cause == "kernel" for absence in feature.absent):
            assert re.fullmatch(r"[0-9.]+", feature.linux), feature.id
        if feature.reason.startswith("privileged"):
            assert any(absence.cause == "privilege" for absence in feature.absent), feature.id


@pytest.mark.parametrize("target", sorted(microarch.known()))
def test_the_gate_sees_all_that_code_may_assume(target: str) -> None:
    hosts = microarch.hosts(target)
    for feature in judged():
        if hosts.standing(feature) != "refused":
            assert feature.kernel, feature.id
            assert hosts.have(feature), feature.id
            assert not feature.ungated, feature.id
        assert bool(hosts.objection(feature)) is (hosts.standing(feature) != "assumed"), feature.id


def test_every_feature_without_a_flag_is_told_with_a_reason() -> None:
    blind = {feature.id for feature in judged() if not feature.kernel}
    assert blind <= set(ungated(table())) and {"uintr", "ptwrite", "kl"} <= blind
    assert list(ungated(["uintr", "avx2", "invalid", "fsgsbase"])) == ["fsgsbase", "uintr"]
    assert "5.9" in ungated(["fsgsbase"])["fsgsbase"]


# --- what compilers say wrongly -------------------------------------------------------------------------------------

WRONG = [
    ("avx512_vp2intersect", "sapphirerapids", "not all of these CPUs have it"),
    ("sgx1", "skylake_avx512", "not all of these CPUs have it"),
    ("uintr", "sapphirerapids", "Linux has no support for it"),
    ("fsgsbase", "haswell", "it faults under kernels before Linux 5.9"),
    ("fsgsbase", "zen2", "it faults under kernels before Linux 5.9"),
    ("pku", "skylake_avx512", "it faults under kernels before Linux 4.6"),
    ("pku", "zen4", "it faults under kernels before Linux 4.6"),
    ("tsxldtrk", "sapphirerapids", "not all of these CPUs have it"),
    ("enqcmd", "sapphirerapids", "it faults under kernels before Linux 5.18"),
    ("ptwrite", "sapphirerapids", "/proc/cpuinfo has no flag for it"),
    ("pconfig", "icelake", "it is privileged"),
    ("wbnoinvd", "zen2", "it is privileged"),
    ("xsaves", "zen", "it is privileged"),
    ("amx_tile", "sapphirerapids", "it faults under kernels before Linux 5.16"),
    ("kl", "alderlake", "Linux has no support for it"),
    ("uintr", "arrowlake", "Linux has no support for it"),
    ("avx_ifma", "arrowlake", "/proc/cpuinfo has no flag for it"),
    ("avx_vnni_int8", "arrowlake", "/proc/cpuinfo has no flag for it"),
    ("sha512", "arrowlake_s", "/proc/cpuinfo has no flag for it"),
    ("hreset", "alderlake", "it is privileged"),
    ("lwp", "bulldozer", "Linux has no support for it"),
    ("mpx", "skylake_avx512", "Linux has no support for it"),
    ("rtm", "haswell", "not all of these CPUs have it"),
    ("avx2", "sandybridge", "not all of these CPUs have it"),
    ("cet_ss", "sandybridge", "it faults under kernels before Linux 6.6"),
]


@pytest.mark.parametrize(("feature", "target", "why"), WRONG)
def test_what_a_compiler_gives_wrongly_is_refused(feature: str, target: str, why: str) -> None:
    lines = [f"#define {table()[feature].gcc} 1", "#define __SSE4_2__ 1"]
    found = from_macros(lines, target)
    assert feature not in found.sure | found.doubtful
    assert found.refused[feature].startswith(why)
    without = from_macros(["#define __SSE4_2__ 1"], target)
    assert (found.sure, found.doubtful) == (without.sure, without.doubtful), "it takes nothing else along"


@pytest.mark.parametrize(
    ("feature", "target"),
    [("avx512_vp2intersect", "zen5"), ("avx512_fp16", "sapphirerapids"), ("xsaveopt", "sandybridge"),
     ("rdpid", "zen2"), ("sha", "zen"), ("monitorx", "zen"), ("cmpxchg16b", "nocona"), ("avx2", "haswell"),
     ("pclmulqdq", "sandybridge"), ("rdrand", "ivybridge"), ("popcnt", "k10"), ("serialize", "sapphirerapids")],
)  # fmt: skip
def test_what_a_compiler_gives_rightly_is_allowed(feature: str, target: str) -> None:
    found = from_macros([f"#define {table()[feature].gcc} 1"], target)
    assert feature in found.sure
    assert feature not in found.objections


def test_what_firmware_switches_off_is_a_warning_that_the_gate_asks_for() -> None:
    lines = ["#define __AES__ 1", "#define __VAES__ 1"]
    assert {"aes", "vaes"} <= from_macros(lines, "icelake").doubtful
    assert "aes" in from_macros(lines, "haswell").doubtful, "gcc 4.8 gives it"
    assert {"aes", "vaes"} <= from_macros(lines, "zen3").sure, "AMD's CPUs have no such switch"
    assert "rdseed" in from_macros(["#define __RDSEED__ 1"], "zen5").doubtful
    assert "rdseed" in from_macros(["#define __RDSEED__ 1"], "zen4").sure


def test_lahf_is_not_in_every_64_bit_cpu() -> None:
    assert not {"lahf", "sahf"} & (from_macros(["#define __SSE3__ 1"], "nocona").sure | of_baseline("x86_64"))
    for target in ("core2", "k10", "x86_64_v2", "sandybridge", "zen4"):
        assert {"lahf", "sahf"} <= from_macros(["#define __SSE3__ 1"], target).sure, target
    assert {"lahf", "sahf"} <= of_baseline("x86_64_v2")


def test_the_table_holds_without_a_compiler_and_for_baselines_too() -> None:
    found = from_archspec("zen4", warning="")
    assert {"fsgsbase", "pku"} <= found.refused.keys()
    assert not {"fsgsbase", "pku"} & (found.sure | found.doubtful)
    assert {"avx512f", "sse4a", "aes"} <= found.sure
    assert {"avx2", "bmi1", "lzcnt", "tzcnt"} <= of_baseline("x86_64_v3")
    assert "fsgsbase" not in of_baseline("zen")


# --- the build's flags ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", sorted(spec().images))
@pytest.mark.parametrize("model", ["R610", "R620", "R720", "KVM", "x86_64_v2", "x86_64_v3", "R670"])
def test_old_targets_and_levels_are_built_as_before(model: str, image: str) -> None:
    target = microarch.common_target(spec().hardware[model].cpus)
    assert not [flag for flag in microarch.resolve(target, spec().images[image].gcc).flags if "-mno-" in flag]


def test_options_are_for_the_gcc_that_knows_them() -> None:
    assert "-mno-mpx" in microarch.resolve("skylake_avx512", "8.5").flags
    assert "-mno-mpx" not in microarch.resolve("skylake_avx512", "9.4").flags
    assert "-mno-fsgsbase" in microarch.resolve("haswell", "4.8.5").flags
    old, new = (microarch.resolve("skylake", gcc).flags for gcc in ("6.3", "8.5"))
    assert ("-mno-sgx" in old, "-mno-sgx" in new) == (False, True)
    flags = microarch.resolve("sapphirerapids", "12.2").flags
    assert {"-mno-uintr", "-mno-amx-tile", "-mno-avx512vp2intersect", "-mno-enqcmd", "-mno-pku"} <= set(flags)
    assert "-mno-avx512vp2intersect" not in microarch.resolve("zen5", "14.2").flags
    assert flags[0] == "-march=sapphirerapids"


def switched(target: str, gcc: str, macros: str) -> set[str]:
    """The features of macros, without those that the resolved flags switch off."""
    flags = microarch.resolve(target, gcc).flags
    off = {
        f.id for f in table().values()
        if f.option is not None and (option := f.option.off(Version(gcc))) and option in flags
    }  # fmt: skip
    return set(macros.split()) - off


def sweep() -> list[dict[str, str]]:
    return rows("gcc_macros.csv")


@pytest.mark.parametrize("row", sweep(), ids=lambda row: f"{row['gcc']}-{row['target']}")
def test_compiler_and_table_agree_by_construction(row: dict[str, str]) -> None:
    """Nothing that the table refuses is left among the macros of a build; and no more is switched off."""
    hosts = microarch.hosts(row["target"])
    left = switched(row["target"], row["gcc"], row["features"])
    refused = {name for name in row["features"].split() if hosts.standing(table()[name]) == "refused"}
    assert {name for name in left if hosts.standing(table()[name]) == "refused"} == set()
    assert left == set(row["features"].split()) - refused


def test_the_sweep_has_every_compiler_and_target_of_the_matrix() -> None:
    found = {(Version(row["gcc"]).major, row["target"]) for row in sweep()}
    wanted = {
        (Version(image.gcc).major, microarch.common_target(model.cpus))
        for image in spec().images.values() for model in spec().hardware.values()
        if microarch.resolve(microarch.common_target(model.cpus), image.gcc).possible
    }  # fmt: skip
    assert {major for major, _ in wanted - found} == {8}, "no system here has it; it lies between 4.8 and 9"


# --- real machines --------------------------------------------------------------------------------------------------


def allow_lists(target: str) -> list[Allowed]:
    """The allow-lists of a target, by the macros of every compiler that can produce it, and without one."""
    found = [from_macros(given(row["features"]), target) for row in sweep() if row["target"] == target]
    return [*found, from_archspec(target, warning="")]


@pytest.mark.parametrize("model", sorted(spec().hardware))
def test_what_is_allowed_for_a_model_is_in_every_sample_of_its_cpus(model: str) -> None:
    cpus = spec().hardware[model].cpus
    target = microarch.common_target(cpus)
    found = samples(cpus)
    assert found, "each model has a sample"
    for sample in found:
        for allowed in allow_lists(target):
            assert missing(allowed.sure, sample) == set(), (sample["model"], allowed.source)


CUT = {"Intel(R) Core(TM) i3-3220 CPU @ 3.30GHz": {"rdrand"}}
"""What Intel cut out of a desktop CPU that no model of the matrix has."""


@pytest.mark.parametrize("sample", rows("cpuinfo_samples.csv"), ids=lambda row: f"{row['cpu']}-{row['model']}")
def test_what_any_target_may_assume_is_in_every_sample_of_it(sample: dict[str, str]) -> None:
    assert missing(microarch.hosts(sample["cpu"]).assumed(), sample) == CUT.get(sample["model"], set())


@pytest.mark.parametrize("model", sorted(spec().hardware))
def test_each_cpu_of_a_model_has_a_sample(model: str) -> None:
    without = {cpu for cpu in spec().hardware[model].cpus if not samples((cpu,))}
    assert without == set()


def test_the_samples_catch_what_compilers_say_wrongly() -> None:
    """The control of the test above: with the compilers' word alone it would fail, for these features."""
    wrong: dict[str, set[str]] = {}
    for row in sweep():
        for sample in samples((row["target"],)):
            if lacking := missing(frozenset(row["features"].split()), sample):
                wrong.setdefault(row["target"], set()).update(lacking)
    assert {"avx512_vp2intersect", "uintr", "ptwrite", "sgx1"} <= wrong["sapphirerapids"]
    assert "xsaves" in wrong["skylake_avx512"]
    assert "aes" in wrong["haswell"], "by gcc 4.8"


def test_samples_name_their_source_and_licence() -> None:
    known = {feature.kernel for feature in table().values()} | {"pku", "hypervisor"}
    for row in rows("cpuinfo_samples.csv"):
        assert row["source"] and row["licence"] in ("Apache-2.0 OR MIT", "Apache-2.0", "facts"), row
        assert set(row["flags"].split()) <= known, row["model"]
        assert row["cpu"] in microarch.known(), row
        assert "lm" in row["flags"].split(), row


# --- machines that choose a package, or run the tests ---------------------------------------------------------------


UNUSED = {"fsgsbase", "pku", "amx_tile", "amx_int8", "amx_bf16", "flush_l1d", "tsc_adjust"}


@pytest.mark.parametrize("model", sorted(spec().hardware))
def test_every_sample_of_a_model_runs_its_packages(model: str) -> None:
    """By what utils/detect-model.sh and the CPU gate's advice ask for; the firmware of one sample has AES off."""
    cpus = spec().hardware[model].cpus
    for sample in samples(cpus):
        assert emulation.lacking(microarch.common_target(cpus), frozenset(sample["flags"].split())) == (), sample


@pytest.mark.parametrize("target", sorted({row["target"] for row in sweep()}))
def test_what_compiled_code_uses_is_asked_for(target: str) -> None:
    """Whatever archspec and a compiler give, but for what may not be assumed, and AES by gcc 4.8 alone."""
    asked = microarch.kernel_flags(target)
    for row in sweep():
        if row["target"] == target:
            allowed = from_macros(given(row["features"]), target)
            used = {
                table()[name].kernel
                for name in allowed.sure | allowed.doubtful
                if table()[name].archspec in microarch.features(target) and not table()[name].free
                and not (row["gcc"] == "4.8.5" and name == "aes") and name in row["features"].split()
            }  # fmt: skip
            assert used <= asked, row["gcc"]
    assert not asked & UNUSED
    assert {"avx512f", "aes", "vaes"} <= microarch.kernel_flags("icelake")


def test_a_machine_may_lack_what_no_program_assumes() -> None:
    flags = microarch.kernel_flags("sapphirerapids")
    assert not flags & UNUSED
    assert emulation.lacking("sapphirerapids", flags - {"avx512_bf16"}) == ("avx512_bf16",)
    assert emulation.lacking("haswell", microarch.kernel_flags("haswell") - {"avx2"}) == ("avx2",)
