"""Signing and verifying with GnuPG itself, as a user calls it: files, folders, URLs, keys; and secrets that stay so."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.keys import Key, new_key
from unit import elf_files as ef
from unit.artifacts import NAME, TREE, deliver, flip, write_sums
from unit.helpers import BASE
from unit.package_files import make_rpm

from pikaforge.attest import signing
from pikaforge.attest.describe import describe
from pikaforge.attest.provenance import Builder
from pikaforge.attest.signatures import Verifier
from pikaforge.attest.signing import Settings, open_signer
from pikaforge.attest.verify import artifact_of
from pikaforge.cli.commands import verify as verb
from pikaforge.cli.context import Context
from pikaforge.errors import ConfigError, HostError
from pikaforge.formats.embedded_signature import Insertion, insert_here
from pikaforge.formats.rpm.rpm_file import read_rpm
from pikaforge.formats.rpm.signature import RpmSignature

ROOT = Path(__file__).resolve().parents[2]
CANARY = "CANARY-4f1d-correct-horse"
TOOLS = ("gpg", "gpgv", "gpgconf")
OTHER = "demo-v1.0-R720.tar.gz"

pytestmark = [
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in TOOLS), reason="GnuPG is not on this machine (gpg, gpgv, gpgconf)"
    ),
    pytest.mark.xdist_group("verify"),  # one worker: keys are made once
]


@pytest.fixture(scope="module")
def make_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Key]]:
    """Makes a key: `make_key(algorithm, passphrase, expires, gpg options)`."""
    with ExitStack() as stack:

        def make(algorithm: str, passphrase: str, expires: str = "never", when: tuple[str, ...] = ()) -> Key:
            folder = tmp_path_factory.mktemp("key")
            return stack.enter_context(new_key(folder, algorithm, passphrase, expires, when))

        yield make


@pytest.fixture(scope="module")
def key(make_key: Callable[..., Key]) -> Key:
    """The release key; its passphrase is the canary."""
    return make_key("rsa3072", CANARY)


@pytest.fixture(scope="module")
def stranger(make_key: Callable[..., Key]) -> Key:
    """A key that is not ours, of the kind that old systems do not know."""
    return make_key("ed25519", "")


def sign_all(folder: Path, key: Key, scratch: Path) -> None:
    with open_signer(key.settings, scratch) as signer:
        for path in sorted(folder.iterdir()):
            if artifact_of(path.name) == path.name:
                signer.sign(path)


@pytest.fixture(scope="module")
def signed(key: Key, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a build leaves it."""
    folder = tmp_path_factory.mktemp("dist") / "debian12"
    deliver(folder)
    deliver(folder, OTHER, cell="R720-debian12-none", model="R720")
    sign_all(folder, key, folder.parent / "scratch")
    return folder


@pytest.fixture
def dist(signed: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(signed, tmp_path / "dist" / "debian12"))


@dataclass(frozen=True)
class Said:
    """How a run of the verb ended."""

    status: int
    text: str

    @property
    def refused(self) -> list[str]:
        return [line.split(maxsplit=1)[1] for line in self.text.splitlines() if line.startswith("no ")]


Verify = Callable[..., Said]


@pytest.fixture
def verify(tmp_path: Path, key: Key, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    """The verb: `verify(path, …, key=[…])`, with the release key unless others are named."""
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(yaml.safe_dump(BASE, sort_keys=False))
    monkeypatch.setenv("PIKAFORGE_CWD", str(tmp_path))
    monkeypatch.delenv(signing.PUBLIC, raising=False)

    def run(*paths: str | Path, key: list[Path] = [key.public], **more: Any) -> Said:  # noqa: B006
        given = {"unsigned": False, "json": False, **more, "key": [str(path) for path in key]}
        arguments = argparse.Namespace(matrix=str(matrix), out=None, dist=None, paths=[str(p) for p in paths], **given)
        capsys.readouterr()
        status = verb.verify(Context(arguments))
        return Said(status, capsys.readouterr().out)

    return run


class TestFolder:
    def test_it_says_yes(self, dist: Path, verify: Verify, key: Key) -> None:
        said = verify(dist)
        assert said.status == 0, said.text
        assert said.text.splitlines()[-1] == f"{dist}: verified: all 19 checks say yes"
        assert f"SHA256SUMS: signature: SHA-256, key {key.fingerprint}" in said.text

    def test_the_folders_of_a_folder(self, dist: Path, verify: Verify) -> None:
        (dist.parent / "report.json").write_text("{}")
        assert verify(dist.parent).text == verify(dist).text

    @pytest.mark.parametrize("offset", [0, 12, -1])
    @pytest.mark.parametrize("name", [NAME, "SHA256SUMS", f"{NAME}.sbom.json", f"{NAME}.intoto.json"])
    def test_one_flipped_byte(self, dist: Path, verify: Verify, name: str, offset: int) -> None:
        flip(dist / name, offset)
        said = verify(dist)
        assert said.status == 4
        assert any(line.startswith(f"{name}: ") for line in said.refused), said.text
        assert OTHER not in "".join(said.refused), "what is whole is not accused"

    def test_a_flipped_signature(self, dist: Path, verify: Verify) -> None:
        flip(dist / f"{NAME}.asc", 300)
        said = verify(dist)
        assert said.status == 4
        assert [line.split(": ")[:2] for line in said.refused] == [[NAME, "signature"]]

    def test_the_signature_of_another_file(self, dist: Path, verify: Verify) -> None:
        shutil.copy(dist / f"{OTHER}.asc", dist / f"{NAME}.asc")
        said = verify(dist)
        assert said.status == 4
        assert said.refused[0].startswith(f"{NAME}: signature: the file is not what was signed")

    def test_a_wrong_key(self, dist: Path, verify: Verify, key: Key, stranger: Key) -> None:
        said = verify(dist, key=[stranger.public])
        assert said.status == 4
        assert said.refused == [
            f"{name}: signature: it is by the key {key.fingerprint}, which is not among {stranger.public}"
            for name in ("SHA256SUMS", NAME, OTHER)
        ]

    def test_several_keys(self, dist: Path, verify: Verify, key: Key, stranger: Key) -> None:
        assert verify(dist, key=[stranger.public, key.public]).status == 0

    def test_signed_anew_by_a_stranger(self, dist: Path, verify: Verify, stranger: Key, tmp_path: Path) -> None:
        flip(dist / NAME)
        for path in dist.glob("*.asc"):
            path.unlink()
        write_sums(dist)
        sign_all(dist, stranger, tmp_path / "s")
        said = verify(dist)
        assert said.status == 4
        assert f"SHA256SUMS: signature: it is by the key {stranger.fingerprint}" in said.refused[0]

    def test_not_signed(self, dist: Path, verify: Verify) -> None:
        (dist / f"{NAME}.asc").unlink()
        said = verify(dist)
        assert said.status == 4
        assert said.refused == [f"{NAME}: signature: it is not signed: there is no {NAME}.asc"]
        said = verify(dist, unsigned=True)
        assert said.status == 0
        assert f"not checked  {NAME}: signature: it is not signed, which --unsigned accepts" in said.text

    def test_without_a_key(self, dist: Path, verify: Verify) -> None:
        with pytest.raises(ConfigError) as caught:
            verify(dist, key=[])
        assert "--unsigned" in caught.value.hint
        assert verify(dist, key=[], unsigned=True).status == 0

    def test_without_a_key_and_without_any_signature(self, dist: Path, verify: Verify) -> None:
        """As a build leaves it that was given no key, or somebody who has taken the signatures away."""
        for path in dist.glob("*.asc"):
            path.unlink()
        said = verify(dist, key=[])
        assert said.status == 4
        assert said.text.startswith("note: nothing here is signed, so nobody vouches for it")
        assert said.refused == [
            f"{name}: signature: it is not signed: there is no {name}.asc" for name in ("SHA256SUMS", NAME, OTHER)
        ]
        said = verify(dist, key=[], unsigned=True)
        assert said.status == 0
        assert f"not checked  {NAME}: signature: it is not signed" in said.text
        flip(dist / NAME)
        said = verify(dist, key=[], unsigned=True)
        assert said.status == 4
        assert said.refused[0].startswith(f"{NAME}: digest")

    def test_the_key_by_configuration(
        self, dist: Path, verify: Verify, key: Key, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(signing.PUBLIC, str(key.public))
        assert verify(dist, key=[]).status == 0

    def test_the_secret_key_is_refused(self, dist: Path, verify: Verify, key: Key) -> None:
        with pytest.raises(ConfigError) as caught:
            verify(dist, key=[key.secret])
        assert caught.value.message == "this is a secret key"

    def test_for_scripts(self, dist: Path, verify: Verify) -> None:
        (found,) = json.loads(verify(dist, json=True).text)
        assert found["passed"]
        assert {check["verdict"] for check in found["checks"]} == {"yes"}


class TestFile:
    def test_one_artifact(self, dist: Path, verify: Verify) -> None:
        flip(dist / OTHER)
        assert verify(dist / NAME).status == 0
        said = verify(dist / NAME, dist / OTHER)
        assert said.status == 4
        assert all(line.startswith(OTHER) for line in said.refused)

    def test_an_artifact_alone(self, dist: Path, verify: Verify, tmp_path: Path) -> None:
        shutil.copy(dist / NAME, tmp_path / NAME)
        said = verify(NAME)
        assert said.status == 4
        assert {line.split(": ")[0] for line in said.refused} == {NAME, f"{NAME}.sbom.json", f"{NAME}.intoto.json"}

    def test_a_file_that_is_not_there(self, verify: Verify) -> None:
        with pytest.raises(ConfigError) as caught:
            verify("nowhere.rpm")
        assert caught.value.message == "nowhere.rpm does not exist"


class TestAudit:
    """The audit is made again, of what is in the artifact."""

    def test_a_program_that_the_target_does_not_run(self, verify: Verify, key: Key, tmp_path: Path) -> None:
        program = ef.make(ef.Elf(text=ef.AVX2 + ef.RET, symbols=[("work", 0, 5, ef.FUNC)]))
        deliver(tmp_path / "d", tree={**TREE, "bin/demo": program})
        sign_all(tmp_path / "d", key, tmp_path / "s")
        said = verify(tmp_path / "d")
        assert said.status == 4
        (line,) = said.refused
        assert line.startswith(f"{NAME}: audit for sandybridge: bin/demo")
        assert "avx2" in line

    def test_a_target_that_nobody_knows(self, verify: Verify, key: Key, tmp_path: Path) -> None:
        deliver(tmp_path / "d", target="-fplugin=x")
        sign_all(tmp_path / "d", key, tmp_path / "s")
        assert "no microarchitecture that archspec knows" in verify(tmp_path / "d").refused[0]


class TestUrl:
    @pytest.fixture
    def url(self, dist: Path, web: Callable[[Path], Any]) -> str:
        return str(web(dist).url)

    def test_an_artifact_with_its_companions(self, url: str, verify: Verify) -> None:
        said = verify(f"{url}/{NAME}")
        assert said.status == 0, said.text
        assert said.text.splitlines()[-1] == f"{url}/{NAME}: verified: all 10 checks say yes"

    def test_a_folder(self, url: str, verify: Verify) -> None:
        assert verify(f"{url}/").text.splitlines()[-1] == f"{url}/: verified: all 19 checks say yes"

    def test_an_altered_byte(self, url: str, dist: Path, verify: Verify) -> None:
        flip(dist / NAME)
        said = verify(f"{url}/{NAME}")
        assert said.status == 4
        assert said.refused[0].startswith(f"{NAME}: download: ")
        assert "is expected" in said.refused[0]

    @pytest.mark.parametrize("name", ["SHA256SUMS", f"{NAME}.asc", f"{NAME}.intoto.json"])
    def test_what_the_server_lacks(self, url: str, dist: Path, verify: Verify, name: str) -> None:
        (dist / name).unlink()
        said = verify(f"{url}/{NAME}")
        assert said.status == 4
        assert any(name in line for line in said.refused), said.text

    def test_what_is_not_listed(self, url: str, verify: Verify) -> None:
        said = verify(f"{url}/other.rpm")
        assert (said.status, said.refused) == (4, ["other.rpm: digest in SHA256SUMS: it is not listed"])

    def test_a_password_is_refused_and_not_shown(self, url: str, verify: Verify) -> None:
        with pytest.raises(ConfigError) as caught:
            verify(url.replace("http://", f"http://me:{CANARY}@") + f"/{NAME}")
        assert CANARY not in "\n".join(caught.value.lines())
        assert ".netrc" in caught.value.hint

    def test_nobody_answers(self, verify: Verify) -> None:
        with pytest.raises(HostError):
            verify(f"http://127.0.0.1:9/{NAME}")

    def test_another_scheme(self, verify: Verify) -> None:
        with pytest.raises(ConfigError):
            verify(f"ftp://example.invalid/{NAME}")


@dataclass
class Recorder:
    """Everything that is started while it looks."""

    real: type[subprocess.Popen[bytes]]
    seen: list[str] = field(default_factory=list)

    def __call__(self, argv: list[str], *args: Any, **more: Any) -> subprocess.Popen[bytes]:
        self.seen.append(repr(argv))
        self.seen.append(repr(more.get("env") or dict(os.environ)))
        return self.real(argv, *args, **more)


class TestSecrets:
    """The canary is the passphrase; the secret key's own text is looked for as well."""

    @pytest.fixture
    def recorder(self, monkeypatch: pytest.MonkeyPatch) -> Recorder:
        recorder = Recorder(subprocess.Popen)
        monkeypatch.setattr(subprocess, "Popen", recorder)
        return recorder

    def test_they_are_nowhere(
        self, recorder: Recorder, key: Key, tmp_path: Path, verify: Verify, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder, scratch = tmp_path / "dist" / "debian12", tmp_path / "out" / "store"
        deliver(folder)
        during: list[Path] = []
        with open_signer(key.settings, scratch) as signer:
            for path in (folder / NAME, folder / "SHA256SUMS"):
                signer.sign(path)
            during = [path for path in scratch.rglob("*") if path.is_file()]
            assert not [path for path in during if CANARY.encode() in path.read_bytes()]
        said = verify(folder)
        assert said.status == 0
        secret = key.secret.read_text().splitlines()[5]
        argv = "\n".join(recorder.seen)
        assert "--detach-sign" in argv, "the recorder saw it"
        for canary in (CANARY, secret):
            assert canary not in argv
            assert canary not in said.text + caplog.text
            left = [p for p in tmp_path.rglob("*") if p.is_file() and canary.encode() in p.read_bytes()]
            assert left == []
        assert list(scratch.iterdir()) == []

    def test_a_wrong_passphrase_is_not_told(self, recorder: Recorder, key: Key, tmp_path: Path) -> None:
        (tmp_path / "pass").write_text("CANARY-wrong")
        (tmp_path / "X").write_text("x")
        where = Settings(key=str(key.secret), passphrase=tmp_path / "pass")
        with open_signer(where, tmp_path / "s") as signer, pytest.raises(ConfigError) as caught:
            signer.sign(tmp_path / "X")
        assert "\n".join(caught.value.lines()) == (
            "error: the signing key cannot be used: Bad passphrase\n"
            f"  where: {signing.PASSPHRASE}\n"
            "  hint: a file with the passphrase of the key, and nothing else"
        )
        assert "CANARY-wrong" not in "\n".join(recorder.seen)

    def test_no_agent_is_left(self, key: Key, tmp_path: Path) -> None:
        (tmp_path / "X").write_text("x")
        with open_signer(key.settings, tmp_path / "s") as signer:
            signer.sign(tmp_path / "X")
            (home,) = (tmp_path / "s").iterdir() if len(str(tmp_path)) < 60 else [signer._gpg.home]
            assert agents(home)
        assert not agents(home)
        assert not home.exists()


def agents(home: Path) -> list[str]:
    """The command lines of agents of a keyring that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].endswith("gpg-agent") and str(home) in words:
            found.append(" ".join(words))
    return found


class TestSigner:
    def test_a_second_time_nothing_is_signed(self, dist: Path, key: Key, tmp_path: Path) -> None:
        before = {path.name: path.read_bytes() for path in dist.iterdir()}
        with open_signer(key.settings, tmp_path / "s") as signer:
            signer.sign(dist / NAME)
            assert signer.made == []
        assert {path.name: path.read_bytes() for path in dist.iterdir()} == before

    def test_a_key_without_passphrase(self, stranger: Key, tmp_path: Path) -> None:
        (tmp_path / "X").write_text("x")
        with open_signer(Settings(key=str(stranger.secret)), tmp_path / "s") as signer:
            signer.sign(tmp_path / "X")
            assert "EL7" in signer.notices[0]
        folder = tmp_path / "v"
        folder.mkdir()
        assert Verifier.of_files([stranger.public], folder).check(tmp_path / "X", tmp_path / "X.asc").good

    def test_a_key_that_the_agent_has(self, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The secret half stays with the user's agent: the keyring that is thrown away never has it."""
        monkeypatch.setenv("GNUPGHOME", str(key.home))
        (tmp_path / "X").write_text("x")
        where = signing.settings({signing.KEY: key.fingerprint, signing.PASSPHRASE: str(key.passphrase)}, base=tmp_path)
        with open_signer(where, tmp_path / "s") as signer:
            signer.sign(tmp_path / "X")
            home = signer._gpg.home
            assert not list(home.glob("private-keys-v1.d/*.key"))
        folder = tmp_path / "v"
        folder.mkdir()
        assert Verifier.of_files([key.public], folder).check(tmp_path / "X", tmp_path / "X.asc").good
        assert agents(key.home), "the user's agent goes on"

    def test_an_expired_key(self, make_key: Callable[..., Key], tmp_path: Path, verify: Verify) -> None:
        then = ("--faked-system-time", "20200101T000000!")
        key = make_key("rsa3072", "", "1y", then)
        deliver(tmp_path / "d")
        for name in (NAME, "SHA256SUMS"):
            key.gpg(*then, "--armor", "--detach-sign", str(tmp_path / "d" / name))
        said = verify(tmp_path / "d", key=[key.public])
        assert said.status == 4
        assert said.refused == [
            f"{name}: signature: the key {key.fingerprint[-16:]} has expired" for name in ("SHA256SUMS", NAME)
        ]

    def test_a_weak_digest(self, dist: Path, key: Key, verify: Verify) -> None:
        (dist / f"{NAME}.asc").unlink()
        key.gpg("--digest-algo", "SHA1", "--armor", "--detach-sign", str(dist / NAME))
        said = verify(dist)
        assert said.status == 4
        assert said.refused[0].startswith(f"{NAME}: signature: ")


class TestRpm:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "v"
        folder.mkdir()
        return folder

    def test_the_header_is_signed_and_judged(self, key: Key, stranger: Key, tmp_path: Path, folder: Path) -> None:
        rpm = tmp_path / "demo.rpm"
        rpm.write_bytes(make_rpm())

        def insert(job: Insertion) -> bytes:
            signature = job.inputs["signature"]
            assert isinstance(signature, bytes)
            return make_rpm(signature=signature)

        with open_signer(key.settings, tmp_path / "s") as signer:
            assert signer.sign_inside(rpm, insert)
        embedded = RpmSignature()
        assert Verifier.of_files([key.public], folder).check_embedded(rpm, embedded).good
        assert "is not among" in Verifier.of_files([stranger.public], folder).check_embedded(rpm, embedded).why
        flip(rpm, -len("payload") - 2)  # within the header
        assert "is not what was signed" in Verifier.of_files([key.public], folder).check_embedded(rpm, embedded).why

    @pytest.mark.skipif(
        any(shutil.which(name) is None for name in ("rpmbuild", "rpmsign", "rpmkeys")),
        reason="rpm is not on this machine (rpmbuild, rpmsign, rpmkeys)",
    )
    def test_rpm_itself_takes_the_signature(self, key: Key, stranger: Key, tmp_path: Path, folder: Path) -> None:
        spec = tmp_path / "demo.spec"
        spec.write_text(
            "Name: demo\nVersion: 1\nRelease: 1\nSummary: demo\nLicense: MIT\nBuildArch: noarch\n%description\ndemo\n"
            "%install\nmkdir -p %{buildroot}/opt\necho x >%{buildroot}/opt/demo\n%files\n/opt/demo\n"
        )
        defines = [f"_topdir {tmp_path}/top", f"_dbpath {tmp_path}/db", "__os_install_post %{nil}"]
        options = [word for define in defines for word in ("--define", define)]
        subprocess.run(["rpmbuild", "-bb", *options, str(spec)], check=True, capture_output=True, timeout=120)
        (built,) = (tmp_path / "top").rglob("*.rpm")
        rpm = Path(shutil.copy(built, tmp_path / "demo.rpm"))
        verifier, embedded = Verifier.of_files([key.public], folder), RpmSignature()
        by_rpm = verifier.check_by_program(rpm, embedded)
        assert by_rpm is not None
        assert by_rpm.why == "rpm finds no signature in it"
        insert = insert_here(ROOT / "docker/guest", tmp_path)
        with open_signer(key.settings, tmp_path / "s") as signer:
            assert signer.sign_inside(rpm, insert)
            assert not signer.sign_inside(rpm, insert)
        assert read_rpm(rpm).body() == read_rpm(built).body()
        by_rpm = verifier.check_by_program(rpm, embedded)
        assert by_rpm is not None
        assert by_rpm.good, by_rpm.why
        (other := tmp_path / "other").mkdir()
        unknown = Verifier.of_files([stranger.public], other).check_by_program(rpm, embedded)
        assert unknown is not None
        assert not unknown.good
        flip(rpm, -3)
        by_rpm = verifier.check_by_program(rpm, embedded)
        assert by_rpm is not None
        assert "digest: BAD" in by_rpm.why


def test_what_is_told_does_not_depend_on_the_run(tmp_path: Path) -> None:
    """Python's hashes of texts differ from run to run, and so the order of its sets."""
    path = deliver(tmp_path / "d")
    texts = []
    code = (
        "import sys; from pathlib import Path; from pikaforge.attest.describe import describe; "
        "from pikaforge.attest.provenance import Builder; describe(Path(sys.argv[1]), builder=Builder())"
    )
    for seed in ("1", "2"):
        for companion in (f"{NAME}.sbom.json", f"{NAME}.intoto.json"):
            (path.parent / companion).unlink()
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "build")}
        subprocess.run([sys.executable, "-c", code, str(path)], env=env, check=True, timeout=120)
        texts.append([(path.parent / f"{NAME}{suffix}").read_text() for suffix in (".sbom.json", ".intoto.json")])
    assert texts[0] == texts[1]
    describe(path, builder=Builder())
    assert (path.parent / f"{NAME}.sbom.json").read_text() == texts[0][0]


class TestKeysInTime:
    """Real keys of GnuPG, on a day when they cannot sign, and in places where an agent has no room."""

    @pytest.mark.parametrize(("days", "expires", "message"), [(30, "never", "future"), (-300, "10d", "has expired at")])
    def test_the_reason_is_named(
        self, make_key: Callable[..., Key], tmp_path: Path, days: int, expires: str, message: str
    ) -> None:
        when = datetime.now(timezone.utc) + timedelta(days=days)
        other = make_key("ed25519", "", expires, ("--faked-system-time", f"{when:%Y%m%dT%H%M%S}"))
        with pytest.raises(ConfigError, match=message) as caught, open_signer(other.settings, tmp_path / "s"):
            pass
        assert "clock" in caught.value.hint

    def test_an_ed25519_subkey_signs_for_an_rsa_key(self, make_key: Callable[..., Key], tmp_path: Path) -> None:
        key = make_key("rsa3072", "")
        key.gpg("--quick-add-key", key.fingerprint, "ed25519", "sign", "never")
        key.secret.write_bytes(key.gpg("--armor", "--export-secret-keys"))
        (tmp_path / "X").write_text("x")
        with open_signer(key.settings, tmp_path / "s") as signer:
            assert signer.sign(tmp_path / "X").is_file()
            assert "which signs, is not RSA" in signer.notices[0]

    @pytest.mark.parametrize("length", [10, 61, 80, 150])
    def test_the_folder_of_temporary_files_may_be_far_away(
        self, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
    ) -> None:
        far = Path(tempfile.mkdtemp(prefix="f", dir="/tmp")) / ("x" * length)
        far.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(far))
        (tmp_path / "X").write_text("x")
        with open_signer(key.settings, far / "scratch") as signer:
            assert signer.sign(tmp_path / "X").is_file()
        shutil.rmtree(far.parent)
