"""A published repository as its clients meet it: dnf, apt and pip take packages from it, through a real web server.

Packages of two releases go from the pipeline through `publish` into a folder that nginx serves, as a user would have
it: the folder is mounted, so it is the server that follows the symlinks in it. Clients do what the index page says, on
machines that have nothing else to take packages from. See rpm_host.py on dnf.
"""

from __future__ import annotations

import html
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from execs import run_in
from integration import dav, rpm_host
from integration.builds import ALL_FORMATS, ENDED, SampleBuild
from integration.images import base_of, image_of
from integration.keys import Key, new_key
from integration.rpm_host import HOST, STUB, TOP, full

from pikaforge.config.schema import FormatName, OsRelease
from pikaforge.formats import client_lines
from pikaforge.formats import format as formats
from pikaforge.formats.deb import client as deb_client
from pikaforge.formats.format import InstallOffer
from pikaforge.formats.rpm import client as rpm_client
from pikaforge.host.job import files

if TYPE_CHECKING:
    from conftest import Done, Engine, Project
    from docker.models.containers import Container

    from .conftest import Shop, Warm

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("publish-clients"),
    pytest.mark.long(60),
    pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg"),
]

PLACE = "debian12/R620"
DMI = "PowerEdge R620"
DEB = "3.4.0-{}.R620.debian12"
WHEEL = "3.4.0+r620.debian12"
ABSENT = "R720"
"""A model of the matrix that nothing is published for."""

CONFIGURATION = """\
user www-data;
daemon off;
pid /run/nginx.pid;
error_log /var/log/nginx/errors.log;
events { worker_connections 256; }
http {
    default_type application/octet-stream;
    log_format clients '$status $request_method $uri';
    access_log /var/log/nginx/clients.log clients;
    server { listen 80; root /srv/www; }
}
"""
START = "rm -f /etc/nginx/sites-enabled/* && exec nginx -c /etc/nginx/test.conf"

APT_HOST = """\
FROM {base}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \\
 && apt-get install -y --no-install-recommends curl \\
 && rm -rf /var/lib/apt/lists/* /etc/apt/sources.list /etc/apt/sources.list.d/*
"""
"""A machine whose apt knows no repository; what the package asks for, rsync, it has."""

REMEMBERED = ("proc", "sys", "tmp", "srv", "var/cache", "var/log", "var/lib/dnf", "var/lib/apt", "root/.rpmdb")
UNCHANGED = (
    f"cd / && find . -xdev \\( {' -o '.join(f'-path ./{path}' for path in REMEMBERED)} \\) -prune"
    " -o -printf '%p %y %s %m %U %G %l %T@\\n' | sort; rpm -qa 2>/dev/null | sort; cat /var/lib/dpkg/status"
)
"""Everything but what package managers remember of repositories; of rpm's database, what it says."""


# --- what is published


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A repository that is served."""

    project: Project
    top: Path
    """With a dist folder for each release."""
    key: Key
    root: Path
    url: str
    server: Container

    def publish(self, *options: str, release: str = "1") -> Done:
        """Run `publish`, signed."""
        places = ("--matrix", str(self.project.matrix), "--out", str(self.project.out))
        dist = str(self.top / f"dist-{release}")
        words = ("publish", "R620", *options, "--to", "site", "--yes", *places, "--dist", dist)
        return self.project.tool(*words, env=self.key.environment, check=0)

    def read(self, path: str) -> bytes:
        """A file as any reader gets it, which the server must have."""
        got = dav.fetched(f"{self.url}/{path}")
        assert got is not None
        assert got[0] == 200, f"{path}: {got[0]}"
        return got[1]

    def log(self) -> list[str]:
        """Status, method and path of each request."""
        status, output = run_in(self.server, ["cat", "/var/log/nginx/clients.log"])
        assert status == 0
        return output.decode().splitlines()

    def fleet_lines(self, of: FormatName) -> str:
        """What is to be done on any machine of the fleet; the page says it of one kind of package."""

        def lines(kind: FormatName) -> str:
            offer = InstallOffer(
                product="pika",
                image="debian12",
                os=OsRelease(id="debian", version="12"),
                model=None,
                package="pika",
                version="",
                base_url=self.url,
                path="debian12",
                key_url=f"{self.url}/pika.asc",
            )
            return "\n".join(formats.of(kind).install_lines(offer))

        found = re.findall(r"<pre>(.*?)</pre>", self.read("index.html").decode(), re.DOTALL)
        assert [html.unescape(text) for text in found] in ([lines("rpm")], [lines("deb")])
        return lines(of)

    def lines(self, of: FormatName) -> str:
        """What the index page's search says for the product in one format."""
        text = self.read("index.html").decode()
        (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
        told = json.loads(data)
        (image,) = told["images"]
        (repository,) = image["repositories"]
        chosen = [file for file in repository["files"] if (file["format"], file["role"]) == (of, "main")]
        return "\n".join(told["lines"][number] for number in chosen[0]["install"])

    @contextmanager
    def altered(self, changes: Mapping[str, bytes | None]) -> Iterator[None]:
        """Other files in the repository while the block runs, as somebody with the server's disk could put them."""
        folder = self.root / PLACE
        before = {path: (folder / path).read_bytes() for path in changes}
        try:
            for path, data in changes.items():
                put(folder / path, data)
            yield
        finally:
            for path, old in before.items():
                put(folder / path, old)


def put(path: Path, data: bytes | None) -> None:
    """Write a file anew: generations share it by hard links. Without data there is none afterwards."""
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)
        path.chmod(0o644)


def flipped(data: bytes, at: int = -100) -> bytes:
    """The data with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@pytest.fixture(scope="module")
def image(engine: Engine, warm: Warm) -> str:
    """The runtime image of Debian 12 with nginx."""
    return dav.nginx_image(engine, warm)


@pytest.fixture(scope="module")
def server(
    engine: Engine, image: str, until: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Container, Path, str]]:
    """An nginx that serves a folder of this machine; the folder, and its address."""
    folder = tmp_path_factory.mktemp("served") / "www"
    folder.mkdir(mode=0o755)
    (folder / "probe").write_text("here\n", encoding="utf-8")
    (folder / "probe").chmod(0o644)
    mounts = {str(folder): {"bind": "/srv/www", "mode": "ro"}}
    container = engine.client.containers.create(image, ["sh", "-ec", START], init=True, volumes=mounts)
    try:
        container.put_archive("/etc/nginx", files({"test.conf": CONFIGURATION.encode()}))
        container.start()
        container.reload()
        url = f"http://{container.attrs['NetworkSettings']['Networks']['bridge']['IPAddress']}"
        until(lambda: dav.fetched(f"{url}/probe") is not None, "nginx answers", 30)
        if dav.fetched(f"{url}/probe") != (200, b"here\n"):
            pytest.skip("the engine does not see this machine's folders")
        yield container, folder, url
    finally:
        container.remove(force=True)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    """The publisher's."""
    with new_key(tmp_path_factory.mktemp("key"), passphrase="of a throw-away key") as made:
        yield made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    """That of somebody whom no client knows."""
    with new_key(tmp_path_factory.mktemp("stranger")) as made:
        yield made


@pytest.fixture(scope="module")
def site(
    shop: Shop,
    sample_build: Callable[..., SampleBuild],
    server: tuple[Container, Path, str],
    key: Key,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """Both releases are built, and the first is published."""
    container, folder, address = server
    top = tmp_path_factory.mktemp("publish-clients")
    project = shop.ready(top)
    shop.take(project, *ENDED, build=sample_build("R620", "--formats", ALL_FORMATS))
    root, url = folder / "site", f"{address}/site"
    for release, packed in (("1", ALL_FORMATS), ("2", "rpm,deb")):

        def edit(matrix: dict[str, Any], release: str = release) -> None:
            matrix["product"]["release"] = release
            matrix["publish"]["site"] = {"kind": "directory", "path": str(root), "clients": url}

        project.change(edit)
        project.dist = top / f"dist-{release}"
        project.build("R620", "--formats", packed, check=0, env=key.environment)
    made = Site(project=project, top=top, key=key, root=root, url=url, server=container)
    made.publish()
    return made


# --- the machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(rpm_host.Host):
    """A machine with nothing but the ways that the page names."""

    def offered(self) -> list[str]:
        """What the repository has of the product, as dnf names it."""
        status, output = self.dnf("--quiet", "repoquery", "--qf", "%{name}-%{version}-%{release}.%{arch}", "pika")
        assert status == 0, output
        return output.split()

    def obey(self, lines: str) -> str:
        """Do what a page says, but for what asks a person: without a terminal, dnf imports keys only if told to."""
        return self.ok("sh", "-ec", f'cd "$(mktemp -d)"\n{lines.replace("dnf install", "dnf install --assumeyes")}')

    def serves(self) -> None:
        """Run an instance of what is installed; it answers."""
        self.deploy()
        self.start()
        assert self.talk("SET", "kept", "value") == "+OK"

    def goes_on(self) -> None:
        """After another package was installed: the old program runs still, the new one has its data."""
        assert self.talk("PING") == "+PONG"
        self.restart()
        assert self.talk("GET", "kept") == "value"

    def refuses(self, argv: Sequence[str], says: str) -> None:
        """A command fails with these words, and nothing but what is remembered of repositories changes."""
        before = self.sh(UNCHANGED)
        assert len(before) > 10_000
        status, output = self.run(*argv)
        assert status != 0, output
        assert re.search(says, output), output
        assert self.sh(UNCHANGED) == before


@dataclass(frozen=True, slots=True, kw_only=True)
class AptHost(Host):
    """A machine with apt."""

    def state(self) -> str:
        """What dpkg knows of the product."""
        return self.run("dpkg-query", "-W", "-f", "${Status} ${Version}", "pika")[1]

    def available(self) -> list[str]:
        """Versions that the repository has."""
        return [line.split("|")[1].strip() for line in self.ok("apt-cache", "madison", "pika").splitlines()]

    def date(self) -> datetime:
        """The date of the repository's state, as apt keeps it."""
        (found,) = re.findall(r"^Date: (.+)$", self.sh("cat /var/lib/apt/lists/*_InRelease"), re.MULTILINE)
        return parsedate_to_datetime(found)


@pytest.fixture(scope="module")
def start(
    engine: Engine, warm: Warm, until: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Makes machines: `with start(kind) as host`. Their DMI product name is that of an R620."""
    texts = {Host: ("dnf", HOST), AptHost: ("apt", APT_HOST)}
    base = base_of(warm)
    sys_folder = tmp_path_factory.mktemp("machine") / "sys"
    (sys_folder / "class/dmi/id").mkdir(parents=True)
    # The engine mounts this one; it would make it as root.
    (sys_folder / "fs/cgroup").mkdir(parents=True)
    (sys_folder / "class/dmi/id/product_name").write_text(f"{DMI}\n", encoding="utf-8")

    @contextmanager
    def machine(kind: type[Host]) -> Iterator[Host]:
        name, text = texts[kind]
        image = image_of(engine, text.format(base=base), name)
        container = engine.client.containers.run(
            image,
            ["sleep", "3600"],
            detach=True,
            init=True,
            hostname="clean",
            volumes={str(sys_folder): {"bind": "/sys", "mode": "ro"}},
        )
        try:
            host = kind(container=container, until=until)
            if kind is Host:
                host.sh(STUB)
            yield host
        finally:
            container.remove(force=True)

    return machine


@pytest.fixture
def rpm_machine(start: Callable[..., Any]) -> Iterator[Host]:
    """A machine with dnf."""
    with start(Host) as host:
        yield host


@pytest.fixture
def apt_machine(start: Callable[..., Any]) -> Iterator[AptHost]:
    """A machine with apt."""
    with start(AptHost) as host:
        yield host


# --- the way of a release to the machines


def test_releases_reach_machines_and_are_taken_back(
    site: Site, rpm_machine: Host, apt_machine: AptHost, start: Callable[..., Any]
) -> None:
    # Both take the first release as the page says.
    lines = site.fleet_lines("rpm")
    assert f"{site.url}/{rpm_client.fleet_repo_path('pika', 'debian12')}" in lines
    told = rpm_machine.obey(lines)
    assert f"this machine is R620 of debian12, by its DMI product name '{DMI}'" in told
    assert rpm_machine.installed() == full("1")
    config = rpm_machine.ok("cat", "/etc/yum.repos.d/pika.repo")
    assert f"\ngpgcheck=1\nrepo_gpgcheck=1\ngpgkey={site.url}/pika.asc\n" in config
    assert rpm_machine.ok("rpm", "-q", "gpg-pubkey").count("gpg-pubkey-") == 1
    rpm_machine.serves()
    assert f"200 GET /site/{PLACE}/x86_64/repodata/repomd.xml.asc" in site.log()

    lines = site.lines("deb")
    assert "trusted" not in lines
    assert f"{site.url}/{deb_client.apt_list_path('pika', 'debian12', 'R620')}" in lines
    apt_machine.obey(lines)
    assert apt_machine.state() == f"install ok installed {DEB.format('1')}"
    source = apt_machine.ok("cat", "/etc/apt/sources.list.d/pika.list")
    assert f"\ndeb [arch=amd64 signed-by=/etc/apt/keyrings/pika.asc] {site.url}/{PLACE}/debs ./\n" in source
    apt_machine.serves()
    asked = [line for line in site.log() if f"/{PLACE}/debs/" in line and "Packages" not in line]
    assert any(re.search(r"^200 GET \S+/debs/by-hash/SHA256/[0-9a-f]{64}$", line) for line in asked), asked
    assert not [line for line in site.log() if "Packages" in line], "lists are asked for by their digests alone"

    # The second one is an upgrade for both.
    site.publish(release="2")
    rpm_machine.dnf_ok("upgrade", "pika")
    assert rpm_machine.installed() == full("2")
    rpm_machine.goes_on()
    assert rpm_machine.offered() == [full("1"), full("2")]
    apt_machine.ok("apt-get", "update")
    apt_machine.ok("apt-get", "upgrade", "--yes")
    assert apt_machine.state() == f"install ok installed {DEB.format('2')}"
    apt_machine.goes_on()
    assert apt_machine.available() == [DEB.format("2"), DEB.format("1")]
    date = apt_machine.date()

    # It is taken back: only the first one is to be had.
    site.publish("--rollback")
    assert rpm_machine.offered() == [full("1")]
    rpm_machine.dnf_ok("downgrade", "pika")
    assert rpm_machine.installed() == full("1")
    rpm_machine.goes_on()
    apt_machine.ok("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
    assert apt_machine.date() > date, "a state that is older than the one before would be refused"
    assert apt_machine.available() == [DEB.format("1")]
    apt_machine.ok("apt-get", "install", "--yes", "--allow-downgrades", f"pika={DEB.format('1')}")
    assert apt_machine.state() == f"install ok installed {DEB.format('1')}"
    apt_machine.goes_on()

    # A new machine finds what it is by itself.
    with start(AptHost) as new:
        told = new.obey(site.fleet_lines("deb"))
        assert f"this machine is R620 of debian12, by its DMI product name '{DMI}'" in told
        assert f"  Candidate: {DEB.format('1')}\n" in new.ok("apt-cache", "policy", "pika")
        assert new.state() == f"install ok installed {DEB.format('1')}"


def test_dnf_fills_an_install_root(site: Site, rpm_machine: Host) -> None:
    # Another machine's system, which knows nothing of ours: a copy, because scriptlets need one that works.
    rpm_machine.sh(
        "mkdir -p /clean/proc /clean/sys/class/dmi/id && cp -a /bin /sbin /lib /lib64 /usr /etc /var /root /clean/"
        " && cp /proc/cpuinfo /clean/proc/ && mkdir -p /clean/tmp /clean/opt /clean/dev && mknod /clean/dev/null c 1 3"
        f" && printf '{DMI}\\n' >/clean/sys/class/dmi/id/product_name"
    )
    rpm_machine.sh(
        f"cd /srv && curl -fsS -o /clean/etc/yum.repos.d/pika.repo {site.url}/debian12/pika.repo"
        f" && curl -fsSO {site.url}/{client_lines.SCRIPT_PATH} && sh detect-model.sh --root /clean"
    )
    rpm_machine.dnf_ok("--installroot=/clean", "install", "pika")
    assert rpm_machine.run("rpm", "-q", "pika")[0] == 1, "not on this machine"
    assert rpm_machine.ok("rpm", "--root", "/clean", "-q", "pika").startswith("pika-3.4.0-")
    assert rpm_machine.run("rpm", "--root", "/clean", "-V", "pika") == (0, "")
    look = ("grep", "-c", "^pika:", "etc/passwd")
    assert rpm_machine.ok("env", "--chdir=/clean", *look) == "1\n", "the scriptlets ran there"
    assert rpm_machine.run("env", "--chdir=/", *look) == (1, "0\n")
    # From here, because its run path needs /proc.
    assert rpm_machine.ok(f"/clean{TOP}/bin/pika", "-v").startswith("pika_version: 3.4.0")


# --- what is refused


def test_dnf_refuses_what_is_not_the_publishers(site: Site, rpm_machine: Host, key: Key, stranger: Key) -> None:
    rpm_machine.obey(site.fleet_lines("rpm").replace("dnf install", ": dnf install"))
    install = ("dnf", "--assumeyes", "--releasever=12", "install", "pika")
    pointer = "x86_64/repodata/repomd.xml"
    folder = site.root / PLACE
    repomd = (folder / pointer).read_bytes()
    (primary,) = re.findall(r"repodata/[0-9a-f]+-primary\.xml\.gz", repomd.decode())
    bad = "repomd.xml GPG signature verification error: Bad GPG signature"
    packages = [f"x86_64/{path.name}" for path in (folder / "x86_64").glob("pika-3.4.0-*.rpm")]
    attacks: tuple[tuple[dict[str, bytes | None], str], ...] = (
        # The digest of the metadata finds it before the package's own signature would.
        ({path: flipped((folder / path).read_bytes()) for path in packages}, "checksum doesn't match"),
        ({pointer: repomd.replace(b"<revision>", b"<revision>9")}, bad),
        ({f"{pointer}.asc": stranger.gpg("--armor", "--detach-sign", stdin=repomd)}, bad),
        ({f"{pointer}.asc": None}, "GPG verification is enabled, but GPG signature is not available"),
        ({f"x86_64/{primary}": flipped((folder / "x86_64" / primary).read_bytes())}, "checksum doesn't match"),
    )
    for changes, says in attacks:
        rpm_machine.ok("dnf", "clean", "all")
        with site.altered(changes):
            rpm_machine.refuses(install, says)

    # So is a machine of a model that nothing is published for, and one that has not asked what it is.
    variable = "/etc/yum/vars/pikamodel"
    assert rpm_machine.ok("cat", variable) == "R620\n"
    rpm_machine.sh(f"dnf clean all; echo {ABSENT} >{variable}")
    rpm_machine.refuses(install, f"404 for {site.url}/debian12/{ABSENT}/x86_64/repodata/repomd.xml")
    rpm_machine.sh(f"rm {variable}")
    rpm_machine.refuses(install, r"404 for \S+/\$pikamodel/x86_64/repodata/repomd.xml")

    # While a server is switched, the signature file has a signature of the metadata before and one of that after.
    rpm_machine.sh(f"echo R620 >{variable}")
    ours, other = (key.gpg("--detach-sign", stdin=data) for data in (repomd, b"what was there before"))
    for both in (ours + other, other + ours):
        rpm_machine.ok("dnf", "clean", "all")
        with site.altered({f"{pointer}.asc": both}):
            assert "Metadata cache created" in rpm_machine.ok("dnf", "--assumeyes", "--releasever=12", "makecache")

    # Nothing else was in the way.
    rpm_machine.dnf_ok("install", "pika")


def test_apt_refuses_what_is_not_the_publishers(site: Site, apt_machine: AptHost, stranger: Key) -> None:
    apt_machine.obey(site.fleet_lines("deb").replace("apt-get install", ": apt-get install"))
    folder = site.root / PLACE / "debs"
    release, signed = (folder / "Release").read_bytes(), (folder / "InRelease").read_bytes()
    listed = re.findall(r"^ ([0-9a-f]{64}) \d+ (\S+)$", release.decode(), re.MULTILINE)
    assert {name for _, name in listed} == {"Packages", "Packages.gz"}
    lists = [path for digest, name in listed for path in (f"debs/{name}", f"debs/by-hash/SHA256/{digest}")]
    both = ("debs/InRelease", "debs/Release.gpg")
    other = (stranger.gpg("--clear-sign", stdin=release), stranger.gpg("--armor", "--detach-sign", stdin=release))
    update, install = ("apt-get", "update"), ("apt-get", "install", "--yes", "pika")
    fresh = "rm -rf /var/lib/apt/lists/* && apt-get clean"
    attacks: tuple[tuple[dict[str, bytes | None], str], ...] = (
        ({both[0]: signed.replace(b"Origin: pika\n", b"Origin: pikb\n")}, "invalid: BADSIG"),
        (dict(zip(both, other, strict=True)), "NO_PUBKEY"),
        (dict.fromkeys(both), "is not signed"),
        ({path: flipped((site.root / PLACE / path).read_bytes()) for path in lists}, "Hash Sum mismatch"),
    )
    for changes, says in attacks:
        apt_machine.sh(fresh)
        with site.altered(changes):
            apt_machine.refuses(update, says)
            apt_machine.refuses(install, "Unable to locate package pika")

    apt_machine.sh(fresh)
    packages = [f"debs/{path.name}" for path in folder.glob("pika_*.deb")]
    with site.altered({path: flipped((site.root / PLACE / path).read_bytes()) for path in packages}):
        apt_machine.ok(*update)
        apt_machine.refuses(install, "Hash Sum mismatch")

    # Nothing else was in the way; and the detached signature alone is enough, for clients that know no InRelease.
    apt_machine.sh(fresh)
    with site.altered({both[0]: None}):
        apt_machine.ok(*update, "-o", "APT::Update::Error-Mode=any")
        apt_machine.ok(*install)


# --- pip, and verify


def own(argv: Sequence[str | Path], cwd: Path, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program here without settings of the person who runs the tests, and without proxies."""
    gone = (
        *("PYTHONPATH", "PYTHONHOME", "PIKAFORGE_SKIP_CPU_GATE", "FORGE_SKIP_CPU_GATE"),
        "LD_LIBRARY_PATH",
        *dav.PROXIES,
    )
    env = {name: value for name, value in os.environ.items() if name not in gone and not name.startswith("PIP_")}
    env["PIP_CONFIG_FILE"] = os.devnull
    if path is not None:
        env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"
    words = [str(word) for word in argv]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120)


def environment(folder: Path) -> Path:
    """A fresh environment, with a `python3` before it on the way whose pip installs into it."""
    venv.create(folder, with_pip=False, symlinks=True)
    before = folder / "before"
    before.mkdir()
    script = before / "python3"
    pip = f"{sys.executable} -m pip --python {folder}/bin/python --disable-pip-version-check"
    script.write_text(f'#!/bin/sh\nshift 2\nexec {pip} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return before


def test_pip_takes_the_wheel(site: Site, tmp_path: Path) -> None:
    wheel = next((site.root / PLACE / "wheels").glob("*.whl"))
    needed = re.search(r"manylinux_(\d+)_(\d+)_", wheel.name)
    assert needed is not None
    here = re.match(r"(\d+)\.(\d+)", platform.libc_ver()[1])
    if here is None or tuple(map(int, here.groups())) < tuple(map(int, needed.groups())):
        pytest.skip(f"this machine's glibc is older than {needed[1]}.{needed[2]}, which the sample for debian12 needs")
    host = site.url.split("/")[2]
    options = ("--no-cache-dir", "--no-index", "--find-links", f"{site.url}/{PLACE}/wheels/", "--trusted-host", host)

    def find(name: str, version: str) -> subprocess.CompletedProcess[str]:
        before = environment(tmp_path / name)
        return own(("python3", "-m", "pip", "install", *options, f"pika-server=={version}"), tmp_path, path=before)

    done = find("found", WHEEL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Successfully installed pika-server-{WHEEL}" in done.stdout
    told = own((tmp_path / "found/bin/pika-server", "--version"), tmp_path)
    assert (told.returncode, told.stdout.startswith(f"pika-server {WHEEL}: pika v3.4.0 for ")) == (0, True), told

    # As the page says it where the server has no certificate.
    lines = site.lines("wheel")
    assert "pip" in lines
    done = own(("sh", "-ec", lines), tmp_path, path=environment(tmp_path / "page"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "page/bin/pika-server").is_file()

    done = find("absent", "3.4.0+r720.debian12")
    assert (done.returncode, "No matching distribution found" in done.stderr) == (1, True), done
    with site.altered({f"wheels/{wheel.name}": flipped(wheel.read_bytes())}):
        done = find("altered", WHEEL)
        assert (done.returncode, "DO NOT MATCH THE HASHES" in done.stderr) == (1, True), done
        assert not (tmp_path / "altered/bin/pika-server").exists()
        wheel_here = tmp_path / wheel.name
        wheel_here.unlink()
        done = own(("sh", "-ec", lines), tmp_path, path=environment(tmp_path / "checked"))
        assert done.returncode != 0
        assert f"{wheel.name}: FAILED" in done.stdout
        assert not (tmp_path / "checked/bin/pika-server").exists()


def test_what_is_published_is_verified_by_its_url(site: Site, stranger: Key, tmp_path: Path) -> None:
    names = (
        f"x86_64/{full('1')}.rpm",
        f"debs/pika_{DEB.format('1')}_amd64.deb",
        "tarballs/pika-v3.4.0-R620.tar.gz",
        next(f"wheels/{path.name}" for path in (site.root / PLACE / "wheels").glob("*.whl")),
    )
    urls = [f"{site.url}/{PLACE}/{name}" for name in names]

    def verify(*words: str | Path, check: int) -> Done:
        options = ("--matrix", site.project.matrix, "--out", tmp_path / "out")
        return site.project.tool("verify", *words, *options, check=check, env={"no_proxy": "*"})

    done = verify(*urls, "--key", site.key.public, check=0)
    assert len(done.lines(f"^{site.url}/.*: verified: ")) == len(urls)
    assert not done.lines("^no ")
    done = verify(urls[0], "--key", stranger.public, check=4)
    assert done.lines(r"^no +SHA256SUMS: signature: .* is not among")
    with site.altered({names[0]: flipped((site.root / PLACE / names[0]).read_bytes())}):
        done = verify(urls[0], "--key", site.key.public, check=4)
    assert done.lines(rf"^no +{re.escape(full('1'))}\.rpm: download: .* is expected$")
