"""RPMs made by the real rpmbuild in the tools image, and taken by the real rpm in clean containers."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from execs import name_itself, run_in
from integration.images import image_of

from pikaforge.audit import judge_linkage
from pikaforge.audit.elf.facts import read_facts
from pikaforge.audit.inputs import open_package
from pikaforge.config import families, load
from pikaforge.config.schema import Image, Spec
from pikaforge.formats import debuginfo, payload
from pikaforge.formats.layout import Entry, tree_entries
from pikaforge.formats.manifest import ManifestPatch
from pikaforge.formats.product_package import ChangelogEntry, PackageAbout, ProductPackage, changes
from pikaforge.formats.rpm import allocator, product, spec_file
from pikaforge.formats.rpm.allocator import AllocatorPackage
from pikaforge.formats.rpm.spec_file import RpmBuild
from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import Input, Job, files
from pikaforge.plan import matrix

if TYPE_CHECKING:
    from conftest import Engine
    from docker.models.containers import Container

    from .conftest import Warm

ROOT = Path(__file__).resolve().parents[2]
GUEST = ROOT / "docker" / "guest"
SCRIPTS = ("lib.sh", "run.sh", "rpm.sh", "layout.sh", "debuginfo.sh")
LIBRARY = re.compile(
    r"^(100644 root:root |-rw-r--r-- root/root) /opt/pika/utils/(lib|operate)/[a-z_-]+[.]\w+\n", re.MULTILINE
)
"""Lines of what the scripts of operating read, which is rendered from the product's entry (unit/operate)."""
CONTENTS = Path(__file__).with_name("rpm-contents.txt")
EPOCH = 1604318400
TOP = "/opt/pika"
MANIFEST = b'{"format": 2}\n'
DAMAGED = 65
FILES = "[%{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags} %{FILENAMES}\n]"

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("rpm")]

HOST = """\
FROM {base}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \\
 && apt-get install -y --no-install-recommends rpm busybox \\
 && rm -rf /var/lib/apt/lists/*
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """The finished build of R620 from the sample, and the images."""

    spec: Spec
    tools: str
    runtime: str
    tree: Path
    debug: Path
    needs: tuple[str, ...]
    build_ids: Mapping[str, str]
    folder: Path

    def beside(self, features: Sequence[str]) -> tuple[payload.Rendered, bytes]:
        cell = next(cell for cell in matrix.all_cells(self.spec) if cell.id == "R620-debian12-none")
        rendered = payload.render(
            self.spec.product,
            model="R620",
            target="sandybridge",
            image="debian12",
            features=features,
            others=payload.offers(self.spec, cell),
        )
        contents = {**rendered.contents, "manifest.json": MANIFEST}
        return rendered, files(contents, executable=rendered.executable)

    def about(self, image: Image, release: str = "1", **fields: Any) -> PackageAbout:
        plain = PackageAbout(
            name="pika",
            version="v3.4.0",
            release=release,
            dist=families.of(image.family).dist_tag(image.os.id, image.os.version),
            services=families.of(image.family).services(image.os.version),
            summary="Server with the protocol of Redis that keeps its data on disk",
            description="Pika speaks the protocol of Redis and keeps its data in RocksDB, so that it may be larger "
            "than the memory of the machine.",
            licence="BSD-3-Clause",
            url="https://github.com/OpenAtomFoundation/pika",
        )
        return replace(plain, **fields)

    def product(
        self,
        image: str = "debian12",
        *,
        release: str = "1",
        features: Sequence[str] = ("lm",),
        model: str = "R620",
        with_debug: bool = True,
    ) -> tuple[RpmBuild, dict[str, bytes | Path]]:
        """The product's description, and the inputs that it names."""
        rendered, extra = self.beside(features)
        entries = (
            *tree_entries(self.tree, folder="tree", prefix=TOP),
            *tree_entries(extra, folder="extra", prefix=TOP),
        )
        patches = [ManifestPatch(name="pull-1017", sha256="1" * 64, url="", why="thundering herd: 100% of %{nothing}")]
        system = self.spec.images[image]
        described = product.product(
            ProductPackage(
                about=self.about(system, release),
                model=model,
                target="sandybridge",
                tree=entries,
                conf=("conf/pika.conf",),
                payload=rendered.contents,
                changes=changes(patches, epoch=EPOCH, version="v3.4.0", ref="v3.4.0"),
                debug=self.debug_entries() if with_debug else (),
            ),
            requires=(*self.needs, "rsync"),
            profile=spec_file.profile(system.family, system.os),
        )
        archives: dict[str, bytes | Path] = {"tree": self.tree, "debug": self.debug, "extra": extra}
        return described, archives

    def debug_entries(self) -> tuple[Entry, ...]:
        return debuginfo.debug_entries(self.debug, folder="debug", prefix=TOP, build_ids=self.build_ids)

    def run(
        self,
        name: str,
        script: str,
        pack: Mapping[str, bytes],
        archives: Mapping[str, bytes | Path],
        wanted: Sequence[str],
    ) -> tuple[int, dict[str, Path], str]:
        """Run a guest script as stages do; exit status, outputs, log."""
        folder = self.folder / name
        folder.mkdir()
        job = Job(
            label=f"test-rpm-{name}",
            image=self.tools,
            argv=("sh", "guest/run.sh", script),
            env={"SOURCE_DATE_EPOCH": str(EPOCH)},
            inputs=(
                Input(folder="guest", archive=files({s: GUEST / s for s in SCRIPTS}, executable=SCRIPTS)),
                Input(folder="pack", archive=files(pack)),
                *(Input(folder=key, archive=value) for key, value in archives.items()),
            ),
            outputs=tuple(f"out/{name}" for name in wanted),
            log=folder / "log",
            timeout=120,
        )
        done = DockerEngine().run(job, folder)
        log = job.log.read_text(encoding="utf-8", errors="replace")
        return done.status, {path.name: path for path in done.outputs.values()}, log

    def pack(self, name: str, described: RpmBuild, archives: Mapping[str, bytes | Path]) -> dict[str, Path]:
        """Make RPMs; paths by file name."""
        made = {**archives, "made": files(described.extra)}
        status, outputs, log = self.run(name, "rpm", described.pack(), made, described.names)
        assert status == 0, log[-3000:]
        assert list(outputs) == list(described.names)
        return outputs


@pytest.fixture(scope="module")
def kit(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """What packing starts from."""
    folder = tmp_path_factory.mktemp("rpm")
    images = [
        json.loads((warm.store / "image" / key / "result.json").read_text(encoding="utf-8"))["facts"]
        for key in warm.keys["image"]
    ]
    tools = next(facts["build"] for facts in images if "/tools-" in facts.get("build", ""))
    runtime = next(facts["runtime"] for facts in images if facts.get("runtime"))
    entry = warm.store / "compile" / warm.keys["compile"][0]
    tree = entry / "tree.tar"
    opened = open_package(tree, folder / "elves")
    facts = [read_facts(path, name=name) for name, path in opened.elves.items()]
    own = {fact.soname for fact in facts}
    system = {soname for fact in facts for soname in fact.needed} - own
    return Kit(
        spec=load.load(ROOT / "matrix.yaml"),
        tools=tools,
        runtime=runtime,
        tree=tree,
        debug=entry / "debug.tar",
        needs=product.needs(judge_linkage.library_versions(facts, sorted(system))),
        build_ids={fact.name: fact.build_id for fact in facts},
        folder=folder,
    )


@pytest.fixture(scope="module")
def built(kit: Kit) -> dict[str, Path]:
    """The product's RPM for Debian 12, and that of its debug information."""
    return kit.pack("plain", *kit.product())


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A container with rpm."""

    container: Container

    def run(self, *argv: str, **env: str) -> tuple[int, str]:
        """Run a program; exit status and both outputs, without what Debian's rpm says to newcomers."""
        status, output = run_in(self.container, argv, env=env, workdir="/")
        lines = output.decode("utf-8", "replace").splitlines(keepends=True)
        return status, "".join(line for line in lines if not line.startswith(("rpm: RPM should", "rpm: However")))

    def ok(self, *argv: str, **env: str) -> str:
        """Run a program that must succeed; its output."""
        status, output = self.run(*argv, **env)
        assert status == 0, output
        return output

    def lines(self, script: str) -> list[str]:
        return self.ok("sh", "-c", script).splitlines()

    def put(self, contents: Mapping[str, bytes | Path], folder: str = "/") -> None:
        self.container.put_archive(folder, files(contents))

    def query(self, path: Path, *options: str) -> list[str]:
        """`rpm -qp` of a package; it is put into /q."""
        self.put({f"q/{path.name}": path})
        return self.ok("rpm", "-qp", *options, f"/q/{path.name}").splitlines()


@pytest.fixture(scope="module")
def host_image(engine: Engine, kit: Kit) -> str:
    """The clean runtime image with Debian's rpm."""
    return image_of(engine, HOST.format(base=kit.runtime), "rpm")


@contextmanager
def host_of(engine: Engine, image: str, **options: Any) -> Iterator[Host]:
    plain: dict[str, Any] = {"command": ["sleep", "3600"], "init": "command" not in options, "network_mode": "none"}
    container = engine.client.containers.run(image, detach=True, **{**plain, **options})
    try:
        name_itself(container)
        yield Host(container=container)
    finally:
        container.remove(force=True)


BOOTED = """\
FROM {base}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \\
 && apt-get install -y --no-install-recommends systemd-sysv dbus \\
 && rm -rf /var/lib/apt/lists/*
"""


@pytest.fixture
def booted(engine: Engine, host_image: str, base_package: Path, until: Callable[..., None]) -> Iterator[Host]:
    """A machine with systemd as its first process."""
    options: dict[str, Any] = {
        "command": ["/sbin/init"],
        "cap_add": ["SYS_ADMIN"],
        "tmpfs": {"/run": "", "/tmp": "exec"},
        "volumes": {"/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "ro"}},
        "environment": {"container": "docker"},
    }
    with host_of(engine, image_of(engine, BOOTED.format(base=host_image), "rpm"), **options) as host:
        state = "systemctl is-system-running 2>/dev/null || :"
        until(lambda: host.ok("sh", "-c", state).strip() in ("running", "degraded"), "systemd is up", 60)
        host.put({"q/base.rpm": base_package})
        host.ok("rpm", "-i", "/q/base.rpm")
        yield host


@pytest.fixture(scope="module")
def desk(engine: Engine, host_image: str) -> Iterator[Host]:
    """For questions to rpm, which change nothing."""
    with host_of(engine, host_image) as host:
        yield host


@pytest.fixture(scope="module")
def base_package(kit: Kit, desk: Host) -> Path:
    """A package that owns nothing and provides what Debian's packages do: what elfdeps finds in them, and programs."""
    libraries = r"ldconfig -p | sed -n 's|.*x86-64.* => ||p' | /usr/lib/rpm/elfdeps --provides"
    found = desk.lines(
        f"{libraries} | grep -E '^(ld-linux-x86-64|lib(c|m|gcc_s|stdc\\+\\+|pthread|dl|rt))[.]so' | sort -u"
    )
    assert len(found) > 50
    programs = {"/bin/sh": "/bin/sh", "coreutils": "/usr/bin/mktemp", "shadow-utils": "/usr/sbin/useradd"}
    programs["rsync"] = "/usr/bin/rsync"
    for path in programs.values():
        desk.ok("test", "-x", path)
    package = spec_file.SubPackage(
        name="base-system",
        summary="What Debian's own packages provide",
        description="For tests.",
        entries=(),
        provides=(*found, *programs),
    )
    made = spec_file.RpmSpec(
        version="1", release="1", licence="MIT", url="", packages=(package,), profile=spec_file.OLD, changes=()
    )
    outputs = kit.pack("base", RpmBuild(rpm=made, extra={}), {})
    return next(iter(outputs.values()))


@pytest.fixture
def host(engine: Engine, host_image: str, base_package: Path) -> Iterator[Host]:
    """A machine without the product."""
    with host_of(engine, host_image) as host:
        host.put({"q/base.rpm": base_package})
        host.ok("rpm", "-i", "/q/base.rpm")
        yield host


@pytest.fixture(scope="module")
def newer(kit: Kit) -> Path:
    """Release 2, whose conf differs, without debug information."""
    described, archives = kit.product(release="2", with_debug=False)
    main = described.rpm.packages[0]
    conf = f"{TOP}/conf/pika.conf"
    entries = tuple(replace(e, source="made/pika.conf") if e.path == conf else e for e in main.entries)
    changed = RpmBuild(
        rpm=replace(described.rpm, packages=(replace(main, entries=entries),)),
        extra={**described.extra, "pika.conf": b"port : 9221\n# of release 2\n"},
    )
    return next(iter(kit.pack("newer", changed, archives).values()))


@pytest.fixture(scope="module")
def refused(kit: Kit) -> Path:
    """Release 3, which needs what no CPU has."""
    described, archives = kit.product(release="3", features=("lm", "no_such_flag"), with_debug=False)
    return next(iter(kit.pack("refused", described, archives).values()))


# --- the files themselves


def test_names(built: Mapping[str, Path]) -> None:
    assert list(built) == [
        "pika-3.4.0-1.R620.debian12.x86_64.rpm",
        "pika-debuginfo-3.4.0-1.R620.debian12.x86_64.rpm",
    ]


def test_contents_are_those_of_the_list(built: Mapping[str, Path], desk: Host) -> None:
    lines = [line for path in built.values() for line in desk.query(path, "--qf", FILES)]
    # The name of a link by build-id is the compiler's to choose.
    lines = [line if "/.build-id/" not in line else line.partition("/.build-id/")[0] + "/.build-id/…" for line in lines]
    shown = "\n".join(line.rstrip() for line in lines) + "\n"
    shown = LIBRARY.sub("", shown)
    assert shown == CONTENTS.read_text(encoding="utf-8"), shown


def test_header(built: Mapping[str, Path], desk: Host, kit: Kit) -> None:
    main, info = built.values()
    requires = desk.query(main, "--requires")
    assert {line for line in requires if not line.startswith("rpmlib(")} == {
        *kit.needs, "rsync", "/bin/sh", "coreutils", "shadow-utils",
    }  # fmt: skip
    assert "libc.so.6(GLIBC_2.34)(64bit)" in requires
    provides = [line for path in (main, info) for line in desk.query(path, "--provides")]
    assert not [line for line in provides if ".so" in line], "a bundled library is offered to others"
    assert {"pika(model) = R620", "pika(target) = sandybridge"} <= set(provides)
    tags = "%{BUILDTIME} %{BUILDHOST} %{FILEDIGESTALGO} %{LICENSE} %{PLATFORM} [%{FILEMTIMES},]"
    for path in built.values():
        times = desk.query(path, "--qf", tags)[0].split()
        assert times[:5] == [str(EPOCH), "pikaforge", "8", "BSD-3-Clause", "x86_64-linux"]
        assert set(times[5].strip(",").split(",")) == {str(EPOCH)}
    assert desk.query(main, "--changelog")[1:3] == [
        "- v3.4.0 from v3.4.0",
        "- pull-1017: thundering herd: 100% of %{nothing}",
    ]
    description = desk.query(main, "--qf", "%{DESCRIPTION}")
    assert "This build is for R620 (sandybridge)" in " ".join(description)


@pytest.mark.parametrize(("image", "compressor"), [("el7", "gzip"), ("el9", "zstd")])
def test_each_system_reads_its_package(kit: Kit, desk: Host, image: str, compressor: str) -> None:
    described, archives = kit.product(image, with_debug=False)
    (path,) = kit.pack(image, described, archives).values()
    assert path.name == f"pika-3.4.0-1.R620.{image}.x86_64.rpm"
    assert desk.query(path, "--qf", "%{PAYLOADCOMPRESSOR}") == [compressor]
    features = [
        line.split("(")[1].split(")")[0] for line in desk.query(path, "--requires") if line.startswith("rpmlib(")
    ]
    # The features of EL7's rpm 4.11.3 (lib/rpmds.c), one of which the payload of EL9 needs more.
    assert set(features) == {"CompressedFileNames", "FileDigests", "PayloadFilesHavePrefix"} | (
        {"PayloadIsZstd"} if image == "el9" else set()
    )
    for tag in ("RECOMMENDNAME", "SUGGESTNAME", "SUPPLEMENTNAME", "ENHANCENAME"):
        assert desk.query(path, "--qf", f"[%{{{tag}}}]") in ([], ["(none)"], [""])
    listed = desk.query(path, "-l")
    assert ("/usr/lib/sysusers.d/pika.conf" in listed) == (image != "el7")
    assert "/usr/lib/tmpfiles.d/pika.conf" in listed


def test_a_feature_that_the_system_lacks_is_refused(kit: Kit) -> None:
    described, archives = kit.product("el9", with_debug=False)
    wrong = replace(described.rpm, profile=replace(spec_file.ZSTD, features=spec_file.OLD.features))
    made = {**archives, "made": files(described.extra)}
    status, _, log = kit.run("lacks", "rpm", spec_file.inputs(wrong), made, ())
    assert status == DAMAGED
    assert "needs rpmlib(PayloadIsZstd), which the rpm of its system does not have" in log


def test_other_packages_than_asked_for_are_refused(kit: Kit) -> None:
    described, archives = kit.product(with_debug=False)
    pack = {**described.pack(), "names": b"pika-9-1.x86_64.rpm\n"}
    status, _, log = kit.run("names", "rpm", pack, {**archives, "made": files(described.extra)}, ())
    assert status == DAMAGED
    assert "rpmbuild made no pika-9-1.x86_64.rpm" in log


def test_a_file_that_is_not_in_the_spec_is_refused(kit: Kit) -> None:
    described, archives = kit.product(with_debug=False)
    layout = described.pack()["layout.tsv"] + b"file\t644\t/opt/pika/more\textra/manifest.json\n"
    pack = {**described.pack(), "layout.tsv": layout}
    status, _, log = kit.run("unlisted", "rpm", pack, {**archives, "made": files(described.extra)}, ())
    assert status != 0
    assert "Installed (but unpackaged) file(s) found" in log


# --- the same bytes


def aged(archive: bytes | Path) -> bytes:
    """The same files as if somebody else had packed them: other modes, times, owners and order."""
    data = archive if isinstance(archive, bytes) else archive.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar, tarfile.open(fileobj=buffer, mode="w") as out:
        members = tar.getmembers()
        for member in [m for m in members if m.isdir()] + [m for m in reversed(members) if not m.isdir()]:
            content = tar.extractfile(member) if member.isreg() else None
            member.mtime, member.uid, member.gid = 1, 1234, 1234
            member.mode = 0o700 if member.mode & 0o111 else 0o600
            out.addfile(member, content)
    return buffer.getvalue()


def test_unlike_conditions_give_the_same_bytes(engine: Engine, kit: Kit, built: Mapping[str, Path], desk: Host) -> None:
    described, archives = kit.product()
    env = {
        "PIKAFORGE_ROOT": "/srv/some/other/place",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "TZ": "Asia/Tokyo",
        "LANG": "C.UTF-8",
        "USER": "somebody",
        "RPM_BUILD_NCPUS": "7",
        "RPM_PACKAGER": "somebody",
    }
    root = env["PIKAFORGE_ROOT"].lstrip("/")
    parts = {**archives, "made": files(described.extra), "pack": files(described.pack())}
    with host_of(engine, kit.tools, hostname="elsewhere", domainname="example.org") as other:
        other.put({f"{root}/guest/{name}": GUEST / name for name in SCRIPTS})
        for name, archive in parts.items():
            other.ok("mkdir", "-p", f"/{root}/{name}")
            other.container.put_archive(f"/{root}/{name}", aged(archive))
        other.put({"root/.rpmmacros": b"%_binary_payload w1.gzdio\n%packager somebody\n%_buildhost elsewhere\n"})
        other.put({"etc/rpm/macros": b"%vendor somebody\n%packager somebody\n%_build_id_links compat\n"})
        script = f'umask 077; cd /tmp; exec sh "/{root}/guest/rpm.sh"'
        status, log = other.run("sh", "-c", script, **env)
        assert status == 0, log
        found = {}
        for name in described.names:
            stream, _ = other.container.get_archive(f"/{root}/out/{name}")
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                content = tar.extractfile(name)
                assert content is not None
                found[name] = content.read()
    unlike = [name for name in found if found[name] != built[name].read_bytes()]
    assert not unlike, {name: _difference(desk, built[name], found[name]) for name in unlike}


def _difference(desk: Host, path: Path, other: bytes) -> str:
    """The tags of the header that differ."""
    desk.put({"q/one.rpm": path, "q/other.rpm": other})
    show = "for f in one other; do rpm -qp --xml /q/$f.rpm >/q/$f.xml; done; diff /q/one.xml /q/other.xml"
    return desk.run("sh", "-c", show)[1][:3000]


# --- installed


def digests(kit: Kit) -> dict[str, str]:
    """By path on the host: what the tarball has."""
    found = {}
    _, extra = kit.beside(("lm",))
    for archive in (kit.tree.read_bytes(), extra):
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None:
                    found[f"{TOP}/{member.name.removeprefix('./')}"] = sha256(content.read()).hexdigest()
    return found


def test_install_upgrade_and_removal(host: Host, kit: Kit, built: Mapping[str, Path], newer: Path) -> None:
    main, info = built.values()
    host.put({"q/1.rpm": main, "q/info.rpm": info, "q/2.rpm": newer})
    assert host.run("rpm", "-i", "/q/1.rpm", "/q/info.rpm") == (0, "")
    assert host.run("rpm", "-V", "pika", "pika-debuginfo") == (0, "")

    # Byte for byte the tarball's files, and nobody can change them but root.
    sums = (line.split("  ") for line in host.lines(f"find {TOP} -type f -exec sha256sum {{}} +"))
    found = {path: digest for digest, path in sums}
    assert found == digests(kit)
    assert host.ok("find", TOP, "(", "!", "-user", "0", "-o", "-perm", "/022", ")", "!", "-type", "l") == ""
    assert host.ok(f"{TOP}/bin/pika", "-v").splitlines()[0].startswith("pika_version: 3.4.0")
    assert host.ok("getent", "passwd", "pika").rstrip().endswith("/sbin/nologin")
    program = host.ok("sh", "-c", "readlink -e /usr/lib/debug/.build-id/*/*.debug").strip()
    assert program == f"/usr/lib/debug{TOP}/bin/pika.debug"

    # An instance, its data, and what the operator changed.
    host.ok("sh", f"{TOP}/utils/deploy.sh", "9221", "/data", "--no-start")
    host.lines(
        f"echo 'thread-num : 7' >>{TOP}/conf/pika.conf; echo 'requirepass : x' >>/data/pika_9221/conf/pika.conf;"
        "echo data >/data/pika_9221/db/1; echo CONF=x >/etc/pika/9221.env"
    )
    state = "find /data /etc/pika/* -printf '%p %u %m %T@\\n' | sort; find /data /etc/pika -type f -exec sha256sum {} +"
    before = host.lines(state)
    edited = host.ok("cat", f"{TOP}/conf/pika.conf")

    status, output = host.run("rpm", "-U", "/q/2.rpm")
    assert (status, output) == (0, f"warning: {TOP}/conf/pika.conf created as {TOP}/conf/pika.conf.rpmnew\n")
    assert host.lines("rpm -q pika") == ["pika-3.4.0-2.R620.debian12.x86_64"]
    assert host.ok("cat", f"{TOP}/conf/pika.conf") == edited
    assert "of release 2" in host.ok("cat", f"{TOP}/conf/pika.conf.rpmnew")
    assert host.lines(state) == before

    assert host.run("rpm", "-U", "--oldpackage", "/q/1.rpm")[0] == 0
    assert host.lines("rpm -q pika") == ["pika-3.4.0-1.R620.debian12.x86_64"]
    assert host.ok("cat", f"{TOP}/conf/pika.conf") == edited
    assert host.lines(state) == before

    status, output = host.run("rpm", "-e", "pika", "pika-debuginfo")
    assert (status, f"{TOP}/conf/pika.conf saved as {TOP}/conf/pika.conf.rpmsave" in output) == (0, True)
    assert host.lines(state) == before
    assert host.ok("cat", f"{TOP}/conf/pika.conf.rpmsave") == edited
    assert host.run("test", "-e", f"{TOP}/bin")[0] == 1
    assert host.run("test", "-e", "/usr/lib/systemd/system/pika@.service")[0] == 1
    assert host.run("test", "-e", "/usr/lib/debug/opt")[0] == 1
    host.ok("id", "pika")


def test_a_clean_removal_leaves_nothing(host: Host, built: Mapping[str, Path]) -> None:
    host.put({"q/1.rpm": built["pika-3.4.0-1.R620.debian12.x86_64.rpm"]})
    look = (
        "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /q -prune -o -path /var/lib/rpm -prune -o -print"
    )
    before = host.lines(f"{look} | sort")
    assert host.run("rpm", "-i", "/q/1.rpm") == (0, "")
    assert host.run("rpm", "-e", "pika") == (0, "")
    after = set(host.lines(f"{look} | sort"))
    # The backups of useradd; and folders that belong to systemd and to EL's package filesystem, which are not here.
    folders = {"/usr/lib/sysusers.d", "/usr/share/licenses"}
    assert {path for path in after - set(before) if not path.endswith("-")} <= folders


def test_missing_needs_are_told(host: Host, built: Mapping[str, Path]) -> None:
    host.put({"q/1.rpm": next(iter(built.values()))})
    host.ok("rpm", "-e", "base-system")
    status, output = host.run("rpm", "-i", "/q/1.rpm")
    assert status != 0
    assert "rsync is needed by pika-3.4.0-1.R620.debian12.x86_64" in output
    assert "libc.so.6(GLIBC_2.34)(64bit) is needed by" in output
    assert "libglog" not in output


def test_a_machine_that_lacks_a_feature_is_refused(host: Host, refused: Path, built: Mapping[str, Path]) -> None:
    host.put({"q/3.rpm": refused, "q/1.rpm": built["pika-3.4.0-1.R620.debian12.x86_64.rpm"]})
    look = "find /opt /etc /usr/lib/systemd /var/tmp /run | sort; cat /etc/passwd; rpm -qa"
    sentence = "cpu-gate: error: this machine cannot run pika v3.4.0 for R620 (sandybridge, debian12)\n"
    before = host.lines(look)
    status, output = host.run("rpm", "-i", "/q/3.rpm")
    assert status != 0
    assert output.startswith(sentence), output
    assert "no_such_flag" in output
    assert "pika: error: this machine does not run this package (see above); nothing was changed\n" in output
    assert host.lines(look) == before

    # An upgrade is refused as well, and the old package stays.
    assert host.run("rpm", "-i", "/q/1.rpm") == (0, "")
    before = host.lines(look)
    status, output = host.run("rpm", "-U", "/q/3.rpm")
    assert status != 0
    assert output.startswith(sentence), output
    assert host.lines(look) == before
    assert host.run("rpm", "-V", "pika") == (0, "")

    status, output = host.run("rpm", "-U", "/q/3.rpm", PIKAFORGE_SKIP_CPU_GATE="1")
    assert status == 0, output
    assert "cpu-gate: WARNING: going on all the same, because PIKAFORGE_SKIP_CPU_GATE=1." in output
    assert host.lines("rpm -q pika") == ["pika-3.4.0-3.R620.debian12.x86_64"]


def test_running_instances(booted: Host, built: Mapping[str, Path], newer: Path, until: Callable[..., None]) -> None:
    booted.put({"q/1.rpm": built["pika-3.4.0-1.R620.debian12.x86_64.rpm"], "q/2.rpm": newer})
    assert booted.run("rpm", "-i", "/q/1.rpm") == (0, "")
    assert booted.run("systemd-analyze", "verify", "--man=no", "pika@9221.service", "pika.target") == (0, "")
    assert booted.ok("getent", "passwd", "pika").rstrip().endswith(":pika server:/:/usr/sbin/nologin")
    assert booted.ok("stat", "-c", "%U %a", "/run/pika") == "pika 755\n"
    booted.lines(
        "mkdir -p /data/log /data/db /data/dump /data/dbsync && echo CONF=/data/pika.conf >/etc/pika/9221.env;"
        # Fewer clients than by default, because containers have a low limit of open files.
        f"sed 's|: [.]/|: /data/|; s|^maxclients.*|maxclients : 1000|' {TOP}/conf/pika.conf >/data/pika.conf;"
        "chown -R pika: /data"
    )
    booted.ok("systemctl", "enable", "--now", "--quiet", "pika@9221")
    state = ("systemctl", "show", "-P", "ActiveState", "pika@9221")
    process = ("systemctl", "show", "-P", "MainPID", "pika@9221")
    first = booted.ok(*process)
    assert (booted.ok(*state), first != "0\n") == ("active\n", True)

    # An upgrade says how to take it up, and leaves that to the operator.
    status, output = booted.run("rpm", "-U", "/q/2.rpm")
    assert (status, output) == (
        0,
        "pika: running instances go on with the old program until: systemctl try-restart 'pika@*'\n",
    )
    assert booted.ok(*process) == first
    booted.ok("systemctl", "try-restart", "pika@*")
    second = booted.ok(*process)
    assert (booted.ok(*state), second != first) == ("active\n", True)

    # The target stops all of them, and starts those that are enabled.
    booted.ok("systemctl", "start", "pika.target")
    booted.ok("systemctl", "stop", "pika.target")
    until(lambda: booted.ok(*state) == "inactive\n", "the instance ends with the target", 30)
    booted.ok("systemctl", "start", "pika.target")
    until(lambda: booted.ok(*state) == "active\n", "the instance starts with the target", 30)

    data = "sha256sum /data/pika.conf /data/kept /etc/pika/9221.env; stat -c '%n %U %a' /data/* /data/db/db0/[A-Z]*"
    booted.ok("touch", "/data/kept")
    before = booted.lines(data)
    assert booted.run("rpm", "-e", "pika") == (0, "")
    assert booted.ok(*state) == "inactive\n"
    assert booted.ok("systemctl", "show", "-P", "Result", "pika@9221") == "success\n"
    assert booted.run("sh", "-c", "find /etc/systemd -name 'pika*'") == (0, "")
    assert booted.run("systemctl", "cat", "pika@9221")[0] != 0
    assert booted.lines(data) == before


def test_two_models_at_once_are_told_in_a_line(host: Host, kit: Kit, built: Mapping[str, Path]) -> None:
    described, archives = kit.product(model="R720", with_debug=False)
    (other,) = kit.pack("other-model", described, archives).values()
    host.put({"q/1.rpm": built["pika-3.4.0-1.R620.debian12.x86_64.rpm"], "q/other.rpm": other})
    assert host.run("rpm", "-i", "/q/1.rpm") == (0, "")
    status, output = host.run("rpm", "-i", "/q/other.rpm")
    assert status != 0
    assert "pika(model) < R720 conflicts with" in output
    # As the replacement of the other one it is welcome, where its CPUs are.
    assert host.run("rpm", "-U", "/q/other.rpm") == (0, "")
    assert host.lines("rpm -q --whatprovides 'pika(model)'") == ["pika-3.4.0-1.R720.debian12.x86_64"]


def test_the_scriptlets_run_under_busybox(host: Host, built: Mapping[str, Path], refused: Path) -> None:
    host.put({"q/1.rpm": built["pika-3.4.0-1.R620.debian12.x86_64.rpm"], "q/3.rpm": refused})
    for package, statuses in (("1", (0, 0, 0, 0)), ("3", (1, 0, 0, 0))):
        for tag, argument, status in zip(("PREIN", "POSTIN", "PREUN", "POSTUN"), "1101", statuses, strict=True):
            host.ok("sh", "-c", f"rpm -qp --qf '%{{{tag}}}' /q/{package}.rpm >/q/script")
            done, output = host.run("busybox", "sh", "/q/script", argument)
            assert done == status, (tag, output)


# --- debug information as a tarball


def test_the_tarball_of_debug_information(kit: Kit, desk: Host, built: Mapping[str, Path]) -> None:
    tree = tree_entries(kit.tree, folder="tree", prefix=TOP)
    pack = debuginfo.debug_tarball((*kit.debug_entries(), *debuginfo.own_licences(tree, top=TOP, name="pika")))
    packed = []
    for name, archive in (("debug-one", kit.debug), ("debug-two", aged(kit.debug))):
        inputs = {"debug": archive, "tree": kit.tree}
        status, outputs, log = kit.run(name, "debuginfo", pack, inputs, ["debuginfo.tar.gz"])
        assert status == 0, log
        packed.append(outputs["debuginfo.tar.gz"].read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(fileobj=io.BytesIO(packed[0])) as tar:
        members = {f"/{member.name}": member for member in tar}
    listed = desk.query(built["pika-debuginfo-3.4.0-1.R620.debian12.x86_64.rpm"], "-l")
    assert sorted(members) == sorted(listed)
    assert {(m.uid, m.gid, m.mtime) for m in members.values()} == {(0, 0, EPOCH)}
    assert members[f"/usr/lib/debug{TOP}/bin/pika.debug"].mode == 0o644


# --- the allocator


def test_the_allocators_packages(kit: Kit, desk: Host, host: Host) -> None:
    top = allocator.allocator_top("pika", "gperftools")
    prefix = files({
        "lib/libtcmalloc.so.4": b"library", "lib/libtcmalloc.so.4.5.9": b"library", "lib/libtcmalloc.a": b"archive",
        "include/gperftools/tcmalloc.h": b"header", "share/doc/gperftools/README": b"text",
    })  # fmt: skip
    image = kit.spec.images["el7"]
    described = allocator.packages(
        AllocatorPackage(
            about=kit.about(image, version="2.7", summary="Memory allocator"),
            what="gperftools",
            unwinder="frame-pointers",
            target="sandybridge",
            prefix=tree_entries(prefix, folder="prefix", prefix=top),
            requires=("libc.so.6(GLIBC_2.4)(64bit)",),
            changes=(ChangelogEntry(epoch=EPOCH, lines=("gperftools 2.7",)),),
        ),
        profile=spec_file.profile(image.family, image.os),
    )
    libs, devel = kit.pack("gperftools", described, {"prefix": prefix}).values()
    assert [libs.name, devel.name] == [
        "pika-gperftools-libs-2.7-1.frame+pointers.sandybridge.el7.x86_64.rpm",
        "pika-gperftools-devel-2.7-1.frame+pointers.sandybridge.el7.x86_64.rpm",
    ]
    for path in (libs, devel):
        assert not [line for line in desk.query(path, "--provides") if ".so" in line or line.startswith("gperftools")]
        assert all(line.startswith(top) for line in desk.query(path, "-l"))
    host.put({"q/libs.rpm": libs, "q/devel.rpm": devel})
    status, output = host.run("rpm", "-i", "/q/devel.rpm")
    assert (status != 0, "pika-gperftools-libs = 2.7-1.frame+pointers.sandybridge.el7 is needed" in output) == (
        True,
        True,
    )
    assert host.run("rpm", "-i", "/q/libs.rpm", "/q/devel.rpm") == (0, "")
    assert "libtcmalloc" not in host.ok("ldconfig", "-p")
    assert host.run("rpm", "-e", "pika-gperftools-libs", "pika-gperftools-devel") == (0, "")
    assert host.run("test", "-e", top)[0] == 1
