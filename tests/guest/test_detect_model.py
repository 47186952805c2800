"""The script that finds a machine's model: what it chooses, what it says, what it writes.

Machines are folders below which there is what the script reads of a machine, given by --root; their CPUs are the texts
under cpuinfo/ (see test_cpu_gate).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from guest.helpers import SHELLS, clean_env, need, sh

from pikaforge.config import load
from pikaforge.config.schema import Model, Spec
from pikaforge.cpu import microarch
from pikaforge.formats import client_lines, payload
from pikaforge.formats.deb import client as deb_client
from pikaforge.formats.rpm import client as rpm_client
from pikaforge.host.machine import os_release
from pikaforge.plan import matrix
from pikaforge.publish import client_config

ROOT = Path(__file__).resolve().parents[2]
CPUINFO = Path(__file__).parent / "cpuinfo"
URL = "https://packages.example.org/forge"
KEY = (
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: Jo's key, $(touch x)\n\n"
    "mDMEZXhhbXBsZRYJKwYBBAHaRw8BAQdA\nZm9yZ2UK\n=AbCd\n-----END PGP PUBLIC KEY BLOCK-----\n"
)
BARE = KEY.replace("Comment: Jo's key, $(touch x)\n", "")
DL380 = "ProLiant DL380 Gen9"
SYSTEMS = {
    "debian12": ("debian", "12"),
    "el7": ("centos", "7"),
    "el9": ("rocky", "9.4"),
    "ubuntu2204": ("ubuntu", "22.04"),
}
HASWELL, IVY = "haswell-e5-2670-v3", "ivybridge-e5-2670-v2"
ICELAKE, QEMU = "icelake-platinum-8358", "kvm-qemu64"


@pytest.fixture(scope="module")
def spec() -> Spec:
    """matrix.yaml, and a model whose machines call themselves otherwise."""
    real = load.load(ROOT / "matrix.yaml")
    other = Model(cpus=("haswell", "broadwell"), dmi=(DL380, "HP DL380g9 (test)"))
    return real.model_copy(update={"hardware": {**real.hardware, "DL380-Gen9": other}})


@pytest.fixture(scope="module")
def whole(spec: Spec) -> Mapping[str, Sequence[str]]:
    """All models that can be built, by image."""
    found: dict[str, list[str]] = {}
    for cell in matrix.all_cells(spec):
        if not cell.problem and cell.model not in found.setdefault(cell.image, []):
            found[cell.image].append(cell.model)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine's files, and the script."""

    root: Path
    script: Path

    def ask(
        self, *arguments: str | Path, shell: str = "dash", text: str = "", env: Mapping[str, str] | None = None
    ) -> CompletedProcess[str]:
        """Run the script about this machine."""
        need(SHELLS[shell][0])
        command = (*SHELLS[shell], self.script, "--root", self.root, *arguments)
        return sh(*command, env=clean_env(**(env or {})), text=text, cwd=self.root)

    def model(self, *arguments: str | Path, shell: str = "dash") -> str:
        """The model that it finds, silently."""
        done = self.ask("--print", *arguments, shell=shell)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def put(self, path: str, content: str | bytes) -> Path:
        """A file of the machine."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    @property
    def variable(self) -> Path:
        return self.root / "etc/yum/vars/pikamodel"

    @property
    def sources(self) -> Path:
        return self.root / "etc/apt/sources.list.d/pika.list"

    def written(self) -> set[str]:
        """All that there is but what machines have of their own."""
        files = {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if not path.is_dir()}
        return {name for name in files if not name.startswith(("sys/", "proc/")) and name != "etc/os-release"}


Make = Callable[..., Machine]


Script = Callable[[Mapping[str, Sequence[str]] | None, str | None], bytes]


@pytest.fixture(scope="module")
def script(spec: Spec, whole: Mapping[str, Sequence[str]]) -> Script:
    """The script for what is published, and the key; most tests want the same one."""
    made: dict[str, bytes] = {}

    def script_for(published: Mapping[str, Sequence[str]] | None, key: str | None) -> bytes:
        name = repr((published, key))
        if name not in made:
            made[name] = client_config.detect_script(
                spec,
                whole if published is None else published,
                base_url=URL,
                key_name="forge.asc",
                key=key,
                apt=("debian12", "ubuntu2204"),
            )
        return made[name]

    return script_for


@pytest.fixture
def make(script: Script, tmp_path: Path) -> Make:
    def made(
        dmi: str | bytes | None = None,
        cpu: str = "",
        image: str = "debian12",
        *,
        published: Mapping[str, Sequence[str]] | None = None,
        key: str | None = KEY,
    ) -> Machine:
        path = tmp_path / "script" / "detect-model.sh"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(script(published, key))
        machine = Machine(root=tmp_path / "machine", script=path)
        name, version = SYSTEMS[image]
        machine.put("etc/os-release", f'NAME="A {name}"\nID={name}\nVERSION_ID="{version}"\n')
        if dmi is not None:
            machine.put("sys/class/dmi/id/product_name", dmi if isinstance(dmi, bytes) else f"{dmi}\n")
        if cpu:
            machine.put("proc/cpuinfo", (CPUINFO / f"{cpu}.txt").read_bytes())
        return machine

    return made


# --- which model


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("dmi", "model"),
    [
        ("PowerEdge R620", "R620"),
        ("poweredge r620", "R620"),
        ("R620", "R620"),
        ("  PowerEdge   R620  ", "R620"),
        ("PowerEdge R620 (SKU=NotProvided;ModelName=R620)", "R620"),
        ("Dell/R620,Rack", "R620"),
        ("KVM", "KVM"),
        ("Generic X86_64_V2 node", "x86_64_v2"),
        # These are no whole words; the CPUs' best is R630's.
        ("PowerEdge R6200", "R630"),
        ("PowerEdge R620xd", "R630"),
        ("PowerEdge XR620", "R630"),
        ("PowerEdge R620-II", "R630"),
        ("PowerEdge R62", "R630"),
        ("To be filled by O.E.M.", "R630"),
        ("", "R630"),
        ("R*", "R630"),
        ("[R]620", "R630"),
    ],
)
def test_the_name_decides_as_a_whole_word(make: Make, dmi: str, model: str, shell: str) -> None:
    assert make(dmi, HASWELL).model(shell=shell) == f"{model}\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("dmi", "model"),
    [
        (DL380, "DL380-Gen9"),
        ("PROLIANT  dl380 gen9 ", "DL380-Gen9"),
        ("HP DL380g9 (test)", "DL380-Gen9"),
        ("Server DL380-Gen9", "DL380-Gen9"),
        # Another machine: its name only begins like that one.
        (f"{DL380} Plus", "R630"),
        (f"Not {DL380}", "R630"),
        ("HP DL380g9", "R630"),
    ],
)
def test_other_names_of_a_model_are_whole(make: Make, dmi: str, model: str, shell: str) -> None:
    assert make(dmi, HASWELL).model(shell=shell) == f"{model}\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("cpu", "image", "model"),
    [
        ("nehalem-x5570", "debian12", "R610"),
        ("kvm-westmere", "debian12", "R610"),
        ("sandybridge-e5-2670", "debian12", "R620"),
        (IVY, "debian12", "R620"),
        (HASWELL, "debian12", "R630"),
        ("skylake-gold-6130", "debian12", "R640"),
        (ICELAKE, "debian12", "R650"),
        ("zen2-epyc-7302", "debian12", "R6515"),
        ("zen4-epyc-9554", "debian12", "R6615"),
        ("unlike-haswell-ivybridge", "debian12", "R620"),
        # gcc 4.8.5 makes nothing for these.
        (ICELAKE, "el7", "R630"),
        ("zen2-epyc-7302", "el7", "R630"),
    ],
)
def test_without_a_name_the_best_that_all_cpus_run(make: Make, cpu: str, image: str, model: str, shell: str) -> None:
    assert make(None, cpu, image).model(shell=shell) == f"{model}\n"


@pytest.mark.parametrize(
    ("models", "model"),
    [
        (["R770", "R670", "x86_64_v3"], "x86_64_v3"),  # called like the target: such a machine is neither of the others
        (["R770", "R670"], "R670"),  # the matrix's order
    ],
)
def test_of_models_with_one_target(make: Make, models: list[str], model: str) -> None:
    assert make(None, "zen2-epyc-7302", published={"debian12": models}).model() == f"{model}\n"


def test_agrees_with_set_arithmetic(make: Make, spec: Spec, whole: Mapping[str, Sequence[str]]) -> None:
    """Whichever models are published: every flag of the choice is there, and no more demanding one would do."""
    target = {cell.model: cell.target for cell in matrix.all_cells(spec) if cell.image == "debian12"}
    for step in (1, 2, 3, 5):
        models = whole["debian12"][::step]
        machine = make(published={"debian12": models})
        for path in sorted(CPUINFO.glob("*.txt")):
            lines = [line for line in path.read_text().splitlines() if line.startswith("flags")]
            if not lines or path.stem == "truncated":
                continue
            common = set.intersection(*(set(line.partition(":")[2].split()) for line in lines))
            fits = [m for m in models if set(payload.target_flags(target[m])) <= common]
            done = machine.ask("--print", "--cpuinfo", path)
            assert done.returncode == (0 if fits else 1), (path.name, step, done.stderr)
            if fits:
                best = max(microarch.demand(target[m]) for m in fits)
                chosen = done.stdout.rstrip("\n")
                assert chosen in fits
                assert microarch.demand(target[chosen]) == best, (path.name, step)


@pytest.mark.parametrize("shell", SHELLS)
class TestTheCpusWin:
    def test_over_a_name_that_promises_more(self, make: Make, shell: str) -> None:
        done = make("PowerEdge R650", IVY).ask("--print", shell=shell)
        assert (done.returncode, done.stdout) == (0, "R620\n")
        assert "WARNING: the DMI product name 'PowerEdge R650' says R650, but the CPUs lack" in done.stderr
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("  need (icelake): "))
        flags = (CPUINFO / f"{IVY}.txt").read_text().partition("\nflags")[2].partition("\n")[0]
        missing = set(payload.target_flags("icelake")) - set(flags.split())
        assert set(line.removeprefix("  need (icelake): ").split()) == missing

    def test_where_one_of_several_lacks(self, make: Make, shell: str) -> None:
        done = make("PowerEdge R630", "unlike-haswell-ivybridge").ask("--print", shell=shell)
        assert (done.returncode, done.stdout) == (0, "R620\n")
        assert "need (haswell): abm avx2 bmi1 bmi2 fma movbe\n" in done.stderr

    def test_what_several_lack_is_said_once(self, make: Make, shell: str) -> None:
        cpus = [(CPUINFO / f"{cpu}.txt").read_text() for cpu in (IVY, "sandybridge-e5-2670", "nehalem-x5570")]
        done = make("PowerEdge R630", published={"debian12": ["R630", "R610"]}).ask(
            "--print", "--cpuinfo", "-", shell=shell, text="".join(cpus)
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "R610\n")
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("  need (haswell): "))
        lack = line.removeprefix("  need (haswell): ").split()
        assert len(lack) == len(set(lack))
        assert {"avx2", "f16c", "pclmulqdq"} <= set(lack), "each lacks one of these that one before it has"

    @pytest.mark.parametrize(
        ("cpu", "off", "model"),
        [
            ("zen2-epyc-7302", "fsgsbase", "R6525"),  # booted with nofsgsbase
            (HASWELL, "aes", "R630"),  # by firmware, as archspec's sample of Xeon E5-2680 v3
            (HASWELL, "avx2", ""),
            (ICELAKE, "aes", ""),  # compilers use it from skylake on
        ],
    )
    def test_not_for_what_compiled_code_does_not_use(
        self, make: Make, cpu: str, off: str, model: str, shell: str
    ) -> None:
        text = (CPUINFO / f"{cpu}.txt").read_text().replace(f" {off} ", " ")
        name = model or {HASWELL: "R630", ICELAKE: "R650"}[cpu]
        done = make(f"PowerEdge {name}").ask("--print", "--cpuinfo", "-", shell=shell, text=text)
        assert done.returncode == 0
        assert (done.stdout == f"{name}\n", bool(done.stderr)) == (bool(model), not model)

    def test_a_virtual_machine_is_told_why(self, make: Make, shell: str) -> None:
        hint = "this is a virtual machine"
        done = make("PowerEdge R630", "kvm-westmere").ask("--print", shell=shell)
        assert (done.returncode, done.stdout, hint in done.stderr) == (0, "R610\n", True)
        assert hint not in make("PowerEdge R630", IVY).ask(shell=shell).stderr

    def test_not_over_a_name_that_promises_less(self, make: Make, shell: str) -> None:
        """An operator may have one build for all machines of a model, whatever was put into some of them."""
        assert make("PowerEdge R620", ICELAKE).model(shell=shell) == "R620\n"


@pytest.mark.parametrize("shell", SHELLS)
class TestWhatIsPublished:
    def test_a_model_that_is_not(self, make: Make, shell: str) -> None:
        done = make("PowerEdge R650", ICELAKE, published={"debian12": ["R620", "R640"]}).ask("--print", shell=shell)
        assert (done.returncode, done.stdout) == (0, "R640\n")
        assert (
            "note: this is R650 by its DMI product name 'PowerEdge R650', for which nothing is published\n"
            in done.stderr
        )
        assert "  for debian12; going by the CPUs\n" in done.stderr

    def test_a_model_that_is_for_another_image(self, make: Make, shell: str) -> None:
        published = {"debian12": ["R620"], "el7": ["R630"]}
        done = make("PowerEdge R630", HASWELL, published=published).ask("--print", shell=shell)
        assert (done.returncode, done.stdout) == (0, "R620\n")
        assert "note: this is R630" in done.stderr
        done = make("PowerEdge R630", HASWELL, published=published).ask("--print", "--image", "el7", shell=shell)
        assert (done.returncode, done.stdout, done.stderr) == (0, "R630\n", "")

    def test_of_two_names_the_one_that_is(self, make: Make, shell: str) -> None:
        published = {"debian12": ["R630", "R620"]}
        assert make("R720 or R620", HASWELL, published=published).model(shell=shell) == "R620\n"

    def test_a_model_that_the_matrix_has_no_more(self, make: Make, shell: str) -> None:
        """It is found by its name, and never chosen by CPUs: nothing is known of them."""
        published = {"debian12": ["R410", "R620"]}
        done = make("PowerEdge R410", published=published).ask("--print", shell=shell)
        assert (done.returncode, done.stdout) == (0, "R410\n")
        assert "need is not known any more" in done.stderr
        assert make("PowerEdge R420", IVY, published=published).model(shell=shell) == "R620\n"
        done = make("PowerEdge R420", IVY, published={"debian12": ["R410"]}).ask(shell=shell)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no model of debian12 can be chosen by the CPUs" in done.stderr

    def test_nothing_for_this_system(self, make: Make, shell: str) -> None:
        done = make("PowerEdge R620", IVY, published={"el7": ["R620"]}).ask(shell=shell)
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            "nothing is published for debian12, which this operating system is\n  hint: there is: el7\n" in done.stderr
        )

    def test_nothing_at_all(self, make: Make, shell: str) -> None:
        assert make("PowerEdge R620", IVY, published={}).ask(shell=shell).returncode == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_fits(make: Make, shell: str) -> None:
    machine = make(None, QEMU, published={"debian12": ["R630", "R620"]})
    done = machine.ask(shell=shell)
    assert (done.returncode, done.stdout, machine.written()) == (1, "", set())
    assert done.stderr.splitlines() == [
        "detect-model: error: these CPUs run nothing that is published for debian12",
        "  the least demanding builds (sandybridge) need what they lack: avx pclmulqdq popcnt sse4_1 sse4_2 ssse3",
        "  hint: this is a virtual machine; its CPU model may hide what the host can do",
    ]


# --- what it is asked about


@pytest.mark.parametrize("shell", SHELLS)
class TestSystem:
    @pytest.mark.parametrize(
        ("text", "image"),
        [
            ("ID=debian\nVERSION_ID=12\n", "debian12"),
            ("VERSION_ID='12.1'\nID='debian'\n", "debian12"),
            ('ID="debian"\r\nVERSION_ID="12"\r\n', "debian12"),
            ("ID=debian\nVERSION_ID=12", "debian12"),
            ('ID="ubuntu"\nID_LIKE=debian\nVERSION_ID="22.04"\n', "ubuntu2204"),
            ('ID="rhel"\nVERSION_ID="7.9"\n', "el7"),
            ('ID="centos"\nVERSION_ID="7"\n', "el7"),
            ('ID="almalinux"\nVERSION_ID="8.10"\n', "el8"),
            ('ID="ol"\nVERSION_ID="9.4"\n', "el9"),
            ("ID=rocky\nVERSION_ID=9\n", "el9"),
            ("ID=debian\nVERSION_ID=120\n", ""),
            ("ID=debian\nVERSION_ID=1\n", ""),
            ("ID=debian\n", ""),
            ("ID=mint\nID_LIKE=debian\nVERSION_ID=12\n", ""),
            ("ID=fedora\nVERSION_ID=9\n", ""),
            ("ID=ubuntu\nVERSION_ID=22.10\n", ""),
            ("OTHER_ID=debian\nVERSION_ID=12\n", ""),
            ("", ""),
            ("ID=$(touch x)\nVERSION_ID=`touch x`\nID='; touch x'\n", ""),
        ],
    )
    def test_by_id_and_version(self, make: Make, text: str, image: str, shell: str, spec: Spec) -> None:
        """Each image has a model of its own here, which tells which was taken; `os_release` says the same."""
        models = dict(zip(spec.images, spec.hardware, strict=False))
        machine = make(None, "zen4-epyc-9554", published={name: [model] for name, model in models.items()})
        path = machine.put("etc/os-release", text)
        assert matrix.matching_image(spec, os_release(path)) == image
        if image:
            done = machine.ask(shell=shell)
            assert f" is {models[image]} of {image}, " in done.stdout, done.stderr
            assert machine.variable.read_text() == f"{models[image]}\n"
        else:
            done = machine.ask(shell=shell)
            assert (done.returncode, done.stdout) == (2, "")
            assert "names no operating system that there are packages for" in done.stderr
            assert "--image: el7 el8 el9" in done.stderr
            assert not list(machine.root.rglob("x"))

    def test_without_the_file(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY)
        (machine.root / "etc/os-release").unlink()
        done = machine.ask(shell=shell)
        assert (done.returncode, "no ID no VERSION_ID" in done.stderr) == (2, True)
        assert machine.model("--image", "debian12", shell=shell) == "R620\n"

    @pytest.mark.parametrize("image", ["debian99", "debian1", "*", "debian12 el7"])
    def test_unknown_ones(self, make: Make, image: str, shell: str) -> None:
        done = make("PowerEdge R620", IVY).ask("--image", image, shell=shell)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"nothing is published for an image '{image}'\n  hint: there is: el7 el8 " in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
class TestMachine:
    def test_the_other_place_of_the_name(self, make: Make, shell: str) -> None:
        machine = make(None, HASWELL)
        machine.put("sys/devices/virtual/dmi/id/product_name", "PowerEdge R620\n")
        assert machine.model(shell=shell) == "R620\n"
        machine.put("sys/class/dmi/id/product_name", "\n")
        assert machine.model(shell=shell) == "R620\n", "an empty one says nothing"
        machine.put("sys/class/dmi/id/product_name", "PowerEdge R610\n")
        assert machine.model(shell=shell) == "R610\n", "the first one comes first"

    def test_odd_names_are_data(self, make: Make, shell: str) -> None:
        name = "*\x1b]0;R620\x07 $(touch x) `touch x` é '\"\\ %s R650"
        machine = make(name.encode(), IVY)
        done = machine.ask(shell=shell)
        assert done.returncode == 0
        assert "'* ]0;R620 $(touch x) `touch x` '\"\\ %s R650'" in done.stdout, "R620 is a word of it"
        assert machine.variable.read_text() == "R620\n"
        assert not list(machine.root.rglob("x"))

    @pytest.mark.parametrize(("length", "model"), [(256, "R610"), (257, "R620"), (4000, "R620")])
    def test_a_long_name(self, make: Make, length: int, model: str, shell: str) -> None:
        """No machine has one of more than 64 letters; what is longer says nothing."""
        assert make("R610".rjust(length, "/"), IVY).model(shell=shell) == f"{model}\n"

    @pytest.mark.parametrize("dmi", ["PowerEdge R630", None])
    def test_no_cpuinfo(self, make: Make, dmi: str | None, shell: str) -> None:
        """A name alone is no proof."""
        machine = make(dmi)
        done = machine.ask(shell=shell)
        assert (done.returncode, done.stdout, machine.written()) == (2, "", set())
        assert f"{machine.root}/proc/cpuinfo cannot be read" in done.stderr
        assert "--cpuinfo FILE" in done.stderr

    @pytest.mark.parametrize("cpu", ["arm-neoverse-n1", "truncated"])
    def test_odd_cpuinfo(self, make: Make, cpu: str, shell: str) -> None:
        machine = make("PowerEdge R620", cpu)
        done = machine.ask(shell=shell)
        assert (done.returncode, done.stdout, machine.written()) == (2, "", set())
        words = {"arm-neoverse-n1": "has no line of flags", "truncated": "has flags of 1 of 2 processors"}[cpu]
        assert f"cannot tell what the CPUs can do: {machine.root}/proc/cpuinfo {words}" in done.stderr

    def test_cut_within_the_flags(self, make: Make, shell: str) -> None:
        text = (CPUINFO / f"{HASWELL}.txt").read_text()
        done = make("PowerEdge R630").ask(
            "--cpuinfo", "-", shell=shell, text=text[: text.rindex(" bmi1") + 3]
        )  # fmt: skip
        assert (done.returncode, "ends within a line of flags" in done.stderr) == (2, True)

    def test_lines_of_flags_alone_and_carriage_returns(self, make: Make, shell: str) -> None:
        flags = (CPUINFO / f"{HASWELL}.txt").read_text().partition("\nflags")[2].partition("\n")[0]
        done = make().ask("--print", "--cpuinfo", "-", shell=shell, text=f"flags{flags}\r\nflags{flags}\r\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "R630\n", "")

    def test_only_whole_words_count(self, make: Make, shell: str, spec: Spec) -> None:
        """avx2 is not avx, and lines of other names are none of flags."""
        wanted = payload.target_flags("sandybridge")
        machine = make("PowerEdge R620", published={"debian12": ["R620"]})
        for flag in wanted:
            others = [f"{word}2" if word == flag else word for word in wanted]
            text = f"processor\t: 0\nflags\t\t: {' '.join(others)}\nvmx flags\t: {flag}\nbugs\t\t: {flag}\n"
            done = machine.ask("--cpuinfo", "-", shell=shell, text=text)
            assert (done.returncode, f"lack: {flag}\n" in done.stderr) == (1, True), flag
        for order, end in ((wanted, "\n"), (wanted[::-1], "\n"), (wanted, "\r\n"), (wanted[::-1], "\r\n")):
            text = f"processor\t: 0{end}flags\t\t: {' '.join(order)}{end}"
            assert machine.ask("--cpuinfo", "-", shell=shell, text=text).returncode == 0, (order, end)

    def test_cpuinfo_is_not_below_root(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R630", IVY)
        assert machine.model("--cpuinfo", CPUINFO / f"{HASWELL}.txt", shell=shell) == "R630\n"


# --- what it writes


@pytest.mark.parametrize("shell", SHELLS)
class TestYumVariable:
    def test_is_written(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY, "el9")
        done = machine.ask(shell=shell)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "detect-model: this machine is R620 of el9, by its DMI product name 'PowerEdge R620'",
            f"detect-model: wrote {machine.variable}",
        ]
        assert machine.written() == {"etc/yum/vars/pikamodel"}
        assert machine.variable.read_bytes() == b"R620\n"
        assert machine.variable.name == rpm_client.yum_variable("pika")

    def test_by_the_cpus(self, make: Make, shell: str) -> None:
        done = make(None, IVY, "el9").ask(shell=shell)
        assert "this machine is R620 of el9, by its CPUs, the best that all of them run (sandybridge)\n" in done.stdout

    @pytest.mark.parametrize("mask", [0o000, 0o077])
    def test_mode_is_for_all_whatever_the_umask(self, make: Make, mask: int, shell: str) -> None:
        machine = make("PowerEdge R620", IVY)
        before = os.umask(mask)
        try:
            assert machine.ask(shell=shell).returncode == 0
        finally:
            os.umask(before)
        assert stat.S_IMODE(machine.variable.stat().st_mode) == 0o644
        assert stat.S_IMODE(machine.variable.parent.stat().st_mode) == 0o755

    def test_is_not_touched_if_it_says_so_already(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY)
        assert machine.ask(shell=shell).returncode == 0
        before = machine.variable.stat()
        done = machine.ask(shell=shell)
        after = machine.variable.stat()
        assert f"detect-model: there already: {machine.variable}\n" in done.stdout
        assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
            before.st_ino,
            before.st_mtime_ns,
            before.st_ctime_ns,
        )

    @pytest.mark.parametrize("text", ["R630\n", "R6200\n", "R620", "R620\n\n", "", "\nR620\n"])
    def test_is_replaced_by_another_file(self, make: Make, text: str, shell: str) -> None:
        """Beside, then in its place: whoever has the old one open reads that to its end."""
        machine = make("PowerEdge R620", IVY)
        machine.put("etc/yum/vars/pikamodel", text)
        with machine.variable.open() as old:
            assert machine.ask(shell=shell).returncode == 0
            assert old.read() == text
            assert os.fstat(old.fileno()).st_ino != machine.variable.stat().st_ino
        assert machine.written() == {"etc/yum/vars/pikamodel"}, "nothing is left beside"
        assert machine.variable.read_text() == "R620\n"

    def test_print_writes_nothing(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY)
        assert machine.model(shell=shell) == "R620\n"
        assert machine.model("--apt", shell=shell) == "R620\n"
        assert machine.written() == set()
        assert not (machine.root / "etc/yum").exists()

    def test_says_that_it_is_not_for_apt(self, make: Make, shell: str) -> None:
        assert "for apt: --apt" in make("PowerEdge R620", IVY).ask(shell=shell).stdout
        assert "--apt" not in make("PowerEdge R620", IVY, "el9").ask(shell=shell).stdout


@pytest.mark.parametrize("shell", SHELLS)
class TestCannotWrite:
    def check(self, machine: Machine, shell: str, words: str, *options: str) -> None:
        before = machine.written()
        done = machine.ask(*options, shell=shell)
        assert done.returncode == 3, done.stderr
        assert f"detect-model: error: {words}" in done.stderr
        assert "wrote" not in done.stdout
        assert machine.written() == before, "nothing is left beside"

    def test_a_file_where_a_folder_should_be(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY)
        machine.put("etc/yum", "")
        self.check(machine, shell, f"cannot make the folder {machine.variable.parent}")

    def test_a_folder_where_the_file_should_be(self, make: Make, shell: str) -> None:
        """mv would put the file into it."""
        machine = make("PowerEdge R620", IVY)
        machine.variable.mkdir(parents=True)
        self.check(machine, shell, f"cannot write {machine.variable}: it is a folder")

    def test_a_folder_that_takes_no_files(self, make: Make, shell: str) -> None:
        """/proc takes none, not even root's."""
        machine = make("PowerEdge R620", IVY)
        machine.variable.parent.parent.mkdir()
        machine.variable.parent.symlink_to("/proc/self")
        self.check(machine, shell, f"cannot write {machine.variable.parent}/.pikamodel.new.")

    def test_the_move_fails(self, make: Make, shell: str, tmp_path: Path) -> None:
        machine = make("PowerEdge R620", IVY)
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / "mv").write_text("#!/bin/sh\nexit 1\n")
        (tools / "mv").chmod(0o755)
        need(SHELLS[shell][0])
        if shell == "busybox":
            pytest.skip("busybox has an mv within")
        done = machine.ask(shell=shell, env={"PATH": f"{tools}:{clean_env()['PATH']}"})
        assert (done.returncode, machine.written()) == (3, set())
        assert f"cannot put {machine.variable} in place" in done.stderr

    def test_what_is_there_is_not_followed(self, make: Make, shell: str, tmp_path: Path) -> None:
        """A link in place of the variable is replaced, what it leads to stays."""
        machine = make("PowerEdge R620", IVY)
        other = tmp_path / "other"
        other.write_text("kept\n")
        machine.variable.parent.mkdir(parents=True)
        machine.variable.symlink_to(other)
        assert machine.ask(shell=shell).returncode == 0
        assert (other.read_text(), machine.variable.read_text()) == ("kept\n", "R620\n")
        assert not machine.variable.is_symlink()

    def test_nothing_is_written_through_a_link(self, make: Make, shell: str, tmp_path: Path) -> None:
        """One of the name that the new file has until it is in place: it is not ours."""
        machine = make("PowerEdge R620", IVY)
        machine.variable.parent.mkdir(parents=True)
        other = tmp_path / "other"
        other.write_text("kept\n")
        need(SHELLS[shell][0])
        plant = 'ln -s "$0" "$1/.pikamodel.new.$$"; shift; exec "$@"'
        script = (machine.script, "--root", machine.root)
        done = sh("sh", "-c", plant, other, machine.variable.parent, *SHELLS[shell], *script, env=clean_env())
        assert (done.returncode, other.read_text()) == (3, "kept\n"), done.stderr
        assert not machine.variable.exists()

    def test_apt_files(self, make: Make, shell: str) -> None:
        """Without the key no source is written that needs it."""
        machine = make("PowerEdge R620", IVY)
        machine.put("etc/apt/keyrings", "")
        self.check(machine, shell, f"cannot make the folder {machine.root}/etc/apt/keyrings", "--apt")


@pytest.mark.parametrize("shell", SHELLS)
class TestApt:
    def test_source_and_key(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY, "ubuntu2204")
        done = machine.ask("--apt", shell=shell)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == f"detect-model: wrote {machine.sources}"
        assert machine.written() == {"etc/apt/sources.list.d/pika.list", "etc/apt/keyrings/forge.asc"}
        assert machine.sources.read_text() == deb_client.apt_list(
            product="pika", image="ubuntu2204", model="R620", base_url=URL, keyring=deb_client.keyring("forge.asc")
        )
        key = machine.root / "etc/apt/keyrings/forge.asc"
        assert key.read_text() == BARE
        assert {stat.S_IMODE(path.stat().st_mode) for path in (key, machine.sources)} == {0o644}

    def test_changes_only_what_is_not_so(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY)
        assert machine.ask("--apt", shell=shell).returncode == 0
        key = machine.root / "etc/apt/keyrings/forge.asc"
        before = key.stat().st_ino, machine.sources.stat().st_ino
        assert "there already" in machine.ask("--apt", shell=shell).stdout
        assert (key.stat().st_ino, machine.sources.stat().st_ino) == before
        machine.put("sys/class/dmi/id/product_name", "PowerEdge R610\n")
        assert machine.ask("--apt", shell=shell).returncode == 0
        assert (key.stat().st_ino, "/R610/debs" in machine.sources.read_text()) == (before[0], True)

    def test_without_a_key(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY, key=None)
        done = machine.ask("--apt", shell=shell)
        assert (done.returncode, done.stdout, machine.written()) == (1, "", set())
        assert "not signed" in done.stderr
        assert "trusted" not in machine.script.read_text()
        assert machine.ask(shell=shell).returncode == 0, "yum does not need it"

    def test_an_image_without_debs(self, make: Make, shell: str) -> None:
        machine = make("PowerEdge R620", IVY, "el9")
        done = machine.ask("--apt", shell=shell)
        assert (done.returncode, done.stdout, machine.written()) == (1, "", set())
        assert "there is no repository for apt of el9" in done.stderr


# --- the script itself


@pytest.mark.parametrize("shell", SHELLS)
class TestArguments:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--bogus"], "unknown argument '--bogus'"),
            (["R620"], "unknown argument 'R620'"),
            (["--image"], "--image needs a value"),
            (["--image", ""], "--image needs a value"),
            (["--cpuinfo"], "--cpuinfo needs a value"),
            (["--root"], "--root needs a value"),
            (["--root", "/absent"], "--root /absent is no folder"),
        ],
    )
    def test_wrong_ones(self, make: Make, words: list[str], message: str, shell: str) -> None:
        done = make("PowerEdge R620", IVY).ask(*words, shell=shell)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"detect-model: error: {message}\n")

    def test_help(self, make: Make, shell: str) -> None:
        machine = make()
        done = machine.ask("--help", shell=shell)
        assert (done.returncode, done.stderr, machine.written()) == (0, "", set())
        for word in ("--apt", "--print", "--image", "--cpuinfo", "--root", "Exit status: 0", "$pikamodel", "forge.asc"):
            assert word in done.stdout


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_shell_and_three_programs_are_enough(make: Make, shell: str, tmp_path: Path) -> None:
    need(shell)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in (shell, "cat", "mkdir", "mv"):
        (tools / name).symlink_to(str(shutil.which(name)))
    machine = make("PowerEdge R650", IVY)
    command = (str(shutil.which(shell)), str(machine.script), "--root", str(machine.root))
    for option in ((), ("--apt",)):
        done = sh(*command, *option, env={"PATH": str(tools)})
        assert done.returncode == 0, done.stderr
        assert "not found" not in done.stderr
    assert (machine.variable.read_text(), machine.sources.exists()) == ("R620\n", True)


def test_this_machine_is_asked_without_root(make: Make, tmp_path: Path) -> None:
    """Its own CPUs, by the script's own first line; where nothing runs on them it says so."""
    machine = make()
    machine.script.chmod(0o755)
    done = sh(machine.script, "--print", "--image", "debian12", env=clean_env())
    assert done.returncode == (0 if done.stdout else 1), done.stderr
    assert not done.stdout or done.stdout.rstrip("\n") in make().script.read_text()


def test_512_unlike_cpus_do_not_take_long(make: Make, tmp_path: Path) -> None:
    halves = [(CPUINFO / f"{cpu}.txt").read_text().partition("\n\n")[0] for cpu in ("zen4-epyc-9554", "zen2-epyc-7302")]
    text = "".join(f"{halves[n % 2]}\n\n" for n in range(512))
    machine = make()
    seconds = []
    for _ in range(3):  # processor time, the best of three: other tests run beside this one
        before = os.times()
        done = machine.ask("--print", "--cpuinfo", "-", text=text)
        after = os.times()
        assert done.stdout == "R6515\n"
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5, seconds


class TestText:
    @pytest.mark.parametrize("key", [KEY, None], ids=["signed", "unsigned"])
    def test_shellcheck_has_nothing_to_say(self, make: Make, key: str | None) -> None:
        need("shellcheck")
        script = make(key=key).script
        done = sh("shellcheck", "-s", "sh", client_config.ASSETS / client_lines.SCRIPT, script, env=clean_env())
        assert done.returncode == 0, done.stdout

    def test_no_word_is_left(self, make: Make) -> None:
        assert client_config.WORD.findall(make().script.read_text()) == []

    def test_nothing_is_run_or_fetched(self) -> None:
        lines = (client_config.ASSETS / client_lines.SCRIPT).read_text().splitlines()
        code = [line.strip() for line in lines if not line.lstrip().startswith("#")]
        for word in ("eval", "curl", "wget", "exec", ". "):
            assert not [line for line in code if line.startswith(word) or f"$({word}" in line], word
