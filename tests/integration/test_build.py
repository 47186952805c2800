"""From a selection to packages: the sample, as a user builds it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from integration.builds import reported
from thorough import builds

if TYPE_CHECKING:
    from conftest import Done, Engine, Project, Shared, Tool
    from integration.conftest import Git, Shop, Warm

ROOT = Path(__file__).resolve().parents[2]

# One worker looks at the build of three models. Others would wait for that with idle hands.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("build"), pytest.mark.long(100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A build of three models, two of which share a target."""

    project: Project
    done: Done
    containers: list[str]

    def manifest(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(read(self.project.package(model), "pika/manifest.json"))
        return found


def sums_printed(done: Done) -> list[tuple[str, str]]:
    """Digest and path of the packages, as printed."""
    found = re.findall(r"^\S+  +(\S+)  +\S+ [KM]iB  .* ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    return [(digest, path) for path, digest in found]


def members(package: Path) -> dict[str, tarfile.TarInfo]:
    """The members of a package, in order."""
    with tarfile.open(package) as tar:
        return {member.name: member for member in tar}


def read(package: Path, name: str) -> bytes:
    """A file of a package."""
    with tarfile.open(package) as tar:
        content = tar.extractfile(name)
        assert content is not None
        return content.read()


def contents(package: Path) -> dict[str, bytes | None]:
    """All of a package: files by name, None for folders."""
    with tarfile.open(package) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            found[member.name] = None if content is None else content.read()
        return found


@pytest.fixture(scope="module")
def built(engine: Engine, shop: Shop, shared: Shared, new_project: Callable[[Path], Project], tool: Tool) -> Built:
    """R620 and R720 (one target) and R630 (another), with nothing but the images there before; once for all workers."""
    with shared.once("built") as folder:
        if folder is not None:
            project = shop.ready(folder)
            with engine.watch() as watch:
                done = project.build("R620", "R720", "R630", "--jobs", "3", check=0)
            done.keep(folder / "done.json")
            (folder / "containers").write_text("\n".join(watch.names(done.pid)), encoding="utf-8")
    made = shared.folder / "built"
    containers = (made / "containers").read_text(encoding="utf-8").splitlines()
    return Built(project=new_project(made), done=tool.recall(made / "done.json"), containers=containers)


def test_packages_are_where_the_last_lines_say(built: Built) -> None:
    folder = built.project.dist / "debian12"
    packages = [
        f"pika-v3.4.0-{model}{what}.tar.gz" for model in ("R620", "R630", "R720") for what in ("-debuginfo", "")
    ]
    names = [f"{package}{what}" for package in packages for what in ("", ".intoto.json", ".sbom.json")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["SHA256SUMS", *names])
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    assert sums == digests
    printed = {Path(name).name: digest for digest, name in sums_printed(built.done)}
    assert printed == {name: digest for name, digest in digests.items() if name in packages}


def test_models_that_share_a_target_compile_once(built: Built) -> None:
    assert sorted(built.done.lines(r"^compile .*\.\.\.$")) == [
        "compile  debian12-haswell-none ...",
        "compile  debian12-sandybridge-none ...",
    ]
    assert len(built.done.lines(r"^package .*\.\.\.$")) == 3
    nodes = built.project.plan("R620", "R720")["nodes"]
    assert [node["cells"] for node in nodes if node["stage"] == "compile"] == [
        ["R620-debian12-none", "R720-debian12-none"]
    ]
    assert [node["cells"] for node in nodes if node["stage"] == "package"] == [
        ["R620-debian12-none"],
        ["R720-debian12-none"],
    ]
    one, two = contents(built.project.package("R620")), contents(built.project.package("R720"))
    assert list(one) == list(two)
    named = ["pika/manifest.json", "pika/utils/cpu-gate.sh", "pika/utils/lib/product.sh"]
    assert [name for name in one if one[name] != two[name]] == named


def test_two_compilations_at_once_share_the_cores(built: Built) -> None:
    """They are ready at the same moment, and three cores are for both."""
    begun = [line.endswith("...") for line in built.done.lines("^compile ")]
    assert begun == [True, True, False, False], "both begin before one ends"
    stages = [stage for cell in reported(built.project.dist) for stage in cell["stages"]]
    jobs = {stage["label"]: stage["jobs"] for stage in stages if stage["stage"] == "compile"}
    assert sorted(jobs.values()) == [1, 2]


def test_the_report_has_all_that_proves_the_packages(built: Built) -> None:
    cells = {cell["id"]: cell for cell in reported(built.project.dist)}
    assert list(cells) == [f"{model}-debian12-none" for model in ("R620", "R630", "R720")]
    for cell in cells.values():
        artifact, debug = cell["artifacts"]
        assert [(a["format"], a["role"]) for a in (artifact, debug)] == [("tar", "main"), ("tar", "debug")]
        data = (built.project.dist / artifact["path"]).read_bytes()
        assert (artifact["sha256"], artifact["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert cell["manifest"] == json.loads(
            contents(built.project.dist / artifact["path"])["pika/manifest.json"] or b""
        )
        assert (cell["status"], cell["audit"]["passed"], cell["audit"]["violations"]) == ("done", True, [])
        assert {stage["stage"] for stage in cell["stages"]} == {
            "image", "source", "compile", "audit", "smoke", "package"}  # fmt: skip
        assert all(stage["seconds"] > 0 for stage in cell["stages"] if stage["stage"] in ("compile", "audit", "smoke"))
        for way in ("native", "emulated"):
            if not cell[way]["ran"]:
                assert cell[way]["reason"]
                continue
            checks = {check["name"]: check for check in cell[way]["checks"]}
            assert {"version", "ping", "snapshot", "replication", "stop"} <= set(checks)
            assert all(check["passed"] for check in checks.values() if check["required"])
    table = built.done.lines(r"^R\d+-debian12-none +(sandybridge|haswell) +passed")
    assert len(table) == 3, built.done.text


def test_the_gate_asks_for_what_the_audit_found_in_use(built: Built) -> None:
    for model, lacks in (("R620", "avx2"), ("R630", "")):
        package = contents(built.project.package(model))
        listed = (package["pika/utils/cpu-features"] or b"").decode().splitlines()[1:]
        audit = json.loads(package["pika/manifest.json"] or b"")["audit"]
        assert sorted(listed) == sorted({*audit["kernel_flags"], "lm"})
        assert "avx" in listed
        assert (lacks not in listed) if lacks else ("avx2" in listed)
        assert "pku" not in listed, "the target has it, no instruction uses it"
        assert audit["symbol_versions"]["GLIBC"] == "2.34"


def test_second_run_does_nothing(built: Built, engine: Engine) -> None:
    assert any(name.startswith("pikaforge-compile-") for name in built.containers), "the events tell nothing"
    before = {path: path.stat().st_mtime_ns for path in built.project.dist.rglob("*")}
    with engine.watch() as watch:
        again = built.project.build("R620", "R720", "R630", check=0)
    assert watch.names(again.pid) == []
    assert "everything is up to date" in again.stdout.splitlines()
    assert not again.lines(r"\.\.\.$")
    assert len(again.lines(r" is up to date$")) == len(built.project.plan("R620", "R720", "R630")["nodes"]) + 1
    assert {path: path.stat().st_mtime_ns for path in built.project.dist.rglob("*")} == before
    assert sums_printed(again) == sums_printed(built.done)


def test_layout_and_modes(built: Built) -> None:
    package = built.project.package("R620")
    found = members(package)
    names = list(found)
    assert {name.split("/")[0] for name in names} == {"pika"}
    top = {name.split("/")[1] for name in names if "/" in name}
    assert {"bin", "conf", "lib", "utils", "systemd", "manifest.json"} <= top
    wanted = ("bin/pika", "conf/pika.conf", "utils/deploy.sh", "systemd/pika@.service")
    assert {f"pika/{name}" for name in wanted} <= set(names)
    # tar sorts level by level: the members of a folder follow it in the order of their names.
    assert names == sorted(names, key=lambda name: name.split("/"))
    epoch = built.manifest("R620")["source_date_epoch"]
    for name, member in found.items():
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", ""), name
        assert member.mtime == epoch, name
        script = name.endswith(".sh") and "/lib/" not in name  # those of the library are read by others
        program = member.isdir() or script or name.startswith("pika/bin/")
        assert member.mode == (0o755 if program else 0o644), name
    head = package.read_bytes()[:10]
    assert head[3] == 0, "gzip's header names a file"
    assert head[4:8] == b"\0\0\0\0", "gzip's header has a time"


def test_manifest_says_what_was_built_of_what(built: Built, git: Git, sample_repositories: Path) -> None:
    manifest = built.manifest("R620")
    assert manifest["cell"] == "R620-debian12-none"
    assert manifest["target"] == manifest["wanted_target"] == "sandybridge"
    assert manifest["flags"] == ["-march=sandybridge", "-mtune=sandybridge"]
    assert manifest["cpus"] == ["sandybridge", "ivybridge"]
    source = manifest["source"]
    pulls = {
        number: (sample_repositories / "pull" / f"{number}.patch").read_bytes() for number in (988, 990, 1017, 1041)
    }
    assert [(patch["name"], patch["sha256"]) for patch in source["patches"]] == [
        (f"pull-{number}", hashlib.sha256(data).hexdigest()) for number, data in pulls.items()
    ]
    tag = git("rev-parse", "v3.4.0^{commit}", cwd=sample_repositories / "pika.git")
    assert (source["commit"], source["ref"]) == (tag, "v3.4.0")
    released = git("ls-tree", tag, "third/pink", cwd=sample_repositories / "pika.git").split()[2]
    moved = git("rev-parse", "refs/heads/master", cwd=sample_repositories / "pink.git")
    rocksdb = git("rev-parse", "refs/heads/master", cwd=sample_repositories / "rocksdb.git")
    assert released != moved
    assert source["submodules"] == {"third/pink": moved, "third/rocksdb": rocksdb}
    packages = manifest["image"]["build_packages"]
    assert re.match(r"\d", packages["libc6:amd64"]), "the versions of the base's packages"
    assert "libgoogle-glog-dev:amd64" in packages
    assert "rsync:amd64" in manifest["image"]["runtime_packages"]
    assert "gcc:amd64" not in manifest["image"]["runtime_packages"], "the runtime image is a clean one"
    assert manifest["compiler"][1].startswith("12.2"), manifest["compiler"]
    assert {library["soname"] for library in manifest["bundled_libraries"]} >= {"libglog.so.1"}
    assert all(library["package"] != "unknown" for library in manifest["bundled_libraries"])
    assert {"version", "ping", "keyspace", "zset-negative", "pipeline", "stop"} <= set(manifest["checks"])


def test_every_library_is_promised_or_inside(built: Built) -> None:
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    promised = yaml.safe_load((ROOT / "matrix.yaml").read_text())["defaults"]["base_libraries"]
    package = contents(built.project.package("R620"))
    inside = {name.removeprefix("pika/lib/") for name in package if name.startswith("pika/lib/")}
    seen = []
    for name, content in package.items():
        if content is None or not content.startswith(b"\x7fELF"):
            continue
        dynamic = ELFFile(io.BytesIO(content)).get_section_by_name(".dynamic")
        assert isinstance(dynamic, DynamicSection), name
        tags: list[tuple[str, Any]] = [(tag.entry.d_tag, tag) for tag in dynamic.iter_tags()]
        assert not [tag for kind, tag in tags if kind == "DT_RPATH"], name
        needed = [tag.needed for kind, tag in tags if kind == "DT_NEEDED"]
        ours = [library for library in needed if not any(fnmatchcase(library, pattern) for pattern in promised)]
        assert set(ours) <= inside, name
        paths = [tag.runpath for kind, tag in tags if kind == "DT_RUNPATH"]
        where = "$ORIGIN" if name.startswith("pika/lib/") else "$ORIGIN/../lib"
        assert paths == ([where] if ours else []), name
        assert b"/forge" not in content, f"{name} names the folder in which it was built"
        seen.append(name)
    assert "pika/bin/pika" in seen
    assert len(seen) > 1, "no library travels along"


def run_in(engine: Engine, image: str, argv: list[str], archive: bytes) -> tuple[int, str]:
    """Run a program in a container of an image, with a tar archive unpacked at /opt."""
    container = engine.client.containers.create(image, argv, network_mode="none", init=True)
    try:
        container.put_archive("/opt", archive)
        container.start()
        status = int(container.wait(timeout=120)["StatusCode"])
        return status, container.logs().decode("utf-8", "replace")
    finally:
        container.remove(force=True)


def image_of(project: Project, purpose: str) -> str:
    """The tag of debian12's build or runtime image."""
    return next(str(r["facts"][purpose]) for r in project.stored("image").values() if r["facts"]["runtime"])


def test_package_runs_on_a_clean_system(built: Built, engine: Engine) -> None:
    archive = gzip.decompress(built.project.package("R620").read_bytes())
    image = image_of(built.project, "runtime")
    status, output = run_in(engine, image, ["/opt/pika/bin/pika", "-v"], archive)
    assert (status, "pika_version: 3.4.0" in output) == (0, True), output
    # Without its lib/ it must not run: else the image, not the package, has the libraries.
    argv = ["sh", "-c", "rm -r /opt/pika/lib && exec /opt/pika/bin/pika -v"]
    status, output = run_in(engine, image, argv, archive)
    assert status == 127, output
    assert "libglog" in output, output


AVX2 = re.compile(r"\t(v(p(?!ermil|test|erm2f128)\w+|inserti128|extracti128|broadcasti128)\s.*%ymm|v?\w*fn?m(add|sub))")


def test_targets_differ_in_the_instructions_they_allow(built: Built, engine: Engine) -> None:
    build = image_of(built.project, "build")
    argv = ["objdump", "-d", "--no-show-raw-insn", "/opt/pika/bin/pika"]
    found: dict[str, list[str]] = {}
    for model in ("R620", "R630"):
        status, text = run_in(engine, build, argv, gzip.decompress(built.project.package(model).read_bytes()))
        assert status == 0, text
        assert text.count("\n") > 10_000, text[:500]
        found[model] = [line for line in text.splitlines() if AVX2.search(line)]
        assert "%ymm" in text, f"{model} has AVX at least"
    assert built.manifest("R630")["target"] == "haswell"
    assert found["R620"] == []
    assert len(found["R630"]) > 10


@pytest.mark.thorough(builds("bytes"))
@pytest.mark.xdist_group("build-alike")
@pytest.mark.long(50)
def test_same_bytes_under_unlike_conditions(shop: Shop, warm: Warm, tmp_path: Path) -> None:
    """Other folders, one job, no compiler cache, another umask, time zone, locale, user environment, and later."""
    other = shop.ready(tmp_path / "a longer path" / "with blanks")
    shop.take(other, "audit", "smoke")  # of the same tree; another one would be judged, and packed
    environment = {
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "de_DE.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "HOME": str(tmp_path),
        "USER": "somebody",
        "CFLAGS": "-O0",
        "CXXFLAGS": "-O0 -march=native",
        "MAKEFLAGS": "-k",
        "SOURCE_DATE_EPOCH": "1",
        "PYTHONHASHSEED": "7",
    }
    other.build("R620", "--jobs", "1", "--no-compiler-cache", check=0, umask=0o077, env=environment)
    first, second = warm.store / "package" / warm.keys["package"][0] / "pika-v3.4.0-R620.tar.gz", other.package("R620")
    if first.read_bytes() != second.read_bytes():
        one, two = contents(first), contents(second)
        differ = [name for name in {**one, **two} if one.get(name) != two.get(name)]
        pytest.fail(f"these differ: {differ or 'only the order, modes or compression'}")


@pytest.mark.thorough(builds("image"))
@pytest.mark.xdist_group("build-second")
@pytest.mark.long(50)
def test_second_os_image(project: Project, engine: Engine) -> None:
    """Debian 13, with another compiler and other libraries; its images stay in the checkout's out/."""
    project.out = ROOT / "out"
    done = project.build("R620", image="debian13", check=0)
    package = project.package("R620", "debian13")
    assert hashlib.sha256(package.read_bytes()).hexdigest() in [digest for digest, _ in sums_printed(done)]
    manifest = json.loads(read(package, "pika/manifest.json"))
    assert manifest["image"]["os"] == {"id": "debian", "version": "13"}
    assert manifest["compiler"][1].startswith("14.")
    assert not (project.dist / "debian12").exists()
