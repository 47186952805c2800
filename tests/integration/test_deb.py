"""DEBs made by the real dpkg-deb in the tools image, and taken by the real dpkg and apt in clean containers."""

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

from pikaforge.audit.elf.facts import read_facts
from pikaforge.audit.inputs import open_package
from pikaforge.audit.judge_linkage import library_versions
from pikaforge.config import families, load
from pikaforge.config.schema import Spec
from pikaforge.formats import debuginfo, payload, product_package
from pikaforge.formats.deb import product as deb_product
from pikaforge.formats.deb.control_files import DebBuild
from pikaforge.formats.layout import tree_entries
from pikaforge.formats.manifest import ManifestPatch
from pikaforge.formats.product_package import PackageAbout, ProductPackage
from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import Input, Job, files

if TYPE_CHECKING:
    from conftest import Engine
    from docker.models.containers import Container

    from .conftest import Warm

ROOT = Path(__file__).resolve().parents[2]
GUEST = ROOT / "docker" / "guest"
SCRIPTS = ("lib.sh", "run.sh", "deb.sh", "layout.sh")
LIBRARY = re.compile(
    r"^(100644 root:root |-rw-r--r-- root/root) /opt/pika/utils/(lib|operate)/[a-z_-]+[.]\w+\n", re.MULTILINE
)
"""Lines of what the scripts of operating read, which is rendered from the product's entry (unit/operate)."""
CONTENTS = Path(__file__).with_name("deb-contents.txt")
EPOCH = 1604318400
TOP = "/opt/pika"
CONF = f"{TOP}/conf/pika.conf"
MAIN, DBGSYM = "pika_3.4.0-1.R620.debian12_amd64.deb", "pika-dbgsym_3.4.0-1.R620.debian12_amd64.deb"
SENTENCE = "cpu-gate: error: this machine cannot run pika v3.4.0 for R620 (sandybridge, debian12)\n"
APT = ("apt-get", "install", "-qq", "--yes", "--allow-downgrades", "-o", "Dpkg::Options::=--force-confold")
"""As in a script: nobody is asked, and an edited conf is kept."""

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("deb")]

DESK = """\
FROM {base}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \\
 && apt-get install -y --no-install-recommends systemd-sysv dbus \\
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
    depends: tuple[str, ...]
    build_ids: Mapping[str, str]
    folder: Path

    def product(
        self, *, release: str = "1", features: Sequence[str] = ("lm",), with_debug: bool = False, **changes: Any
    ) -> tuple[DebBuild, dict[str, bytes | Path]]:
        """The product's description, and the inputs that it names."""
        rendered = payload.render(
            self.spec.product, model="R620", target="sandybridge", image="debian12", features=features
        )
        beside = files({**rendered.contents, "manifest.json": b'{"format": 2}\n'}, executable=rendered.executable)
        image = self.spec.images["debian12"]
        about = PackageAbout(
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
        patches = [ManifestPatch(name="pull-1017", sha256="1" * 64, url="", why="thundering herd")]
        wanted = ProductPackage(
            about=about,
            model="R620",
            target="sandybridge",
            tree=(
                *tree_entries(self.tree, folder="tree", prefix=TOP),
                *tree_entries(beside, folder="extra", prefix=TOP),
            ),
            conf=("conf/pika.conf",),
            payload=rendered.contents,
            changes=product_package.changes(patches, epoch=EPOCH, version="v3.4.0", ref="v3.4.0"),
            debug=debuginfo.debug_entries(self.debug, folder="debug", prefix=TOP, build_ids=self.build_ids)
            if with_debug
            else (),
        )
        described = deb_product.product(replace(wanted, **changes), depends=self.depends)
        return described, {"tree": self.tree, "debug": self.debug, "extra": beside}

    def pack(self, name: str, described: DebBuild, archives: Mapping[str, bytes | Path]) -> dict[str, Path]:
        """Make DEBs as stages do; paths by file name."""
        folder = self.folder / name
        folder.mkdir()
        parts = {**archives, "made": files(described.extra), "pack": files(described.pack())}
        job = Job(
            label=f"test-deb-{name}",
            image=self.tools,
            argv=("sh", "guest/run.sh", "deb"),
            env={"SOURCE_DATE_EPOCH": str(EPOCH)},
            inputs=(
                Input(folder="guest", archive=files({s: GUEST / s for s in SCRIPTS}, executable=SCRIPTS)),
                *(Input(folder=key, archive=value) for key, value in parts.items()),
            ),
            outputs=tuple(f"out/{name}" for name in described.names),
            log=folder / "log",
            timeout=120,
        )
        done = DockerEngine().run(job, folder)
        assert done.status == 0, job.log.read_text(encoding="utf-8", errors="replace")[-3000:]
        return {path.name: path for path in done.outputs.values()}


@pytest.fixture(scope="module")
def kit(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """What packing starts from."""
    folder = tmp_path_factory.mktemp("deb")
    images = [
        json.loads((warm.store / "image" / key / "result.json").read_text(encoding="utf-8"))["facts"]
        for key in warm.keys["image"]
    ]
    entry = warm.store / "compile" / warm.keys["compile"][0]
    opened = open_package(entry / "tree.tar", folder / "elves")
    facts = [read_facts(path, name=name) for name, path in opened.elves.items()]
    system = {soname for fact in facts for soname in fact.needed} - {fact.soname for fact in facts}
    spec = load.load(ROOT / "matrix.yaml")
    return Kit(
        spec=spec,
        tools=next(facts["build"] for facts in images if "/tools-" in facts.get("build", "")),
        runtime=next(facts["runtime"] for facts in images if facts.get("runtime")),
        tree=entry / "tree.tar",
        debug=entry / "debug.tar",
        depends=deb_product.depends(library_versions(facts, sorted(system)), ["rsync"]),
        build_ids={fact.name: fact.build_id for fact in facts},
        folder=folder,
    )


@pytest.fixture(scope="module")
def built(kit: Kit) -> dict[str, Path]:
    """The product's DEB for Debian 12, and that of its debug information."""
    return kit.pack("plain", *kit.product(with_debug=True))


@pytest.fixture(scope="module")
def newer(kit: Kit) -> Path:
    """Release 2, whose conf differs."""
    described, archives = kit.product(release="2")
    main = described.deb.packages[0]
    entries = tuple(replace(e, source="made/pika.conf") if e.path == CONF else e for e in main.entries)
    changed = DebBuild(
        deb=replace(described.deb, packages=(replace(main, entries=entries),)),
        extra={**described.extra, "pika.conf": b"port : 9221\n# of release 2\n"},
    )
    return next(iter(kit.pack("newer", changed, archives).values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A container with dpkg."""

    container: Container

    def run(self, *argv: str, **env: str) -> tuple[int, str]:
        """Run a program; exit status and both outputs."""
        env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", **env}
        status, output = run_in(self.container, argv, env=env, workdir="/")
        return status, output.decode("utf-8", "replace").replace("\r\n", "\n")  # dpkg gives scripts a terminal

    def ok(self, *argv: str, **env: str) -> str:
        """Run a program that must succeed; its output."""
        status, output = self.run(*argv, **env)
        assert status == 0, output
        return output

    def lines(self, script: str) -> list[str]:
        return self.ok("sh", "-c", script).splitlines()

    def put(self, contents: Mapping[str, bytes | Path], folder: str = "/") -> None:
        self.container.put_archive(folder, files(contents))


@contextmanager
def host_of(engine: Engine, image: str, **options: Any) -> Iterator[Host]:
    plain: dict[str, Any] = {"command": ["sleep", "3600"], "init": "command" not in options, "network_mode": "none"}
    container = engine.client.containers.run(image, detach=True, **{**plain, **options})
    try:
        name_itself(container)
        yield Host(container=container)
    finally:
        container.remove(force=True)


@pytest.fixture
def host(engine: Engine, kit: Kit) -> Iterator[Host]:
    """A machine without the product and without systemd: the clean runtime image."""
    with host_of(engine, kit.runtime) as host:
        yield host


@pytest.fixture(scope="module")
def desk_image(engine: Engine, kit: Kit) -> str:
    """The runtime image with systemd; kept for later test runs."""
    return image_of(engine, DESK.format(base=kit.runtime), "deb")


@pytest.fixture(scope="module")
def desk(engine: Engine, desk_image: str, built: Mapping[str, Path]) -> Iterator[Host]:
    """For questions, which change nothing; the packages are in /q."""
    with host_of(engine, desk_image) as host:
        host.put({f"q/{name}": path for name, path in built.items()})
        yield host


@pytest.fixture
def booted(engine: Engine, desk_image: str, until: Callable[..., None]) -> Iterator[Host]:
    """A machine with systemd as its first process."""
    options: dict[str, Any] = {
        "command": ["/sbin/init"],
        "cap_add": ["SYS_ADMIN"],
        "tmpfs": {"/run": "", "/tmp": "exec"},
        "volumes": {"/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "ro"}},
        "environment": {"container": "docker"},
    }
    with host_of(engine, desk_image, **options) as host:
        state = "systemctl is-system-running 2>/dev/null || :"
        until(lambda: host.ok("sh", "-c", state).strip() in ("running", "degraded"), "systemd is up", 60)
        yield host


# --- the files themselves


def test_contents_are_those_of_the_list(built: Mapping[str, Path], desk: Host) -> None:
    assert list(built) == [MAIN, DBGSYM]
    shown = []
    for name in built:
        desk.lines(f"mkdir -p /q/{name}.d && dpkg-deb -e /q/{name} /q/{name}.d")
        conffiles = desk.lines(f"cat /q/{name}.d/conffiles 2>/dev/null || :")
        shown += desk.lines(f"cd /q/{name}.d && find . -type f -printf '%m control %f\\n' | sort -k 3")
        for line in desk.lines(f"dpkg-deb -c /q/{name}"):
            mode, owner, *_, path = line.replace(" -> ", "→").split()
            path = path.removeprefix(".")
            # The name of a link by build-id is the compiler's to choose.
            place, _, build_id = path.partition("/.build-id/")
            mark = "conf " if path in conffiles else ""
            shown.append(f"{mode} {owner} {mark}{f'{place}/.build-id/…' if build_id else path}")
    text = "\n".join(shown) + "\n"
    text = LIBRARY.sub("", text)
    assert text == CONTENTS.read_text(encoding="utf-8"), text


def test_the_audit_reads_it(built: Mapping[str, Path], kit: Kit, tmp_path: Path) -> None:
    elves = {
        path: open_package(archive, tmp_path / str(number)).elves
        for number, (path, archive) in enumerate({"deb": built[MAIN], "tree": kit.tree}.items())
    }
    digests = {
        kind: {name.removeprefix("opt/pika/"): sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
        for kind, found in elves.items()
    }
    assert digests["deb"] == digests["tree"]
    assert "bin/pika" in digests["deb"]


def test_control(built: Mapping[str, Path], desk: Host) -> None:
    asked = ("Version", "Depends", "Provides", "Installed-Size", "Section")
    told = dict(line.split(": ", 1) for line in desk.ok("dpkg-deb", "-f", f"/q/{MAIN}", *asked).splitlines())
    assert told["Version"] == "3.4.0-1.R620.debian12"
    assert told["Provides"] == "pika-model-r620, pika-target-sandybridge"
    needed = told["Depends"].split(", ")
    assert [one.split()[0] for one in needed] == ["libc6", "libgcc-s1", "libstdc++6", "rsync", "passwd"]
    assert "libc6 (>= 2.34)" in needed
    desk.lines(f"mkdir -p /q/root && dpkg-deb -x /q/{MAIN} /q/root && dpkg-deb -e /q/{MAIN} /q/control")
    kib = int(desk.ok("du", "-sk", "--apparent-size", "/q/root").split()[0])
    assert kib * 0.9 < int(told["Installed-Size"]) < kib * 1.1
    sums = desk.lines("cd /q/root && md5sum --check --strict /q/control/md5sums")
    assert all(line.endswith(": OK") for line in sums)
    conf_and_md5 = desk.lines("cd /q/root && find . -type f | wc -l; wc -l </q/control/md5sums")
    assert int(conf_and_md5[0]) == int(conf_and_md5[1]) + 1
    assert desk.lines("find /q/root ! -type l -printf '%T@\\n' | sort -u") == [f"{EPOCH}.0000000000"]
    assert desk.lines("zcat /q/root/usr/share/doc/pika/changelog.Debian.gz")[2:4] == [
        "  * v3.4.0 from v3.4.0",
        "  * pull-1017: thundering herd",
    ]
    (build_id,) = (
        line.removeprefix("Build-Ids: ") for line in desk.ok("dpkg-deb", "-f", f"/q/{DBGSYM}", "Build-Ids").splitlines()
    )
    desk.lines(f"dpkg-deb -x /q/{DBGSYM} /q/root")
    found = desk.ok("readlink", "-e", f"/q/root/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug")
    assert found == f"/q/root/usr/lib/debug{TOP}/bin/pika.debug\n"


def test_the_table_of_versions_is_the_systems(desk: Host) -> None:
    found: dict[str, dict[str, str]] = {}
    for line in desk.lines("cat /var/lib/dpkg/info/libstdc++6:amd64.symbols /var/lib/dpkg/info/libgcc-s1:*.symbols"):
        name, _, rest = line.strip().partition("@")
        namespace, _, number = name.rpartition("_")
        if namespace in ("GLIBCXX", "CXXABI", "CXXABI_TM", "GCC") and number[0].isdigit() and rest.startswith(name):
            found.setdefault(namespace, {})[number] = rest.split()[1]
    # Packages of libgcc-s1 begin with 10: older versions of symbols are in each of them.
    gcc = {number: since for number, since in found.pop("GCC").items() if int(number.partition(".")[0]) >= 5}
    assert gcc
    assert {number: deb_product.since("libgcc_s.so.1", "GCC", number) for number in gcc} == gcc
    assert {namespace: set(numbers) - set(deb_product.SINCE[namespace]) for namespace, numbers in found.items()} == {
        namespace: set() for namespace in deb_product.SINCE
    }
    assert found == {
        namespace: {number: since for number, since in numbers.items() if number in found[namespace]}
        for namespace, numbers in deb_product.SINCE.items()
    }


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


def test_unlike_conditions_give_the_same_bytes(engine: Engine, kit: Kit, built: Mapping[str, Path]) -> None:
    described, archives = kit.product(with_debug=True)
    env = {
        "PIKAFORGE_ROOT": "/srv/some/other/place",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "TZ": "Asia/Tokyo",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "DPKG_DEB_THREADS_MAX": "7",
        "DPKG_DEB_COMPRESSOR_TYPE": "gzip",
        "TAR_OPTIONS": "--owner=1234 --mode=600",
        "GZIP": "--rsyncable",
        "XZ_OPT": "-0",
    }
    root = env["PIKAFORGE_ROOT"].lstrip("/")
    parts = {**archives, "made": files(described.extra), "pack": files(described.pack())}
    with host_of(engine, kit.tools, hostname="elsewhere") as other:
        other.put({f"{root}/guest/{name}": GUEST / name for name in SCRIPTS})
        for name, archive in parts.items():
            other.ok("mkdir", "-p", f"/{root}/{name}")
            other.container.put_archive(f"/{root}/{name}", aged(archive))
        # Folders made below this one get its group, and pass the mark on.
        script = (
            f'chgrp 1234 "/{root}" && chmod g+s "/{root}" && umask 077 && cd /tmp && exec sh "/{root}/guest/deb.sh"'
        )
        status, log = other.run("sh", "-c", script, **env)
        assert status == 0, log
        found = {}
        for name in described.names:
            stream, _ = other.container.get_archive(f"/{root}/out/{name}")
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                content = tar.extractfile(name)
                assert content is not None
                found[name] = content.read()
    for name, data in found.items():
        assert members(data) == members(built[name].read_bytes()), name  # which part it is
        assert data == built[name].read_bytes(), name


def members(data: bytes) -> dict[str, str]:
    """Digests of the parts of a DEB (deb(5))."""
    found, at = {}, 8
    while at < len(data):
        size = int(data[at + 48 : at + 58])
        found[data[at : at + 60].decode()] = sha256(data[at + 60 : at + 60 + size]).hexdigest()
        at += 60 + size + size % 2
    return found


# --- installed


STATE = "find /data /etc/pika/* -printf '%p %u %m %T@\\n' | sort; find /data /etc/pika -type f -exec sha256sum {} +"


def tarball(kit: Kit) -> dict[str, str]:
    """By path on the host: digests of what the tarball has."""
    found = {}
    _, archives = kit.product()
    for archive in (kit.tree.read_bytes(), archives["extra"]):
        assert isinstance(archive, bytes)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None:
                    found[f"{TOP}/{member.name.removeprefix('./')}"] = sha256(content.read()).hexdigest()
    return found


def version(host: Host) -> str:
    """Of the installed package, with dpkg's state."""
    return host.ok("dpkg-query", "-W", "-f", "${Status} ${Version}", "pika")


def test_install_upgrade_removal_and_purge(host: Host, kit: Kit, built: Mapping[str, Path], newer: Path) -> None:
    host.put({"q/1.deb": built[MAIN], "q/dbgsym.deb": built[DBGSYM], "q/2.deb": newer})
    host.ok(*APT, "/q/1.deb", "/q/dbgsym.deb")
    assert host.run("dpkg", "--verify", "pika", "pika-dbgsym") == (0, "")
    assert host.run("dpkg", "--audit") == (0, "")

    # Byte for byte the tarball's files, and nobody can change them but root.
    sums = (line.split("  ") for line in host.lines(f"find {TOP} -type f -exec sha256sum {{}} +"))
    assert {path: digest for digest, path in sums} == tarball(kit)
    assert host.ok("find", TOP, "(", "!", "-user", "0", "-o", "-perm", "/022", ")", "!", "-type", "l") == ""
    assert host.ok(f"{TOP}/bin/pika", "-v").splitlines()[0].startswith("pika_version: 3.4.0")
    assert host.ok("getent", "passwd", "pika").rstrip().endswith("/nologin")

    # An instance, its data, and what the operator changed.
    host.ok("sh", f"{TOP}/utils/deploy.sh", "9221", "/data", "--no-start")
    host.lines(
        f"echo 'thread-num : 7' >>{CONF}; echo 'requirepass : x' >>/data/pika_9221/conf/pika.conf;"
        "echo data >/data/pika_9221/db/1; echo CONF=x >/etc/pika/9221.env"
    )
    before = host.lines(STATE)
    edited = host.ok("cat", CONF)

    host.ok("apt-get", "remove", "-qq", "--yes", "pika-dbgsym")
    host.ok(*APT, "/q/2.deb")
    assert version(host) == "install ok installed 3.4.0-2.R620.debian12"
    assert host.ok("cat", CONF) == edited
    assert "of release 2" in host.ok("cat", f"{CONF}.dpkg-dist")
    assert host.lines(STATE) == before

    host.ok(*APT, "/q/1.deb")
    assert version(host) == "install ok installed 3.4.0-1.R620.debian12"
    assert host.ok("cat", CONF) == edited
    assert host.lines(STATE) == before

    host.ok("apt-get", "remove", "-qq", "--yes", "pika")
    assert host.lines(STATE) == before
    assert host.lines(f"find {TOP} -type f | sort") == [CONF, f"{CONF}.dpkg-dist"]
    assert host.ok("cat", CONF) == edited
    assert host.run("test", "-e", "/usr/lib/systemd/system/pika@.service")[0] == 1

    told = host.ok("apt-get", "purge", "-qq", "--yes", "pika")
    assert "pika: data of instances, their files in /etc/pika and the user pika were left as they are\n" in told
    assert host.run("test", "-e", TOP)[0] == 1
    assert host.lines(STATE) == before
    host.ok("id", "pika")


def test_a_clean_purge_leaves_the_user_only(host: Host, built: Mapping[str, Path]) -> None:
    host.put({"q/1.deb": built[MAIN]})
    skipped = " -o ".join(f"-path {path}" for path in ("/proc", "/sys", "/q", "/var/lib/dpkg", "/var/log"))
    script = f"find / -xdev \\( {skipped} \\) -prune -o -print | sort"
    before = host.lines(script)
    host.ok("dpkg", "-i", "/q/1.deb")
    host.ok("dpkg", "--purge", "pika")
    after = set(host.lines(script))
    # dpkg removes folders that are empty and no package's, and in Debian nobody owns /opt.
    assert set(before) - after <= {"/opt"}
    # The backups of useradd.
    assert not [path for path in after - set(before) if not path.endswith("-")]
    host.ok("id", "pika")


def test_missing_needs_are_told(host: Host, built: Mapping[str, Path]) -> None:
    host.put({"q/1.deb": built[MAIN]})
    host.ok("dpkg", "--remove", "rsync")
    status, output = host.run("apt-get", "install", "--yes", "/q/1.deb")
    assert status != 0
    assert "pika : Depends: rsync" in output
    assert host.run("test", "-e", TOP)[0] == 1


def test_a_machine_that_lacks_a_feature_is_refused(host: Host, kit: Kit, built: Mapping[str, Path]) -> None:
    described, archives = kit.product(release="3", features=("lm", "no_such_flag"))
    (refused,) = kit.pack("refused", described, archives).values()
    host.put({"q/3.deb": refused, "q/1.deb": built[MAIN]})
    look = "find /opt /etc /usr/lib/systemd /usr/share/doc /var/tmp /run | sort; cat /etc/passwd"
    before = host.lines(look)
    for argv in (("dpkg", "-i", "/q/3.deb"), (*APT, "/q/3.deb")):
        status, output = host.run(*argv)
        assert status != 0
        assert SENTENCE in output, output
        assert "no_such_flag" in output
        assert "pika: error: this machine does not run this package (see above); nothing was changed\n" in output
        assert host.lines(look) == before
        assert version(host) in ("unknown ok not-installed ", "install ok not-installed ")
        assert host.run("dpkg", "--audit") == (0, "")

    # An upgrade is refused as well, and the old package stays.
    host.ok("dpkg", "-i", "/q/1.deb")
    before = host.lines(look)
    status, output = host.run("dpkg", "-i", "/q/3.deb")
    assert status != 0
    assert SENTENCE in output, output
    assert host.lines(look) == before
    assert version(host) == "install ok installed 3.4.0-1.R620.debian12"
    assert host.run("dpkg", "--verify", "pika") == (0, "")

    told = host.ok(*APT, "/q/3.deb", PIKAFORGE_SKIP_CPU_GATE="1")
    assert "cpu-gate: WARNING: going on all the same, because PIKAFORGE_SKIP_CPU_GATE=1." in told
    assert version(host) == "install ok installed 3.4.0-3.R620.debian12"


def test_other_models_and_variants_take_its_place(host: Host, kit: Kit, built: Mapping[str, Path]) -> None:
    packed = {}
    for name, key, value in (("model", "model", "R720"), ("one", "variant", "one"), ("two", "variant", "two")):
        changes: dict[str, Any] = {key: value}
        described, archives = kit.product(**changes)
        (packed[name],) = kit.pack(name, described, archives).values()
    host.put({"q/1.deb": built[MAIN], **{f"q/{name}.deb": path for name, path in packed.items()}})
    names = "dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\\n' 'pika*' | grep ' installed '"
    host.ok(*APT, "/q/1.deb")
    host.ok(*APT, "/q/model.deb")
    assert host.lines(names) == ["pika installed 3.4.0-1.R720.debian12"]
    previous = "pika"
    for name in ("one", "two"):
        told = host.ok(*APT, f"/q/{name}.deb")
        assert f"Removing {previous} " in told
        previous = f"pika-{name}"
        assert host.lines(names) == [f"{previous} installed 3.4.0-1.R620.debian12"]
        assert host.run("dpkg", "--verify", previous) == (0, "")


def test_running_instances(booted: Host, built: Mapping[str, Path], newer: Path) -> None:
    booted.put({"q/1.deb": built[MAIN], "q/2.deb": newer})
    booted.ok(*APT, "/q/1.deb")
    assert booted.run("systemd-analyze", "verify", "--man=no", "pika@9221.service", "pika.target") == (0, "")
    assert booted.ok("getent", "passwd", "pika").rstrip().endswith(":pika server:/:/usr/sbin/nologin")
    assert booted.ok("stat", "-c", "%U %a", "/run/pika") == "pika 755\n"
    assert booted.run("sh", "-c", "find /etc/systemd -name 'pika*'") == (0, "")
    booted.lines(
        "mkdir -p /data/log /data/db /data/dump /data/dbsync && echo CONF=/data/pika.conf >/etc/pika/9221.env;"
        # Fewer clients than by default, because containers have a low limit of open files.
        f"sed 's|: [.]/|: /data/|; s|^maxclients.*|maxclients : 1000|' {CONF} >/data/pika.conf;"
        "chown -R pika: /data"
    )
    booted.ok("systemctl", "enable", "--now", "--quiet", "pika@9221")
    state = ("systemctl", "show", "-P", "ActiveState", "pika@9221")
    process = ("systemctl", "show", "-P", "MainPID", "pika@9221")
    first = booted.ok(*process)
    assert (booted.ok(*state), first != "0\n") == ("active\n", True)

    # An upgrade says how to take it up, and leaves that to the operator.
    told = booted.ok(*APT, "/q/2.deb")
    assert "running instances go on with the old program until: systemctl try-restart 'pika@*'" in told
    assert booted.ok(*process) == first
    booted.ok("systemctl", "try-restart", "pika@*")
    assert (booted.ok(*state), booted.ok(*process) != first) == ("active\n", True)

    booted.ok("touch", "/data/kept")
    data = "sha256sum /data/pika.conf /data/kept /etc/pika/9221.env; stat -c '%n %U %a' /data/*"
    before = booted.lines(data)
    booted.ok("apt-get", "purge", "-qq", "--yes", "pika")
    assert booted.ok(*state) == "inactive\n"
    assert booted.ok("systemctl", "show", "-P", "Result", "pika@9221") == "success\n"
    assert booted.run("sh", "-c", "find /etc/systemd -name 'pika*'") == (0, "")
    assert booted.lines(data) == before
