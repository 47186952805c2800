"""publish/index.py: twine puts the pipeline's wheel on real indexes, and pip takes it from there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.dav import PROXIES
from integration.index_server import (
    NAME,
    VERSION,
    Index,
    clean,
    index_by,
    index_of,
    install,
    run,
    skip_unless_it_runs_here,
    wheel_of,
)

from pikaforge.attest.contents import read_package
from pikaforge.errors import EXIT_PUBLISH, PublishError
from pikaforge.host import process
from pikaforge.publish.sites.credentials import Credentials
from pikaforge.publish.sites.pypi import publish_wheels
from pikaforge.publish.sites.site import UploadOutcome

if TYPE_CHECKING:
    from .builds import SampleBuild

pytest.importorskip("pypiserver", reason="the extra `tests` has it")
apache = pytest.importorskip("passlib.apache", reason="pypiserver reads passwords with it")
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("wheel")]

WRITER = Credentials(user="writer", password="zebra crossing:7")
TOKEN = Credentials(token="index-zebra-8")
QUICK: dict[str, Any] = {"timeout": (5.0, 20.0), "pause": 0.01, "target": "my-index"}


@pytest.fixture(scope="module")
def built(sample_build: Callable[..., SampleBuild], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the pipeline leaves it in dist/."""
    return wheel_of(sample_build, tmp_path_factory.mktemp("publish-index"))


@pytest.fixture(autouse=True)
def traps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of the user's that twine would take, and must not; and no proxy."""
    for name in (*PROXIES, "NETRC"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    pypirc = "[distutils]\nindex-servers = pypi\n[pypi]\nrepository = http://127.0.0.1:9/\nusername = x\npassword = y\n"
    (home / ".pypirc").write_text(pypirc)
    (home / ".netrc").write_text("machine 127.0.0.1 login x password y\n")
    monkeypatch.setenv("TWINE_REPOSITORY_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("TWINE_PASSWORD", "y")
    monkeypatch.setenv("TWINE_CERT", "/none")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The command lines of the programs that were run."""
    seen: list[Sequence[str]] = []
    real = process.run

    def spy(argv: Sequence[str], **options: Any) -> process.Completed:
        seen.append(argv)
        return real(argv, **options)

    monkeypatch.setattr(process, "run", spy)
    return seen


@contextmanager
def pypi(tmp_path: Path, until: Callable[..., None], *options: str) -> Iterator[tuple[Index, Path]]:
    """A pypiserver that lets nobody in but the publishers; the folder that it keeps files in."""
    folder, passwords = tmp_path / "packages", tmp_path / "htpasswd"
    folder.mkdir()
    accounts = apache.HtpasswdFile(str(passwords), new=True, default_scheme="apr_md5_crypt")
    accounts.set_password(WRITER.user, WRITER.password)
    accounts.set_password("__token__", TOKEN.token)
    accounts.save()
    wanted = ("-a", "update,list,download", "-P", str(passwords), *options)
    with index_of(folder, tmp_path / "log", until, options=wanted) as index:
        yield index, folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(*paths: Path) -> list[tuple[Path, str]]:
    return [(path, digest(path)) for path in paths]


def outcome(path: Path, done: Any) -> UploadOutcome:
    return UploadOutcome(name=path.name, sha256=digest(path), done=done)


def small(folder: Path, version: str, content: str = "") -> Path:
    """Another wheel of a project of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"My.Small_thing-{version}-py3-none-any.whl"
    info = f"My.Small_thing-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("small.py", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: My.Small_thing\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def installed(simple: str, folder: Path, built: Path) -> None:
    """pip finds the pipeline's wheel, and its command runs."""
    text = read_package(built).manifest
    assert text is not None
    skip_unless_it_runs_here(json.loads(text)["audit"]["symbol_versions"]["GLIBC"])
    venv.create(folder, with_pip=False, symlinks=True)
    done = install(folder, simple, f"{NAME}=={VERSION}")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(folder / "bin" / NAME, "--version")
    assert (done.returncode, done.stdout.startswith(f"{NAME} {VERSION}: ")) == (0, True), done


def test_a_wheel_is_uploaded_once_and_installs(
    tmp_path: Path, built: Path, until: Callable[..., None], started: list[Sequence[str]]
) -> None:
    with pypi(tmp_path, until) as (index, folder):
        url = f"{index.url}/"
        wheels = files(built, small(tmp_path, "1.0"))
        assert publish_wheels(url, None, wheels, WRITER, yes=False, **QUICK) == [
            outcome(path, "would upload") for path, _ in wheels
        ]
        assert (started, list(folder.iterdir())) == ([], [])
        assert publish_wheels(url, None, wheels[:1], WRITER, yes=True, **QUICK) == [outcome(built, "uploaded")]
        assert publish_wheels(url, None, wheels, TOKEN, yes=True, **QUICK) == [
            outcome(built, "same"),
            outcome(wheels[1][0], "uploaded"),
        ]
        assert publish_wheels(url, f"{url}simple", wheels, WRITER, yes=True, **QUICK) == [
            outcome(path, "same") for path, _ in wheels
        ]
        assert {path.name: digest(path) for path in folder.iterdir()} == {path.name: sha for path, sha in wheels}
        assert len(started) == 2
        assert all(argv[argv.index("--config-file") + 1] == os.devnull for argv in started)
        words = " ".join(word for argv in started for word in argv)
        assert WRITER.password not in words
        assert TOKEN.token not in words
        simple = f"{index.url.replace('//', '//writer:zebra%20crossing%3A7@')}/simple/"
        installed(simple, tmp_path / "env", built)


@pytest.mark.parametrize("options", [(), ("--hash-algo", "off")])
def test_other_bytes_under_a_name_are_refused_before_anything_is_sent(
    tmp_path: Path, until: Callable[..., None], options: Sequence[str]
) -> None:
    with pypi(tmp_path, until, *options) as (index, folder):
        one, two = (small(tmp_path / name, "1.0+local.1", name) for name in ("one", "two"))
        new = small(tmp_path / "new", "2.0")
        assert publish_wheels(index.url, None, files(one), WRITER, yes=True, **QUICK) == [outcome(one, "uploaded")]
        for yes in (False, True):
            with pytest.raises(PublishError) as caught:
                publish_wheels(index.url, None, files(new, two), WRITER, yes=yes, **QUICK)
            assert caught.value.exit_code == EXIT_PUBLISH
            assert f"SHA-256 {digest(one)}, not {digest(two)}" in caught.value.message
            assert "another release" in caught.value.hint
            assert caught.value.where.endswith("/simple/my-small-thing/")
        assert publish_wheels(index.url, None, files(one), WRITER, yes=True, **QUICK) == [outcome(one, "same")]
        assert [path.name for path in folder.iterdir()] == [one.name]


def test_wrong_credentials_and_what_twine_says(
    tmp_path: Path, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Credentials(user="writer", password="not-the-password")
    wheel = small(tmp_path, "1.0")
    with pypi(tmp_path, until) as (index, folder):
        for credentials in (wrong, None):
            with pytest.raises(PublishError, match=r"answered 40[13]") as caught:
                publish_wheels(index.url, None, files(wheel), credentials, yes=True, **QUICK)
            assert "PIKAFORGE_MY_INDEX_USER" in caught.value.hint
        assert list(folder.iterdir()) == []
    shutil.rmtree(folder)
    with pypi(tmp_path, until, "-a", "update") as (index, folder):
        for credentials in (wrong, None):
            with pytest.raises(PublishError, match="twine could not upload") as caught:
                publish_wheels(index.url, None, files(wheel), credentials, yes=True, **QUICK)
            shown = "\n".join([*caught.value.lines(), repr(caught.value)])
            assert "403" in shown or "401" in shown
            assert "PIKAFORGE_MY_INDEX_TOKEN" in caught.value.hint
            assert wrong.password not in shown
        assert list(folder.iterdir()) == []
        # The index has it, and the page that is looked at is not the index's.
        with pytest.raises(PublishError, match="does not show it") as caught:
            publish_wheels(index.url, f"{index.url}/packages", files(wheel), WRITER, yes=True, **QUICK)
        assert "`simple` right?" in caught.value.hint
        assert [path.name for path in folder.iterdir()] == [wheel.name]
        (tmp_path / "changed.whl").write_bytes(b"")
        with pytest.raises(PublishError, match="digest"):
            publish_wheels(index.url, None, [(tmp_path / "changed.whl", "0" * 64)], WRITER, yes=True, **QUICK)


@pytest.mark.skipif(importlib.util.find_spec("devpi_server") is None, reason="devpi-server is not installed")
def test_devpi_whose_simple_pages_are_elsewhere(tmp_path: Path, built: Path, until: Callable[..., None]) -> None:
    data = tmp_path / "devpi"
    programs = Path(sys.executable).parent
    made = subprocess.run(
        [programs / "devpi-init", "--serverdir", data, "--no-root-pypi", "--root-passwd", WRITER.password],
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    secret = tmp_path / "secret"
    secret.write_text(secrets.token_urlsafe(48))
    secret.chmod(0o600)
    options = ["--serverdir", str(data), "--host", "127.0.0.1", "--secretfile", str(secret), "--offline-mode"]
    server = str(programs / "devpi-server")
    with index_by(lambda port: [server, *options, "--port", str(port)], tmp_path / "log", until) as index:
        writer = Credentials(user="root", password=WRITER.password)
        ask(index, "PUT", "/root/dev", {"bases": [], "volatile": False}, token(index))
        url = f"{index.url}/root/dev/"
        simple = f"{url}+simple/"
        assert publish_wheels(url, simple, files(built), writer, yes=True, **QUICK) == [outcome(built, "uploaded")]
        assert publish_wheels(url, simple, files(built), writer, yes=True, **QUICK) == [outcome(built, "same")]
        installed(simple, tmp_path / "env", built)
        one, two = (small(tmp_path / name, "1.0", name) for name in ("one", "two"))
        publish_wheels(url, simple, files(one), writer, yes=True, **QUICK)
        with pytest.raises(PublishError, match="other bytes"):
            publish_wheels(url, simple, files(two), writer, yes=True, **QUICK)


def ask(index: Index, method: str, path: str, content: object, token: str = "") -> dict[str, Any]:
    """A request to devpi."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token:
        headers["X-Devpi-Auth"] = token
    request = urllib.request.Request(  # noqa: S310  # of this machine
        f"{index.url}{path}", data=json.dumps(content).encode(), headers=headers, method=method
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def token(index: Index) -> str:
    """devpi's proof of a login."""
    import base64

    got = ask(index, "POST", "/+login", {"user": "root", "password": WRITER.password})["result"]["password"]
    return base64.b64encode(f"root:{got}".encode()).decode()
