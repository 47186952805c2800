"""Wheels: names, tags, contents, the same bytes each time; and the command, without a process of its own."""

from __future__ import annotations

import ast
import base64
import csv
import errno
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version
from unit import artifacts
from unit.artifacts import claimed
from unit.helpers import WITHOUT_SERVER, make_spec, refusal

from pikaforge.config.product import Product
from pikaforge.errors import ForgeError
from pikaforge.formats import payload
from pikaforge.formats.layout import PackingError
from pikaforge.formats.wheel import wheel, wheel_version
from pikaforge.formats.wheel.platform_tags import platform_tags

EPOCH = 1604318400
PRODUCT = make_spec(
    product__server__conf__settings={"port": "{port}", "dir": "{data}/db/", "pidfile": "{data}/run/pid", "fork": "no"},
    product__server__offsets=[0, 1000],
    product__description="Keeps things.",
    product__licence="BSD-3-Clause",
    product__url="https://example.org/demo",
).product
CONF = "# port : 1\nport : 7000\n  dir : ./db/\nthreads : 4\ndir : ./twice/\n"
NAME = "demo_server-1.0+r620.debian12-py3-none-manylinux_2_35_x86_64.whl"
OLDEST_TAGS = "manylinux_2_17_x86_64.manylinux2014_x86_64"
COMMAND = ("__init__.py", "__main__.py", "base.py", "cli.py", "configuration.py", "deploy.py")
"""Files of the command."""
OLD_PYTHON = {
    "argparse", "collections", "contextlib", "fcntl", "hashlib", "json", "os", "pathlib", "re", "resource", "shutil",
    "signal", "subprocess", "sys", "tempfile", "typing",
}  # fmt: skip
"""What the command may import: in the standard library of 3.6."""


def make_manifest(**changes: Any) -> dict[str, Any]:
    audit = {"symbol_versions": {"GLIBC": "2.34", "GLIBCXX": "3.4.30"}}
    return artifacts.make_manifest(**{"audit": audit, "source_date_epoch": EPOCH, **changes})


def make_files(product: Product = PRODUCT, **changes: Any) -> dict[str, bytes]:
    rendered = payload.render(product, model="R620", target="sandybridge", image="debian12", features=("lm",))
    return {
        **rendered.contents,
        "bin/demo": b"\x7fELF program",
        "conf/demo.conf": CONF.encode(),
        "lib/libz.so.1": b"\x7fELF library",
        "manifest.json": json.dumps(make_manifest(**changes)).encode(),
    }


def write_tar(
    path: Path,
    files: Mapping[str, bytes],
    links: Mapping[str, str] | None = None,
    *,
    mtime: int = EPOCH,
    owner: int = 0,
    backwards: bool = False,
) -> Path:
    """A tar archive, compressed if its name says so; what is in bin/ or lib/ and scripts are executable."""
    members = [(name, data, "") for name, data in files.items()]
    members += [(name, b"", target) for name, target in (links or {}).items()]
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data, target in reversed(members) if backwards else members:
            info = tarfile.TarInfo(name)
            info.mtime, info.uid, info.gid, info.size, info.linkname = mtime, owner, owner, len(data), target
            info.type = tarfile.SYMTYPE if target else tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            program = "/bin/" in name or "/lib/" in name or name.endswith(".sh")
            info.mode = 0o755 if program and "utils/lib/" not in name else 0o644
            tar.addfile(info, io.BytesIO(data))
    return path


def write_tarball(
    path: Path,
    files: Mapping[str, bytes],
    links: Mapping[str, str] | None = None,
    *,
    top: str = "demo",
    mtime: int = EPOCH,
    owner: int = 0,
    backwards: bool = False,
) -> Path:
    """A package, as far as a wheel is made of it."""
    below = {f"{top}/": b"", **{f"{top}/{name}": data for name, data in files.items()}}
    leading = {f"{top}/{name}": target for name, target in (links or {}).items()}
    return write_tar(path, below, leading, mtime=mtime, owner=owner, backwards=backwards)


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    return write_tarball(tmp_path / "demo.tar.gz", make_files(), {"bin/demo-check": "demo"})


def build(tarball: Path, product: Product = PRODUCT, variant: str = "") -> wheel.Wheel:
    return wheel.build(wheel.read_tree(tarball, top=product.name), product=product, variant=variant)


def opened(content: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of a wheel's files."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {info.filename: (info.external_attr >> 16, archive.read(info)) for info in archive.infolist()}


class TestNames:
    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("v3.4.0", "3.4.0"), ("7.0.15", "7.0.15"), ("3.04", "3.4"), ("1.0-rc1", "1.0rc1"), ("1.0-rc", "1.0rc0"),
            ("2.0.alpha2", "2.0a2"), ("2.0_BETA-3", "2.0b3"), ("1.2c1", "1.2rc1"), ("1.0-1", "1.0.post1"),
            ("1.0-r4", "1.0.post4"), ("1.0.dev7", "1.0.dev7"), ("V1.0preview2.post1-dev3", "1.0rc2.post1.dev3"),
        ],
    )  # fmt: skip
    def test_versions_are_in_normal_form(self, text: str, version: str) -> None:
        assert wheel_version.public_version(text) == version
        assert str(Version(text)) == version

    @pytest.mark.parametrize("text", ["unstable", "2023-01-02", "1.0-final", "1.0_x", "", "1..2", "1!2.0", "1.0+x"])
    def test_a_version_that_is_none(self, text: str) -> None:
        with pytest.raises(PackingError) as error:
            wheel_version.public_version(text)
        assert refusal(error)[0] == f"the version {text!r} cannot be a wheel's"

    @pytest.mark.parametrize(
        ("manifest", "variant", "version"),
        [
            ({}, "", "1.0+r620.debian12"),
            ({}, "frame-pointers", "1.0+r620.debian12.frame.pointers"),
            ({"model": "PowerEdge_R640.007", "image__name": "el7"}, "system", "1.0+poweredge.r640.7.el7.system"),
        ],
    )
    def test_model_image_and_allocator_are_the_local_version(
        self, manifest: dict[str, Any], variant: str, version: str
    ) -> None:
        found = wheel_version.version_of(claimed(**manifest), variant)
        assert found == version
        assert str(Version(found)) == version

    @pytest.mark.parametrize(
        ("product", "project", "package"),
        [
            ("demo", "demo-server", "demo_server"),
            ("My.Demo_2", "my-demo-2-server", "my_demo_2_server"),
            ("3proxy", "3proxy-server", "_3proxy_server"),
        ],
    )
    def test_the_project_and_its_package(self, product: str, project: str, package: str) -> None:
        described = make_spec(product__name=product).product
        assert wheel_version.distribution(described) == project == canonicalize_name(project)
        assert wheel_version.module(described) == package
        assert package.isidentifier()

    def test_what_is_no_server_is_not_called_one(self) -> None:
        tools = make_spec(**WITHOUT_SERVER).product
        assert (wheel_version.distribution(tools), wheel_version.module(tools)) == ("demo-tools", "demo_tools")

    @pytest.mark.parametrize(
        ("versions", "tags"),
        [
            ({"GLIBC": "2.2.5"}, OLDEST_TAGS),
            ({"GLIBC": "2.12"}, OLDEST_TAGS),
            ({"GLIBC": "2.17", "GLIBCXX": "3.4.19", "CXXABI_TM": "1", "GCC": "3.0"}, OLDEST_TAGS),
            ({}, OLDEST_TAGS),
            ({"GLIBC": "2.18"}, "manylinux_2_24_x86_64"),
            ({"GLIBC": "2.28", "GLIBCXX": "3.4.24"}, "manylinux_2_28_x86_64"),
            ({"GLIBC": "2.34", "GLIBCXX": "3.4.29", "CXXABI": "1.3.13"}, "manylinux_2_34_x86_64"),
            ({"GLIBC": "2.34", "GLIBCXX": "3.4.30"}, "manylinux_2_35_x86_64"),
            ({"GLIBC": "2.17", "GLIBCXX": "3.4.30"}, "manylinux_2_35_x86_64"),
            ({"GLIBC": "2.34", "CXXABI": "1.3.14"}, "manylinux_2_39_x86_64"),
            ({"GLIBC": "2.34", "GCC": "14.0.0"}, "manylinux_2_39_x86_64"),
            ({"GLIBC": "2.17", "ZLIB": "1.2.9"}, "manylinux_2_27_x86_64"),
            ({"GLIBC": "2.36"}, "manylinux_2_36_x86_64"),
        ],
    )
    def test_the_tag_asks_for_all_libraries_that_are_needed(self, versions: dict[str, str], tags: str) -> None:
        assert ".".join(platform_tags(versions)) == tags
        name = wheel.file_name(claimed(audit={"symbol_versions": versions}), PRODUCT)
        assert name == f"demo_server-1.0+r620.debian12-py3-none-{tags}.whl"
        project, version, build, found = parse_wheel_filename(name)
        assert (project, str(version), build) == ("demo-server", "1.0+r620.debian12", ())
        assert {tag.platform for tag in found} == set(tags.split("."))

    @pytest.mark.parametrize("versions", [{"GLIBC": "2.999"}, {"GLIBC": "2.17", "GLIBCXX": "3.4.999"}, {"GLIBC": "x"}])
    def test_versions_that_no_policy_has(self, versions: dict[str, str]) -> None:
        """Such as those of an image that is newer than the policies. A tag that fits any host would be a lie."""
        with pytest.raises(PackingError, match=r"no platform tag of a wheel promises hosts with .*GLIBC") as caught:
            platform_tags(versions)
        assert "`wheel` out of `formats`" in caught.value.hint

    def test_libraries_that_no_policy_has(self) -> None:
        usual = ("ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libz.so.1")
        assert platform_tags({"GLIBC": "2.34"}, usual) == ("manylinux_2_34_x86_64",)
        with pytest.raises(PackingError, match=r"no platform tag of a wheel promises hosts with libssl\.so\.3"):
            platform_tags({"GLIBC": "2.34"}, (*usual, "libssl.so.3"))


class TestContents:
    def test_the_files_are_those_of_the_tarball(self, tarball: Path) -> None:
        found = opened(build(tarball).content)
        start = "demo_server/tree/"
        tree = {name[len(start) :]: content for name, (_, content) in found.items() if name.startswith(start)}
        assert tree == {**make_files(), "bin/demo-check": b"\x7fELF program"}
        executable = {name[len(start) :] for name, (mode, _) in found.items() if mode == 0o100755}
        assert executable == {"bin/demo", "bin/demo-check", "lib/libz.so.1", "utils/cpu-gate.sh", "utils/deploy.sh"}
        assert {mode for mode, _ in found.values()} == {0o100755, 0o100644}
        own = {name for name in found if not name.startswith((start, "demo_server-1.0+r620.debian12.dist-info/"))}
        assert own == {f"demo_server/{name}" for name in (*COMMAND, "about.json")}

    def test_the_inputs_of_the_tarball_do_as_well(self, tarball: Path, tmp_path: Path) -> None:
        files = make_files()
        tree = {f"./{name}": files[name] for name in ("bin/demo", "conf/demo.conf", "lib/libz.so.1")}
        extra = {name: data for name, data in files.items() if f"./{name}" not in tree}
        old = {"./manifest.json": b"{}", "./utils/deploy.sh": b"exit 1", "./utils/settings.tsv": b""}
        first = write_tar(tmp_path / "tree.tar", {"./": b"", **tree, **old}, {"./bin/demo-check": "demo"})
        second = write_tar(tmp_path / "extra.tar", extra).read_bytes()
        assert wheel.build(wheel.read_tree(first, second), product=PRODUCT) == build(tarball)

    def test_a_later_release_is_a_later_version(self, tarball: Path) -> None:
        product = PRODUCT.model_copy(update={"release": "2"})
        first, later = build(tarball), build(tarball, product)
        assert (first.name, later.name) == (NAME, NAME.replace("debian12", "debian12.2"))
        versions = [parse_wheel_filename(made.name)[1] for made in (first, later)]
        assert versions[0] < versions[1]
        found = opened(later.content)
        info = "demo_server-1.0+r620.debian12.2.dist-info"
        assert b"\nVersion: 1.0+r620.debian12.2\n" in found[f"{info}/METADATA"][1]
        assert json.loads(found["demo_server/about.json"][1])["version"] == "1.0+r620.debian12.2"

    def test_record(self, tarball: Path) -> None:
        found = opened(build(tarball).content)
        *_, last = found
        assert last == "demo_server-1.0+r620.debian12.dist-info/RECORD"
        rows = list(csv.reader(io.StringIO(found[last][1].decode())))
        assert rows[-1] == [last, "", ""]
        assert [row[0] for row in rows[:-1]] == sorted(set(found) - {last})
        for name, digest, size in rows[:-1]:
            content = found[name][1]
            kind, _, text = digest.partition("=")
            assert (kind, "=" in text, int(size)) == ("sha256", False, len(content))
            assert base64.urlsafe_b64decode(text + "=") == hashlib.sha256(content).digest()

    def test_what_describes_it(self, tarball: Path) -> None:
        found = opened(build(tarball).content)
        info = "demo_server-1.0+r620.debian12.dist-info"
        assert found[f"{info}/WHEEL"][1].decode() == (
            "Wheel-Version: 1.0\nGenerator: pikaforge\nRoot-Is-Purelib: false\nTag: py3-none-manylinux_2_35_x86_64\n"
        )
        assert found[f"{info}/entry_points.txt"][1] == b"[console_scripts]\ndemo-server = demo_server.cli:main\n"
        head, _, text = found[f"{info}/METADATA"][1].decode().partition("\n\n")
        assert head.splitlines() == [
            "Metadata-Version: 2.4",
            "Name: demo-server",
            "Version: 1.0+r620.debian12",
            "Summary: demo v1.0 for R620 (sandybridge, debian12)",
            "Home-page: https://example.org/demo",
            "Maintainer-email: pikaforge <pikaforge@users.noreply.github.com>",
            "License-Expression: BSD-3-Clause",
            "Platform: linux_x86_64",
            "Requires-Python: >=3.6",
            "Description-Content-Type: text/plain; charset=UTF-8",
        ]
        for words in (
            "Keeps things.",
            "sandybridge, ivybridge",
            "debian12 (debian 12)",
            "GLIBC 2.34, GLIBCXX 3.4.30",
            "demo-server run",
        ):
            assert words in text

    def test_licences_are_where_installers_look(self, tmp_path: Path) -> None:
        licences = {"demo/deps/x/COPYING": b"own", "zlib1g/copyright": b"zlib"}
        files = {**make_files(), **{f"licenses/{name}": text for name, text in licences.items()}}
        found = opened(build(write_tarball(tmp_path / "x.tar.gz", files)).content)
        info = "demo_server-1.0+r620.debian12.dist-info"
        there = {name: text for name, (_, text) in found.items() if name.startswith(f"{info}/licenses/")}
        assert there == {f"{info}/licenses/{name}": text for name, text in licences.items()}
        head = found[f"{info}/METADATA"][1].decode().partition("\n\n")[0].splitlines()
        assert [line for line in head if line.startswith("License")] == [
            "License-Expression: BSD-3-Clause",
            "License-File: demo/deps/x/COPYING",
            "License-File: zlib1g/copyright",
        ]
        assert found["demo_server/tree/licenses/zlib1g/copyright"][1] == b"zlib"

    def test_both_tags_of_an_old_glibc_are_listed(self, tmp_path: Path) -> None:
        files = make_files(audit={"symbol_versions": {"GLIBC": "2.14"}})
        made = build(write_tarball(tmp_path / "x.tar.gz", files))
        text = opened(made.content)["demo_server-1.0+r620.debian12.dist-info/WHEEL"][1].decode()
        tags = [line for line in text.splitlines() if line.startswith("Tag: ")]
        assert tags == ["Tag: py3-none-manylinux_2_17_x86_64", "Tag: py3-none-manylinux2014_x86_64"]

    def test_the_same_package_is_the_same_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = write_tarball(tmp_path / "first.tar.gz", make_files(), {"bin/b": "a", "bin/a": "demo"})
        other = write_tarball(
            tmp_path / "other.tar.gz",
            make_files(),
            {"bin/b": "a", "bin/a": "demo"},
            mtime=EPOCH + 12345,
            owner=1000,
            backwards=True,
        )
        made = wheel.pack(first, product=PRODUCT, into=tmp_path / "1")
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        before = os.umask(0o077)
        try:
            again = wheel.pack(other, product=PRODUCT, into=tmp_path / "2")
        finally:
            os.umask(before)
            monkeypatch.undo()
            time.tzset()
        assert made.name == again.name == NAME
        assert made.read_bytes() == again.read_bytes()
        assert made.stat().st_mode == again.stat().st_mode
        with zipfile.ZipFile(made) as archive:
            told = {(info.date_time, info.create_system, info.compress_type) for info in archive.infolist()}
        assert told == {((2020, 11, 2, 12, 0, 0), 3, zipfile.ZIP_DEFLATED)}

    @pytest.mark.parametrize(("epoch", "year"), [(0, 1980), (1 << 33, 2107)])
    def test_times_that_zip_cannot_tell(self, tmp_path: Path, epoch: int, year: int) -> None:
        tarball = write_tarball(tmp_path / "x.tar.gz", make_files(source_date_epoch=epoch))
        with zipfile.ZipFile(io.BytesIO(build(tarball).content)) as archive:
            assert {info.date_time[0] for info in archive.infolist()} == {year}

    def test_other_contents_are_another_build(self, tmp_path: Path, tarball: Path) -> None:
        changed = {**make_files(), "lib/libz.so.1": b"\x7fELF library, mended"}
        made = [
            json.loads(opened(build(path).content)["demo_server/about.json"][1])
            for path in (tarball, write_tarball(tmp_path / "x.tar.gz", changed, {"bin/demo-check": "demo"}))
        ]
        assert made[0]["version"] == made[1]["version"]
        assert made[0]["build"] != made[1]["build"]


class TestRefusals:
    @pytest.mark.parametrize(
        "missing", ["bin/demo", "conf/demo.conf", "manifest.json", "utils/cpu-gate.sh", "utils/cpu-features"]
    )
    def test_a_package_without_what_it_is_for(self, tmp_path: Path, missing: str) -> None:
        files = make_files()
        del files[missing]
        tarball = write_tarball(tmp_path / "x.tar.gz", files)
        with pytest.raises(PackingError) as error:
            wheel.pack(tarball, product=PRODUCT, into=tmp_path / "dist")
        assert refusal(error)[0] == f"the package has no {missing}"
        assert not (tmp_path / "dist").exists()

    @pytest.mark.parametrize(
        ("links", "words"),
        [
            ({"lib/x": "/etc/passwd"}, "lib/x leads to /etc/passwd"),
            ({"lib/x": "../../x"}, "lib/x leads to ../../x"),
            ({"lib/x": "gone"}, "lib/x leads to gone"),
            ({"libs": "lib"}, "libs leads to lib"),
            ({"lib/a": "b", "lib/b": "a"}, "lib/a leads to b"),
        ],
    )
    def test_links_that_lead_to_no_file(self, tmp_path: Path, links: dict[str, str], words: str) -> None:
        with pytest.raises(PackingError, match=words):
            build(write_tarball(tmp_path / "x.tar.gz", make_files(), links))

    @pytest.mark.parametrize(
        ("top", "name", "words"),
        [
            ("other", "bin/x", "'other/?' is not in the folder demo/"),
            ("demo", "../x", "'demo/../x' is not in the folder demo/"),
            ("demo", "bin/a b", "the path 'demo/bin/a b' cannot be written into a wheel"),
            ("", "etc/x", "'/?' is not in the folder demo/"),
        ],
    )
    def test_files_that_are_elsewhere(self, tmp_path: Path, top: str, name: str, words: str) -> None:
        tarball = write_tarball(tmp_path / "x.tar.gz", {name: b""}, top=top)
        with pytest.raises(PackingError, match=words):
            build(tarball)

    @pytest.mark.parametrize(
        ("manifest", "words"),
        [
            (b"[]", "manifest.json cannot be read: Input should be an object"),
            (b"{", "manifest.json cannot be read: Invalid JSON"),
            (b"{}", "manifest.json cannot be read: product: Field required"),
            (json.dumps(make_manifest(audit={})).encode(), "has no audit"),
            (json.dumps(make_manifest(product="other")).encode(), "of other, not of demo"),
            (json.dumps(make_manifest(version="unstable")).encode(), "'unstable' cannot be a wheel's"),
        ],
    )
    def test_manifests(self, tmp_path: Path, manifest: bytes, words: str) -> None:
        tarball = write_tarball(tmp_path / "x.tar.gz", {**make_files(), "manifest.json": manifest})
        with pytest.raises(ForgeError, match=words):
            build(tarball)

    def test_a_truncated_tarball(self, tarball: Path) -> None:
        tarball.write_bytes(tarball.read_bytes()[:-200])
        with pytest.raises(ForgeError, match="truncated or corrupt"):
            build(tarball)

    def test_a_licence_of_two_lines(self, tarball: Path) -> None:
        with pytest.raises(PackingError, match="License-Expression of a wheel is one line"):
            build(tarball, PRODUCT.model_copy(update={"licence": "MIT\nName: other"}))


def test_old_pythons_can_read_the_command() -> None:
    files = sorted(wheel.COMMAND.glob("*.py"))
    assert [path.name for path in files] == list(COMMAND)
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(), str(path), feature_version=(3, 6))):
            if isinstance(node, ast.Import):
                assert {name.name.partition(".")[0] for name in node.names} <= OLD_PYTHON, path
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").partition(".")[0] in OLD_PYTHON, path
            # list[str] and X | None are evaluated, unless they are in quotes or a local variable's.
            if isinstance(node, ast.arg):
                told = [node.annotation]
            elif isinstance(node, ast.FunctionDef):
                told = [node.returns]
            elif isinstance(node, ast.Module | ast.ClassDef):
                told = [part.annotation for part in node.body if isinstance(part, ast.AnnAssign)]
            else:
                continue
            words = [ast.unparse(part) for part in told if part is not None and not isinstance(part, ast.Constant)]
            assert not [word for word in words if set(word) & set("[|")], path


class Became(Exception):
    """The command has become another program."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(argv)
        self.argv = argv


class Installed:
    """A wheel that was unpacked, and its command with all that leaves the process recorded."""

    def __init__(self, site: Path, cli: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        self.tree = Path(str(cli.__file__)).parent / "tree"
        self.cli: Any = cli
        self.calls: list[list[str]] = []
        self.statuses: list[int] = []
        """What programs that are called end with, one a call; then 0."""
        self.seen: list[str] = []
        """Where the link led while each of them ran."""
        self.link = site.parent / "opt" / "demo"

        def call(argv: list[str]) -> int:
            self.calls.append(argv)
            self.seen.append(str(self.link.readlink()) if self.link.is_symlink() else "")
            return self.statuses.pop(0) if self.statuses else 0

        def execv(_: str, argv: list[str]) -> NoReturn:
            raise Became(argv)

        monkeypatch.setattr(subprocess, "call", call)
        monkeypatch.setattr(os, "execv", execv)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["/usr/bin/demo-server"])
        monkeypatch.chdir(site.parent)

    def __call__(self, *words: str | Path) -> int:
        status: int = self.cli.command([str(word) for word in words])
        return status

    def become(self, *words: str | Path) -> list[str]:
        """The program that the command becomes."""
        with pytest.raises(Became) as became:
            self(*words)
        return became.value.argv

    def deploy(self, *words: str | Path) -> int:
        return self("deploy", "7000", "/data", "--prefix", self.link, *words)

    @property
    def build(self) -> Path:
        """Where `deploy` puts the program."""
        about = json.loads((self.site / "demo_server" / "about.json").read_text())
        return self.link.parent / f"demo-1.0+r620.debian12-{about['build']}"


Install = Callable[..., Installed]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Unpack a wheel as pip does: what is executable remains so, other modes are the umask's."""

    def unpack(tarball: Path, name: str, product: Product = PRODUCT) -> Installed:
        site = tmp_path / name
        for path, (mode, content) in opened(build(tarball, product).content).items():
            file = site / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o775 if mode & 0o111 else 0o664)
        folder, package = site / wheel_version.module(product), f"forge_{name}"
        spec = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        monkeypatch.setitem(sys.modules, package, importlib.util.module_from_spec(spec))
        for module in ("base", "configuration", "deploy", "cli"):
            monkeypatch.delitem(sys.modules, f"{package}.{module}", raising=False)
        return Installed(site, importlib.import_module(f"{package}.cli"), monkeypatch)

    before = os.umask(0o022)
    yield unpack
    os.umask(before)


@pytest.fixture
def installed(install: Install, tarball: Path) -> Installed:
    return install(tarball, "site")


def contents(folder: Path) -> dict[str, tuple[int, object]]:
    """Mode and content of all below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


class TestCommand:
    def test_what_it_tells(self, installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        said = {}
        for word in ("--version", "path", "manifest", "--help"):
            assert installed(word) == 0
            said[word] = capsys.readouterr().out
        assert said["--version"] == "demo-server 1.0+r620.debian12: demo v1.0 for R620 (sandybridge, debian12)\n"
        assert said["path"] == f"{installed.tree}\n"
        assert json.loads(said["manifest"]) == make_manifest()
        assert said["--help"].startswith("usage: demo-server run [--port N]")

    @pytest.mark.parametrize("words", [(), ("start",), ("path", "x"), ("manifest", "--help")])
    def test_words_that_it_does_not_know(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
    ) -> None:
        assert installed(*words) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.startswith("demo-server: error: ")) == ("", True)

    def test_check_cpu_is_the_gate(self, installed: Installed) -> None:
        argv = installed.become("check-cpu", "--cpuinfo", "-", "--help")
        assert argv == ["/bin/sh", str(installed.tree / "utils/cpu-gate.sh"), "--cpuinfo", "-", "--help"]


class TestWithoutServer:
    @pytest.fixture
    def tools(self, install: Install, tmp_path: Path) -> Installed:
        product = make_spec(**WITHOUT_SERVER).product
        tarball = write_tarball(tmp_path / "tools.tar.gz", make_files(product))
        assert build(tarball, product).name.startswith("demo_tools-1.0+")
        return install(tarball, "tools", product)

    def test_it_tells_where_its_files_are(self, tools: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        assert tools("path") == 0
        assert capsys.readouterr().out == f"{tools.tree}\n"
        assert tools("--help") == 0
        said = capsys.readouterr().out
        assert said.startswith("usage: demo-tools check-cpu")
        assert "run" not in said.replace("can run", "")
        assert "deploy" not in said

    @pytest.mark.parametrize("words", [("run",), ("deploy", "7000", "/data")])
    def test_there_is_nothing_to_run_or_to_deploy(
        self, tools: Installed, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
    ) -> None:
        assert tools(*words) == 2
        assert "demo-tools: error: demo has no server\n" in capsys.readouterr().err

    def test_its_description_has_no_commands_of_a_server(self) -> None:
        said = wheel.metadata(claimed(audit__symbol_versions={"GLIBC": "2.34"}), make_spec(**WITHOUT_SERVER).product)
        assert ("demo-tools path" in said, "deploy" in said) == (True, False)
        said = wheel.metadata(claimed(audit__symbol_versions={"GLIBC": "2.34"}), PRODUCT)
        assert ("demo-server path" in said, "demo-server deploy 7000 BASE" in said) == (False, True)


class TestWithoutConf:
    @pytest.fixture
    def bare(self, install: Install, tmp_path: Path) -> Installed:
        command = ["bin/demo", "-p", "{port}", "-d", "{data}"]
        product = make_spec(product__server__conf=None, product__server__command=command).product
        return install(write_tarball(tmp_path / "bare.tar.gz", make_files(product)), "bare", product)

    def test_it_becomes_the_server(self, bare: Installed, tmp_path: Path) -> None:
        argv = bare.become("run", "--port", "7100", "--data", "d", "--", "-v")
        assert argv == [str(bare.tree / "bin/demo"), "-p", "7100", "-d", str(tmp_path / "d"), "-v"]
        assert [path.name for path in (tmp_path / "d").rglob("*")] == ["conf"]
        assert bare.become("run", "--port", "7200", "--data", "d")[2] == "7200", "nothing else says the port"

    def test_it_takes_no_configuration(self, bare: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        assert bare("run", "--conf", "x.conf") == 2
        assert "--conf has no effect: the server has no configuration file" in capsys.readouterr().err


class TestRun:
    def test_makes_an_instance_and_becomes_the_server(self, installed: Installed, tmp_path: Path) -> None:
        before = contents(installed.site)
        argv = installed.become("run", "--port", "7100", "--data", "d/x", "--", "--loglevel", "--", "debug")
        data = tmp_path / "d" / "x"
        program = str(installed.tree / "bin/demo")
        assert argv == [program, "-c", str(data / "conf/demo.conf"), "--loglevel", "--", "debug"]
        assert installed.calls == [["/bin/sh", str(installed.tree / "utils/cpu-gate.sh"), "--quiet"]]
        assert sorted(str(path.relative_to(data)) for path in data.rglob("*")) == [
            "conf",
            "conf/demo.conf",
            "db",
            "run",
        ]
        assert (data / "conf/demo.conf").read_text() == (
            f"# port : 1\nport : 7100\ndir : {data}/db/\nthreads : 4\npidfile : {data}/run/pid\nfork : no\n"
        )
        assert contents(installed.site) == before

    def test_without_options(self, installed: Installed, tmp_path: Path) -> None:
        assert installed.become("run")[2] == str(tmp_path / "demo_7000/conf/demo.conf")

    def test_a_conf_that_is_there_is_kept_and_tells_the_port(self, installed: Installed, tmp_path: Path) -> None:
        installed.become("run", "--port", "7100", "--data", "d")
        conf = tmp_path / "d/conf/demo.conf"
        conf.write_text(conf.read_text() + "requirepass : x\n")
        before = conf.read_text()
        for words in ((), ("--port", "7100")):
            installed.become("run", "--data", "d", *words)
            assert conf.read_text() == before

    def test_another_port_than_that_of_the_conf(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        installed.become("run", "--port", "7100", "--data", "d")
        capsys.readouterr()
        assert installed("run", "--port", "7200", "--data", "d") == 1
        said = capsys.readouterr().err.splitlines()
        conf = tmp_path / "d/conf/demo.conf"
        assert said[0] == f"demo-server: error: {conf} is of an instance with port 7100, not 7200"

    def test_cpus_that_cannot_run_it(self, installed: Installed, tmp_path: Path) -> None:
        installed.statuses = [2]
        assert installed("run", "--data", "d") == 2
        assert not (tmp_path / "d").exists()

    def test_a_conf_of_ones_own(self, installed: Installed, tmp_path: Path) -> None:
        (tmp_path / "my.conf").write_text("port : 1\n")
        before = contents(tmp_path)
        assert installed.become("run", "--conf", "my.conf")[1:] == ["-c", str(tmp_path / "my.conf")]
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        ("words", "status", "said"),
        [
            (("--port", "0"), 2, "--port must be from 1 to 64535, not 0"),
            (("--port", "64536"), 2, "--port must be from 1 to 64535, not 64536"),
            (("--data", "a b"), 1, "the data folder must be a plain path"),
            (("--data", "site/data"), 1, "the data folder must be outside of"),
            (("--data", "site"), 1, "the data folder must be outside of"),
            (("--data", "file/x"), 1, "cannot be written: Not a directory"),
            (("--conf", "gone"), 1, "there is no file"),
            (("--conf", "file", "--port", "7100"), 2, "--port has no effect with --conf"),
            (("--conf", "file", "--data", "d"), 2, "--data has no effect with --conf"),
        ],
    )
    def test_refusals(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: int, said: str
    ) -> None:
        folder = installed.site.parent
        (folder / "file").touch()
        before = contents(folder)
        assert installed("run", *words) == status
        assert said in capsys.readouterr().err
        assert contents(folder) == before

    def test_a_program_that_is_not_there(self, installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
        def execv(*_: object) -> NoReturn:
            raise FileNotFoundError(2, "No such file or directory")

        monkeypatch.setattr(os, "execv", execv)
        assert installed("run", "--data", "d") == 1


class TestDeploy:
    def test_a_copy_beside_and_a_link_to_it(self, installed: Installed) -> None:
        os.umask(0o077)
        assert installed.deploy("--extra", "x") == 0
        gate, deploy = installed.calls
        assert gate[1:] == [str(installed.tree / "utils/cpu-gate.sh"), "--quiet"]
        assert deploy == ["/bin/sh", str(installed.build / "utils/deploy.sh"), "7000", "/data", "--extra", "x"]
        assert str(installed.link.readlink()) == installed.build.name
        assert {path.name for path in installed.link.parent.iterdir()} == {"demo", installed.build.name}
        found = contents(installed.build)
        files = {name: content for name, (_, content) in found.items() if isinstance(content, bytes)}
        assert files == make_files()
        assert found["bin/demo-check"][1] == Path("demo")
        modes = {name: oct(mode & 0o777) for name, (mode, _) in found.items()}
        assert (modes["bin"], modes["bin/demo"], modes["manifest.json"]) == ("0o755", "0o755", "0o644")

    def test_the_link_is_switched_when_deploy_has_succeeded(self, installed: Installed) -> None:
        assert installed.deploy() == 0
        assert installed.seen == ["", ""]
        installed.link.unlink()
        installed.link.symlink_to("demo-other")
        installed.statuses = [0, 3]
        assert installed.deploy() == 3
        assert str(installed.link.readlink()) == "demo-other"

    def test_again_changes_nothing(self, installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        assert installed.deploy() == 0
        capsys.readouterr()
        before = contents(installed.link.parent)
        inode = installed.build.stat().st_ino
        assert installed.deploy() == 0
        assert (contents(installed.link.parent), installed.build.stat().st_ino) == (before, inode)
        assert capsys.readouterr().err == ""

    def test_an_upgrade_leaves_the_former_build(
        self, installed: Installed, install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert installed.deploy() == 0
        before = contents(installed.build)
        newer = install(write_tarball(tmp_path / "new.tar.gz", {**make_files(), "bin/demo": b"\x7fELF newer"}), "new")
        capsys.readouterr()
        assert newer.deploy() == 0
        assert newer.build != installed.build
        assert str(newer.link.readlink()) == newer.build.name
        assert contents(installed.build) == before
        assert f"to go back: sh {installed.build}/utils/deploy.sh PORT BASE" in capsys.readouterr().err
        assert installed.deploy() == 0
        assert str(installed.link.readlink()) == installed.build.name

    @pytest.mark.parametrize("change", ["content", "mode", "gone", "link"])
    def test_a_copy_that_was_altered(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], change: str
    ) -> None:
        assert installed.deploy() == 0
        file = installed.build / "lib/libz.so.1"
        if change == "content":
            file.write_bytes(b"other")
        elif change == "mode":
            file.chmod(0o644)
        else:
            file.rename(file.parent / "moved")
            if change == "link":
                file.symlink_to("moved")
        calls = len(installed.calls)
        assert installed.deploy() == 1
        assert f"{file} was altered" in capsys.readouterr().err
        assert len(installed.calls) == calls + 1, "the gate alone"

    def test_a_wheel_that_was_altered(self, installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        (installed.tree / "bin/demo").write_bytes(b"other")
        assert installed.deploy() == 1
        assert "bin/demo was altered\n  hint: install the wheel again" in capsys.readouterr().err
        assert list(installed.link.parent.iterdir()) == []

    def test_a_full_disk_is_named_and_leaves_nothing(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fsync(_: int) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")  # a write has no file's name

        with monkeypatch.context() as full:
            full.setattr(os, "fsync", fsync)
            assert installed.deploy() == 1
        folder = installed.link.parent
        assert (
            f"error: {folder}: No space left on device; {installed.link} is left as it was" in capsys.readouterr().err
        )
        assert list(folder.iterdir()) == []
        assert installed.deploy() == 0

    def test_a_disk_that_became_read_only(self, installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is there already is only read."""

        def refuse(*_: object, **__: object) -> NoReturn:
            raise OSError(errno.EROFS, "Read-only file system", str(installed.link.parent))

        assert installed.deploy() == 0
        for name in ("mkdir", "chmod", "symlink", "rename", "replace"):
            monkeypatch.setattr(os, name, refuse)
        assert installed.deploy() == 0
        shutil.rmtree(installed.build)
        assert installed.deploy() == 1, "the control: a copy has to be written"

    def test_only_root(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert installed("deploy", "7000", "/data") == 1
        assert capsys.readouterr().err == (
            "demo-server: error: only root can put it on this host\n"
            "  hint: sudo /usr/bin/demo-server deploy 7000 /data\n"
        )
        assert installed.calls == []

    def test_cpus_that_cannot_run_it(self, installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        installed.statuses = [1]
        assert installed.deploy() == 1
        assert "CPUs do not run the program (see above); nothing was changed" in capsys.readouterr().err
        assert not installed.link.parent.exists()

    @pytest.mark.parametrize(
        "words", [("--prefix",), ("--prefix", "opt/x"), ("--prefix=/",), ("--prefix=/a b",), ("--prefix=/a/../b",)]
    )
    def test_prefixes_that_are_none(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
    ) -> None:
        assert installed("deploy", "7000", "/data", *words) == 2
        assert "--prefix must be a plain path" in capsys.readouterr().err
        assert installed.calls == []

    def test_a_folder_in_its_place(self, installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        installed.link.mkdir(parents=True)
        assert installed.deploy() == 1
        assert f"{installed.link} is there, and is no link" in capsys.readouterr().err
        assert installed.calls == []

    def test_what_a_killed_deployment_has_left_is_removed(self, installed: Installed) -> None:
        folder = installed.link.parent
        folder.mkdir()
        left = (".demo-0.9-0123456789ab.abcdef_1", f".{installed.build.name}.12345678")
        kept = (".demo-1", ".demo-data.old", ".demo-backup.20261126", "demo-0.9-0123456789ab")
        for name in (*left, *kept):
            (folder / name / "bin").mkdir(parents=True)
            (folder / name / "bin/demo").touch()
        (folder / ".demo.4711").symlink_to("demo-0.9-0123456789ab")
        (folder / ".demo.conf").touch()
        assert installed.deploy() == 0
        names = {path.name for path in folder.iterdir()}
        assert names == {"demo", installed.build.name, ".demo.conf", *kept}

    def test_two_deployments_wait_for_each_other(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed.link.parent.mkdir()
        real, other = fcntl.flock, os.open(installed.link.parent, os.O_RDONLY)
        real(other, fcntl.LOCK_EX)

        def flock(descriptor: int, kind: int) -> None:
            if kind == fcntl.LOCK_EX:
                os.close(other)  # the other one ends
            real(descriptor, kind)

        monkeypatch.setattr(fcntl, "flock", flock)
        assert installed.deploy() == 0
        assert f"deploy: waits for another deployment in {installed.link.parent}\n" in capsys.readouterr().err

    def test_a_link_that_it_has_not_made(self, installed: Installed, capsys: pytest.CaptureFixture[str]) -> None:
        """Such as that to another disk, through which a system package has its files."""
        installed.link.parent.mkdir()
        for target in ("../srv/disk", str(installed.link.parent / "demo-1"), "other-1"):
            installed.link.symlink_to(target)
            assert installed.deploy() == 1
            said = capsys.readouterr().err
            assert f"{installed.link} is a link to {target}, which deploy has not made\n" in said
            installed.link.unlink()
        assert installed.calls == []
        installed.link.symlink_to("demo-1.0-0123456789ab")
        assert installed.deploy() == 0, "the control: a former build, which may be gone"

    @pytest.mark.parametrize("there", ["folder", "link", "nothing"])
    def test_a_prefix_of_a_system_package(
        self, installed: Installed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, there: str
    ) -> None:
        """Package managers follow links: they would write into the wheel's folder, and remove its files."""
        units = installed.site.parent / "units"
        units.mkdir()
        module = sys.modules[installed.cli.deploy.__module__]
        monkeypatch.setattr(module, "UNITS", (str(units / "absent"), str(units)))
        disk = installed.link.parent.with_name("disk")
        disk.mkdir()
        installed.link.parent.symlink_to(disk)
        unit = units / "demo@.service"
        text = "[Service]\nExecStartPre={0}/utils/cpu-gate.sh --quiet\nExecStart={0}/bin/demo $CONF\n"
        unit.write_text(text.format(installed.link))
        if there == "folder":
            installed.link.mkdir()
        elif there == "link":
            installed.link.symlink_to("demo-1.0-0123456789ab")
        assert installed.deploy() == 1
        said = capsys.readouterr().err
        assert f"{disk}/demo belongs to a system package, which has brought {unit}\n" in said
        assert "remove the package first (dnf remove demo, or apt-get purge demo)" in said
        assert installed.calls == []
        unit.write_text(text.format("/opt/elsewhere"))
        assert installed.deploy() == (1 if there == "folder" else 0), "the control: its files are elsewhere"

    def test_arguments_that_are_missing(self, installed: Installed) -> None:
        assert installed("deploy", "7000") == 2
        assert installed.calls == []
