"""Libraries of a real distribution: recorded from its package database, and judged by the audit stage.

One image is made of the build image: with two packages of our own in it, one of which asks the CPU and one of which
does not, and with a library that somebody has altered.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engine_images import OWN, note

from pikaforge.audit.audit import audit_compiled
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.audit.elf.code import code_digest
from pikaforge.host.docker import DockerEngine
from pikaforge.host.download import Downloads
from pikaforge.host.lockfile import Lock
from pikaforge.host.store import Result, Store
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import audit
from pikaforge.pipeline.compile import BundledLibrary
from pikaforge.pipeline.image import libraries
from pikaforge.pipeline.image.libraries import Libraries

if TYPE_CHECKING:
    from conftest import Engine
    from docker.models.containers import Container

    from .conftest import Warm

# One worker, so that the image's libraries are read once.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("distribution-libraries"), pytest.mark.long(20)]
FOLDER = "/usr/lib/x86_64-linux-gnu"
MAKE = r"""
cat >/tmp/source.c <<'END'
__attribute__((target("avx2"), noinline)) static int fast(int x) {
  __asm__ volatile("vpaddd %%ymm0, %%ymm0, %%ymm0" ::: "xmm0");
  return x;
}
#ifdef ASKS
int sum(int x) { __builtin_cpu_init(); return __builtin_cpu_supports("avx2") ? fast(x) : x; }
#else
int sum(int x) { return fast(x); }
#endif
END
pack() {
    root=/tmp/$1
    mkdir -p "$root/DEBIAN" "$root/usr/lib/x86_64-linux-gnu"
    library=usr/lib/x86_64-linux-gnu/lib$1.so.1
    gcc -O2 -fPIC -shared -Wl,-soname,"lib$1.so.1" "-D$2" -o "$root/$library" /tmp/source.c
    strip --strip-unneeded "$root/$library"
    (cd "$root" && md5sum "$library" >DEBIAN/md5sums)
    printf '%s\n' "Package: lib${1}1" 'Version: 1.0-1' 'Architecture: amd64' \
        'Maintainer: Test <test@sample.invalid>' 'Description: test' >"$root/DEBIAN/control"
    dpkg-deb --build "$root" "/tmp/$1.deb"
    dpkg -i "/tmp/$1.deb"
}
pack asking ASKS
pack planted BLIND
printf x >>"$(readlink -f /usr/lib/x86_64-linux-gnu/liblzma.so.5)"
ldconfig
"""
NEHALEM = ("__SSE3__", "__SSSE3__", "__SSE4_1__", "__SSE4_2__", "__POPCNT__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The image's record and its libraries."""

    image: Result
    record: Libraries
    files: Mapping[str, bytes]
    """By soname."""
    folder: Path

    def judge(self, *sonames: str, version: str = "") -> AuditResult:
        """The audit of a tree with these libraries, as the stage calls it."""
        bundled = [
            BundledLibrary(soname=n, path=f"lib/{n}", package="?", version="?", sha256=_sha256(self.files[n]))
            for n in sonames
        ]
        record = self.record
        if version:
            record = Libraries(
                libraries=tuple(entry.model_copy(update={"version": version}) for entry in record.libraries), altered=()
            )
        known = audit.distribution("x86_64", bundled, record)
        work = self.folder / "-".join((*sonames, version))
        work.mkdir()
        for name, files in (("tree.tar", {f"lib/{n}": self.files[n] for n in sonames}), ("debug.tar", {})):
            with tarfile.open(work / name, "w") as tar:
                for path, data in files.items():
                    info = tarfile.TarInfo(f"./{path}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return audit_compiled(
            work / "tree.tar",
            [work / "debug.tar"],
            work / "scratch",
            label="test",
            target="nehalem",
            flags_used=("-march=nehalem",),
            macros=[f"#define {name} 1" for name in NEHALEM],
            bundled=[f"lib/{n}" for n in sonames],
            dropped=(),
            rules=replace(Rules(), distribution=known),
            today=date(2026, 6, 15),
            workers=1,
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fetched(container: Container, path: str) -> bytes:
    """A file out of a container; of a link, what it leads to."""
    stream, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        [member] = tar.getmembers()
        if member.issym():
            return _fetched(container, f"{path.rpartition('/')[0]}/{member.linkname}")
        content = tar.extractfile(member)
        assert content is not None
        return content.read()


@pytest.fixture(scope="module")
def made(warm: Warm, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distribution]:
    folder = tmp_path_factory.mktemp("distribution")
    records = [warm.store / "image" / key / "result.json" for key in warm.keys["image"]]
    facts = [json.loads(path.read_text(encoding="utf-8"))["facts"] for path in records]
    base = next(str(f["build"]) for f in facts if "/debian12-" in str(f.get("build", "")))
    script = base64.b64encode(MAKE.encode()).decode()
    text = f"FROM {base}\nRUN echo {script} | base64 -d >/tmp/make.sh && sh -eu /tmp/make.sh\n"
    tag = note(f"{OWN}distribution-libraries:{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    if not engine.tags(tag):
        engine.client.images.build(fileobj=io.BytesIO(text.encode()), tag=tag, rm=True, forcerm=True)
    workspace = Workspace(
        base=folder,
        out=folder / "out",
        dist=folder / "dist",
        engine=DockerEngine(),
        store=Store(folder / "out" / "store"),
        lock=Lock(folder / "sources.lock", strict=False),
        jobs=1,
        downloads=Downloads(folder / "out" / "downloads"),
    )
    path = libraries.measure(workspace, tag, stage="image", label="test", log=folder / "log", into=folder)
    image = Result(stage="image", key="k", identity="i", facts={}, files={libraries.FILE: path})
    container = engine.client.containers.create(tag, "true")
    try:
        files = {}
        for soname in ("libasking.so.1", "libplanted.so.1", "liblzma.so.5", "libzstd.so.1"):
            files[soname] = _fetched(container, f"{FOLDER}/{soname}")
    finally:
        container.remove()
    yield Distribution(image=image, record=libraries.read(image), files=files, folder=folder)


def test_the_record_has_what_packages_have_brought(made: Distribution) -> None:
    known = {entry.path.rpartition("/")[2].partition(".so")[0]: entry for entry in made.record.libraries}
    assert len(known) > 50
    assert (known["libasking"].package, known["libasking"].version) == ("libasking1", "1.0-1")
    assert known["libzstd"].package == "libzstd1"
    assert all(entry.code for entry in made.record.libraries)
    assert "liblzma" not in known
    [altered] = made.record.altered
    assert altered.startswith(f"{FOLDER}/liblzma.so.5.")


def test_a_package_that_asks_the_cpu_is_accepted(made: Distribution) -> None:
    found = made.judge("libasking.so.1")
    assert found.isa.violations == (), found.lines()
    [told] = [d for d in found.isa.dispatched if "avx2" in d.features]
    assert (told.package, told.version) == ("libasking1", "1.0-1")


def test_a_package_with_a_planted_instruction_is_refused(made: Distribution) -> None:
    found = made.judge("libplanted.so.1")
    assert {v.where for v in found.isa.violations} == {"lib/libplanted.so.1"}
    [what] = [v.what for v in found.isa.violations if "avx2" in v.what]
    assert "reached without a question to the CPU: " in what
    assert list(found.packaged) == ["lib/libplanted.so.1"], "it is the distribution's, and is refused all the same"


def test_an_altered_library_is_refused(made: Distribution) -> None:
    found = made.judge("liblzma.so.5")
    assert {v.where for v in found.isa.violations} == {"lib/liblzma.so.5"}
    assert any("in the image is not what its package has brought" in note for note in found.notes)


def test_a_known_dispatcher_is_accepted_by_its_version_and_no_newer_one(made: Distribution) -> None:
    assert made.judge("libzstd.so.1").isa.violations == ()
    assert made.judge("libzstd.so.1", version="9.0-1").isa.violations


def test_patchelf_and_strip_leave_the_code_as_it_is(made: Distribution, tmp_path: Path) -> None:
    """Which the comparison with the record rests upon; here with the machine's own tools."""
    path = tmp_path / "x"
    path.write_bytes(made.files["libzstd.so.1"])
    before = code_digest(path)
    subprocess.run(["strip", "--strip-debug", path], check=True)
    subprocess.run(["patchelf", "--set-rpath", "$ORIGIN/../a/long/path/for/the/table", path], check=True)
    assert code_digest(path) == before
    assert _sha256(path.read_bytes()) != _sha256(made.files["libzstd.so.1"])
