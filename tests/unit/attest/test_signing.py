"""Signing and judging signatures, without GnuPG: what is asked of it, what its answers mean, and what never leaves."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import Ending, FakeEngine, members, refusal
from unit.package_files import make_rpm

from pikaforge.attest import signing
from pikaforge.attest.secret_keys import gpg_reason, judge_keys
from pikaforge.attest.signatures import Verifier, dearmored, judge_status
from pikaforge.attest.signing import KEY, PASSPHRASE, PUBLIC, Settings, open_signer, settings
from pikaforge.errors import ConfigError, ForgeError, HostError, StageError
from pikaforge.formats.embedded_signature import Insertion, InsertionError, insert_here, insert_in
from pikaforge.formats.rpm.rpm_file import read_rpm
from pikaforge.formats.rpm.signature import RpmSignature
from pikaforge.host import leftovers, process
from pikaforge.host.workspace import GUEST, Workspace

FINGERPRINT = "30C46C1959F0D5FDF2D6DA07F94B1ADF8C1E50E3"
OTHER = "0123456789ABCDEF0123456789ABCDEF01234567"
CANARY = "CANARY-correct-horse"
VALID = f"[GNUPG:] VALIDSIG {FINGERPRINT} 2026-01-01 1 0 4 0 1 8 00 {FINGERPRINT}\n"
GOOD = f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG F94B1ADF8C1E50E3 Me\n{VALID}"
COLONS = f"sec:u:3072:1:F94B1ADF8C1E50E3:1:::u:::scSC:::+:::23::0:\nfpr:::::::::{FINGERPRINT}:\nuid:u::::1::X::Me:\n"
PUBLIC_KEY = (
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"
    f"{base64.b64encode(b'key').decode()}\n=abcd\n"
    "-----END PGP PUBLIC KEY BLOCK-----\n"
)
SECRET_KEY = b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nCANARY-secret-key\n"


class TestSettings:
    def test_nothing_is_configured(self, tmp_path: Path) -> None:
        assert settings({}, base=tmp_path) == Settings()

    def test_files_are_relative_to_where_the_user_is(self, tmp_path: Path) -> None:
        found = settings({KEY: "key.asc", PASSPHRASE: "/run/pass", PUBLIC: "a.asc:/b.asc"}, base=tmp_path)
        assert found.key == str(tmp_path / "key.asc")
        assert found.passphrase == Path("/run/pass")
        assert found.public == (tmp_path / "a.asc", Path("/b.asc"))

    def test_the_key_itself_may_be_in_the_variable(self, tmp_path: Path) -> None:
        found = settings({KEY: f"{SECRET_KEY.decode()}\n"}, base=tmp_path)
        assert found.text == SECRET_KEY
        assert found.key == f"(in {KEY})"
        assert "CANARY" not in repr(found)

    def test_a_fingerprint_is_no_file(self, tmp_path: Path) -> None:
        spaced = " ".join(FINGERPRINT[i : i + 4] for i in range(0, 40, 4)).lower()
        assert settings({KEY: spaced}, base=tmp_path).key == FINGERPRINT


class TestStatus:
    """GnuPG's status lines."""

    def test_a_good_signature(self) -> None:
        verdict = judge_status(GOOD, keys="release.asc")
        assert verdict.good
        assert verdict.why == f"SHA-256, key {FINGERPRINT}"

    @pytest.mark.parametrize(
        ("status", "why"),
        [
            ("[GNUPG:] BADSIG F94B1ADF8C1E50E3 Me\n", "the file is not what was signed"),
            (
                f"[GNUPG:] ERRSIG {OTHER[-16:]} 1 8 00 1 9 {OTHER}\n[GNUPG:] NO_PUBKEY {OTHER[-16:]}\n",
                f"it is by the key {OTHER}, which is not among release.asc",
            ),
            (
                f"[GNUPG:] ERRSIG {OTHER[-16:]} 22 8 00 1 4\n",
                f"it is by the key {OTHER[-16:]}, which is of an algorithm",
            ),
            (
                f"[GNUPG:] ERRSIG {OTHER[-16:]} 22 8 00 1 6 {OTHER}\n",
                f"it is by the key {OTHER}, which is from the future",
            ),
            (f"[GNUPG:] ERRSIG {OTHER[-16:]} 22 8 00 1 9\n", f"it is by the key {OTHER[-16:]}, which is not among"),
            (f"[GNUPG:] EXPKEYSIG F94B1ADF8C1E50E3 Me\n{VALID}", "the key F94B1ADF8C1E50E3 has expired"),
            (f"[GNUPG:] REVKEYSIG F94B1ADF8C1E50E3 Me\n{VALID}", "the key F94B1ADF8C1E50E3 was revoked"),
            (f"[GNUPG:] EXPSIG F94B1ADF8C1E50E3 Me\n{VALID}", "the signature itself has expired"),
            (GOOD.replace(" 1 8 00 ", " 1 2 00 "), "its digest is weaker than SHA-256"),
            (GOOD + VALID, "there is no OpenPGP signature in it that can be read"),
            (GOOD + "[GNUPG:] BADSIG F94B1ADF8C1E50E3 Me\n", "the file is not what was signed"),
            ("[GNUPG:] GOODSIG F94B1ADF8C1E50E3 Me\n", "there is no OpenPGP signature"),
            ("[GNUPG:] NODATA 4\n", "there is no OpenPGP signature"),
            ("", "there is no OpenPGP signature"),
        ],
    )
    def test_any_other(self, status: str, why: str) -> None:
        verdict = judge_status(status, keys="release.asc")
        assert not verdict.good
        assert why in verdict.why

    def test_a_name_cannot_feign_a_status(self) -> None:
        """A user id may hold anything, but gpgv escapes line ends; a line of another program counts for nothing."""
        assert not judge_status(f"GOODSIG X\nVALIDSIG {FINGERPRINT}\n", keys="k").good


class TestKeys:
    def test_the_text_form_is_read(self) -> None:
        assert dearmored(PUBLIC_KEY, where="k") == b"key"
        with_headers = PUBLIC_KEY.replace("BLOCK-----\n\n", "BLOCK-----\nComment: mine\n\n", 1)
        assert dearmored(with_headers.replace("\n", "\r\n") + PUBLIC_KEY, where="k") == b"keykey"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "there is no public key in it"),
            ("\x99\x01binary", "there is no public key in it"),
            (SECRET_KEY.decode(), "this is a secret key"),
            (PUBLIC_KEY.replace("a2V5", "a2V"), "the key is damaged"),
        ],
    )
    def test_what_is_no_key_is_told(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            dearmored(text, where="keys/release.asc")
        assert message in caught.value.message
        assert caught.value.where == "keys/release.asc"

    def test_the_one_secret_key(self) -> None:
        assert judge_keys(COLONS, where="key.asc") == (FINGERPRINT, ())

    def test_a_key_that_el7_does_not_know(self) -> None:
        _, notices = judge_keys(COLONS.replace("3072:1:", "255:22:"), where="key.asc")
        assert "EL7" in notices[0]

    @pytest.mark.parametrize(
        ("text", "message"), [("", "there is no secret key"), (COLONS * 2, "there are 2 secret keys")]
    )
    def test_not_one_secret_key(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            judge_keys(text, where="key.asc")
        assert message in caught.value.message
        assert "key.asc" in caught.value.where


class Gnupg:
    """GnuPG as far as it is asked; takes down arguments, environments and what came through the pipe."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], dict[str, str], bytes | None]] = []
        self.version = "gpg (GnuPG) 2.2.40"
        self.colons = COLONS
        self.exported = PUBLIC_KEY
        self.status = GOOD
        self.refuses: dict[str, str] = {}
        """What an option makes it fail with."""
        self.homes: set[Path] = set()
        self.modes: set[int] = set()

    def find(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in ("gpg", "gpgv") else None

    def run(self, argv: Sequence[str], **more: Any) -> process.Completed:
        self.calls.append((list(argv), dict(more.get("env") or {}), more.get("stdin")))
        if "--homedir" in argv and "gpgv" not in argv[0]:
            home = Path(argv[argv.index("--homedir") + 1])
            self.homes.add(home)
            self.modes.add(home.stat().st_mode & 0o777)
        for option, error in self.refuses.items():
            if option in argv:
                return process.Completed(argv=tuple(argv), status=2, stdout=b"", stderr=error.encode())
        answer = self.answer(argv, dict(more.get("env") or {}))
        return process.Completed(argv=tuple(argv), status=0, stdout=answer.encode(), stderr=b"")

    def answer(self, argv: Sequence[str], env: dict[str, str]) -> str:
        if "--detach-sign" in argv:
            Path(argv[argv.index("--output") + 1]).write_text("SIGNATURE")
        answers = {
            "--version": self.version,
            "--list-secret-keys": self.colons,
            "--export": self.exported,
            "--status-fd": self.status,
            "--list-dirs": f"{env.get('GNUPGHOME', '/nowhere')}/S.gpg-agent",
        }
        return next((text for option, text in answers.items() if option in argv), "")

    def asked(self, option: str) -> list[tuple[list[str], dict[str, str], bytes | None]]:
        return [call for call in self.calls if option in call[0]]


@pytest.fixture
def gnupg(monkeypatch: pytest.MonkeyPatch) -> Gnupg:
    gnupg = Gnupg()
    monkeypatch.setattr(process, "find", gnupg.find)
    monkeypatch.setattr(process, "run", gnupg.run)
    return gnupg


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    """A key file and its passphrase."""
    (tmp_path / "key.asc").write_bytes(SECRET_KEY)
    (tmp_path / "pass").write_text(f"{CANARY}\n")
    return Settings(key=str(tmp_path / "key.asc"), passphrase=tmp_path / "pass")


class TestSigner:
    def test_a_file_is_signed(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        (tmp_path / "X").write_text("x")
        with open_signer(place, tmp_path / "s") as signer:
            assert signer.fingerprint == FINGERPRINT
            assert signer.sign(tmp_path / "X") == tmp_path / "X.asc"
            assert signer.made == [tmp_path / "X"]
        assert (tmp_path / "X.asc").read_text() == "SIGNATURE"
        ((argv, _, stdin),) = gnupg.asked("--detach-sign")
        assert stdin == CANARY.encode()
        assert argv[argv.index("--digest-algo") + 1] == "SHA256"
        assert {"--armor", "--batch"} <= set(argv)
        assert argv[argv.index("--passphrase-fd") + 1] == "0"
        assert argv[argv.index("--pinentry-mode") + 1] == "loopback"

    def test_a_key_in_a_variable_is_imported_through_a_pipe(self, gnupg: Gnupg, tmp_path: Path) -> None:
        with open_signer(settings({KEY: SECRET_KEY.decode()}, base=tmp_path), tmp_path / "s") as signer:
            assert "CANARY" not in repr(signer)
        ((argv, env, stdin),) = gnupg.asked("--import")
        assert stdin == SECRET_KEY
        assert "CANARY" not in repr((argv, env))

    def test_the_secrets_are_in_no_argument_and_no_environment(
        self, gnupg: Gnupg, place: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "X").write_text("x")
        with open_signer(place, tmp_path / "s") as signer:
            signer.sign(tmp_path / "X")
            assert "CANARY" not in repr(signer)
        assert "CANARY" not in repr([(argv, env) for argv, env, _ in gnupg.calls])

    def test_the_keyring_is_private_and_thrown_away(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        with open_signer(place, tmp_path / "s"):
            (home,) = gnupg.homes
            assert home.parent == tmp_path / "s" or len(str(tmp_path)) > 60
        assert gnupg.modes == {0o700}
        assert not home.exists()
        ((argv, env, _),) = gnupg.asked("--kill")
        assert argv == ["gpgconf", "--kill", "all"]
        assert env["GNUPGHOME"] == str(home)

    def test_a_long_path_has_no_room_for_sockets(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        with open_signer(place, tmp_path / ("long" * 30)):
            (home,) = gnupg.homes
            assert len(str(home)) <= signing.HOME_LENGTH
        assert not home.exists()

    def test_after_an_error_nothing_is_left(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        gnupg.refuses["--import"] = "gpg: no valid OpenPGP data found."
        with pytest.raises(ConfigError) as caught, open_signer(place, tmp_path / "s"):
            pass
        message, where, hint = refusal(caught)
        assert message == "the key cannot be imported: gpg: no valid OpenPGP data found."
        assert where == f"{KEY}: {place.key}"
        assert "--export-secret-keys" in hint
        assert not any(home.exists() for home in gnupg.homes)
        assert gnupg.asked("--kill")

    def test_a_wrong_passphrase(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        (tmp_path / "X").write_text("x")
        gnupg.refuses["--detach-sign"] = "gpg: signing failed: Bad passphrase"
        with open_signer(place, tmp_path / "s") as signer, pytest.raises(ConfigError) as caught:
            signer.sign(tmp_path / "X")
        assert refusal(caught)[:2] == ("the signing key cannot be used: Bad passphrase", PASSPHRASE)
        assert not (tmp_path / "X.asc").exists()

    def test_a_good_signature_stays(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        (tmp_path / "X").write_text("x")
        (tmp_path / "X.asc").write_text("before")
        with open_signer(place, tmp_path / "s") as signer:
            signer.sign(tmp_path / "X")
        assert (tmp_path / "X.asc").read_text() == "before"
        assert not gnupg.asked("--detach-sign")

    def test_a_bad_signature_is_replaced(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        (tmp_path / "X").write_text("x")
        (tmp_path / "X.asc").write_text("before")
        gnupg.status = "[GNUPG:] BADSIG F94B1ADF8C1E50E3 Me\n"
        with open_signer(place, tmp_path / "s") as signer:
            signer.sign(tmp_path / "X")
        assert (tmp_path / "X.asc").read_text() == "SIGNATURE"

    def test_a_key_of_the_agent(self, gnupg: Gnupg, tmp_path: Path) -> None:
        (tmp_path / "X").write_text("x")
        with open_signer(Settings(key=FINGERPRINT), tmp_path / "s") as signer:
            signer.sign(tmp_path / "X")
            (home,) = gnupg.homes
            assert (home / "S.gpg-agent").read_text().startswith("%Assuan%\nsocket=/")
        ((argv, _, stdin),) = gnupg.asked("--detach-sign")
        assert "--passphrase-fd" not in argv, "the agent asks its user"
        assert stdin is None
        assert not gnupg.asked("--kill"), "the user's agent is left alone"

    def test_a_key_that_the_keyring_lacks(self, gnupg: Gnupg, tmp_path: Path) -> None:
        gnupg.exported = ""
        with pytest.raises(ConfigError) as caught, open_signer(Settings(key=FINGERPRINT), tmp_path / "s"):
            pass
        assert caught.value.message == f"your keyring has no key {FINGERPRINT}"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"key": ""}, "there is no key to sign with"),
            ({"key": "/nowhere/key.asc"}, "cannot read /nowhere/key.asc: No such file or directory"),
            ({"passphrase": Path("/nowhere/pass")}, "cannot read /nowhere/pass: No such file or directory"),
        ],
    )
    def test_what_is_not_there(
        self, gnupg: Gnupg, place: Settings, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        where = Settings(**{"key": place.key, "passphrase": place.passphrase, **changes})
        with pytest.raises(ConfigError) as caught, open_signer(where, tmp_path / "s"):
            pass
        assert caught.value.message == message
        assert caught.value.where in (KEY, PASSPHRASE)

    def test_gnupg_is_too_old(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        gnupg.version = "gpg (GnuPG) 2.0.22"
        with pytest.raises(HostError) as caught, open_signer(place, tmp_path / "s"):
            pass
        assert "GnuPG 2.0" not in caught.value.hint
        assert "2.1 or newer" in caught.value.message

    def test_gnupg_is_missing(self, gnupg: Gnupg, place: Settings, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(process, "find", lambda _: None)
        with pytest.raises(HostError) as caught, open_signer(place, tmp_path / "s"):
            pass
        assert "gnupg2 (EL)" in caught.value.hint


class TestSignInside:
    @pytest.fixture
    def rpm(self, tmp_path: Path) -> Path:
        path = tmp_path / "t.rpm"
        path.write_bytes(make_rpm())
        return path

    @staticmethod
    def insert(job: Insertion) -> bytes:
        assert job.inputs["header"] == read_rpm(job.path).header.raw
        assert job.inputs["key"] == f"{FINGERPRINT}\n".encode()
        signature = job.inputs["signature"]
        assert isinstance(signature, bytes)
        return make_rpm(signature=signature)

    def test_the_header_is_signed(self, gnupg: Gnupg, place: Settings, tmp_path: Path, rpm: Path) -> None:
        with open_signer(place, tmp_path / "s") as signer:
            assert signer.sign_inside(rpm, self.insert)
            assert not signer.sign_inside(rpm, self.insert), "it is signed already"
        assert read_rpm(rpm).signature == b"SIGNATURE"
        ((argv, _, stdin),) = gnupg.asked("--detach-sign")
        assert "--no-armor" in argv
        assert stdin == CANARY.encode()

    @pytest.mark.parametrize(
        "content", [make_rpm(payload=b"other", signature=b"SIGNATURE"), make_rpm()], ids=["another body", "unsigned"]
    )
    def test_what_rpm_must_not_do(
        self, gnupg: Gnupg, place: Settings, tmp_path: Path, rpm: Path, content: bytes
    ) -> None:
        before = rpm.read_bytes()
        with open_signer(place, tmp_path / "s") as signer, pytest.raises(ForgeError) as caught:
            signer.sign_inside(rpm, lambda *_: content)
        assert "rpmsign has not put the signature into the file" in caught.value.message
        assert "rpm 4.14 or newer" in caught.value.hint
        assert rpm.read_bytes() == before

    @pytest.mark.usefixtures("gnupg")
    def test_in_the_tools_image(
        self, place: Settings, tmp_path: Path, rpm: Path, workspace: Workspace, fake: FakeEngine
    ) -> None:
        (workspace.home / GUEST / "rpmsign.sh").write_text("#\n")
        fake.endings["sign-R620"] = Ending(outputs={"out/package.rpm": make_rpm(signature=b"SIGNATURE")})
        (tmp_path / "into").mkdir()
        insert = insert_in(workspace, tools="tools:1", label="R620-el9-none", folder=tmp_path / "into")
        with open_signer(place, tmp_path / "s") as signer:
            assert signer.sign_inside(rpm, insert)
        (job,) = fake.jobs
        assert (job.image, job.argv, job.network) == ("tools:1", ("sh", "guest/run.sh", "rpmsign"), "none")
        given = {name: content for item in job.inputs for name, (_, content) in members(item).items()}
        assert set(given) == {
            "guest/lib.sh", "guest/run.sh", "guest/rpmsign.sh",
            "sign/package.rpm", "sign/header", "sign/signature", "sign/key",
        }  # fmt: skip
        assert given["sign/signature"] == b"SIGNATURE"
        assert not [name for name, content in given.items() if b"CANARY" in content], "no secret goes there"

    @pytest.mark.usefixtures("gnupg")
    def test_rpm_fails_in_the_tools_image(
        self, place: Settings, tmp_path: Path, rpm: Path, workspace: Workspace, fake: FakeEngine
    ) -> None:
        (workspace.home / GUEST / "rpmsign.sh").write_text("#\n")
        fake.endings["sign-R620"] = Ending(status=66, log="forge: reason: rpmsign is not installed: add the package\n")
        insert = insert_in(workspace, tools="tools:1", label="R620-el9-none", folder=tmp_path)
        before = rpm.read_bytes()
        with open_signer(place, tmp_path / "s") as signer, pytest.raises(StageError) as caught:
            signer.sign_inside(rpm, insert)
        assert caught.value.message == "t.rpm could not be signed"
        assert caught.value.failure.findings == ("rpmsign is not installed: add the package",)
        assert rpm.read_bytes() == before

    def test_a_format_without_signatures_inside(self, gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
        (tmp_path / "t.tar.gz").write_text("packed")
        with open_signer(place, tmp_path / "s") as signer:
            assert not signer.sign_inside(tmp_path / "t.tar.gz", lambda _: b"")
        assert not gnupg.asked("--detach-sign")

    @pytest.mark.parametrize(
        ("stderr", "said"),
        [
            (
                b"forge: reason: rpm wants something else signed\nerror: signing failed\n\n",
                "rpm wants something else signed",
            ),
            (b"warning: x\nerror: signing failed\n\n", "error: signing failed"),
            (b"", "it says nothing"),
        ],
    )
    def test_why_rpmsign_fails(
        self, tmp_path: Path, rpm: Path, monkeypatch: pytest.MonkeyPatch, stderr: bytes, said: str
    ) -> None:
        def run(argv: process.Argv, **_: object) -> process.Completed:
            return process.Completed(argv=tuple(argv), status=1, stdout=b"", stderr=stderr)

        monkeypatch.setattr(process, "find", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(process, "run", run)
        embedded = RpmSignature()
        job = embedded.insertion(rpm, embedded.signed_part(rpm), b"signature", FINGERPRINT)
        with pytest.raises(InsertionError, match=f"^rpm does not take the signature: {said}$"):
            insert_here(tmp_path, tmp_path)(job)

    def test_no_rpmsign_here(
        self, gnupg: Gnupg, place: Settings, tmp_path: Path, rpm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_signer(place, tmp_path / "s") as signer:
            monkeypatch.setattr(process, "find", lambda _: None)
            with pytest.raises(HostError) as caught:
                signer.sign_inside(rpm, insert_here(tmp_path, tmp_path))
        assert "rpm-sign" in caught.value.hint


class TestVerifier:
    def test_only_the_keys_that_were_named(self, gnupg: Gnupg, tmp_path: Path) -> None:
        (tmp_path / "k.asc").write_text(PUBLIC_KEY)
        folder = tmp_path / "v"
        folder.mkdir()
        verifier = Verifier.of_files([tmp_path / "k.asc"], folder)
        assert verifier.check(tmp_path / "X", tmp_path / "X.asc").good
        ((argv, _, _),) = gnupg.calls
        ring = Path(argv[argv.index("--keyring") + 1])
        assert ring.read_bytes() == b"key"
        assert argv[-3:] == ["--", str(tmp_path / "X.asc"), str(tmp_path / "X")]

    def test_a_key_file_that_is_not_there(self, gnupg: Gnupg, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            Verifier.of_files([tmp_path / "k.asc"], tmp_path)
        assert caught.value.where == str(tmp_path / "k.asc")

    def test_an_rpm_that_is_not_signed(self, gnupg: Gnupg, tmp_path: Path) -> None:
        (tmp_path / "t.rpm").write_bytes(make_rpm())
        verdict = Verifier({"k": PUBLIC_KEY}, tmp_path).check_embedded(tmp_path / "t.rpm", RpmSignature())
        assert (verdict.good, verdict.missing, verdict.why) == (False, True, "the RPM's header is not signed")
        assert not gnupg.calls

    def test_no_rpm_on_this_machine(self, gnupg: Gnupg, tmp_path: Path) -> None:
        assert Verifier({"k": PUBLIC_KEY}, tmp_path).check_by_program(tmp_path / "t.rpm", RpmSignature()) is None

    def test_gpgv_fails_with_good_words(self, gnupg: Gnupg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(argv: Sequence[str], **_: Any) -> process.Completed:
            return process.Completed(argv=tuple(argv), status=2, stdout=GOOD.encode(), stderr=b"")

        monkeypatch.setattr(process, "run", run)
        assert not Verifier({"k": PUBLIC_KEY}, tmp_path).check(tmp_path / "X", tmp_path / "X.asc").good


def test_nothing_is_left_below_scratch(gnupg: Gnupg, place: Settings, tmp_path: Path) -> None:
    scratch = tmp_path / "s"
    with open_signer(place, scratch):
        pass
    assert list(scratch.iterdir()) == []
    shutil.rmtree(scratch)


NOW = 1_800_000_000.0
PRIMARY = "sec:{validity}:3072:{algorithm}:F94B1ADF8C1E50E3:{created}:{expires}::u:::{capable}:::{here}:::23::0:\n"
SUBKEY = "ssb:{validity}:255:{algorithm}:9ED56E0DCB056645:{created}:{expires}:::::{capable}:::{here}:::23:\n"


def listed(row: str, **changes: object) -> str:
    """A row of gpg's list of secret keys."""
    plain = {"validity": "u", "algorithm": 1, "created": 1, "expires": "", "capable": "sc", "here": "+"}
    return row.format(**(plain | changes))


def keys_of(*rows: str) -> str:
    first, *others = rows
    return "".join([first, f"fpr:::::::::{FINGERPRINT}:\n", *others])


class TestTheKeyThatSigns:
    def test_control_an_rsa_key_with_an_encryption_subkey(self) -> None:
        keys = keys_of(listed(PRIMARY), listed(SUBKEY, algorithm=18, capable="e"))
        assert judge_keys(keys, where="k", now=NOW) == (FINGERPRINT, ())

    def test_an_ed25519_subkey_of_an_rsa_key(self) -> None:
        _, notices = judge_keys(keys_of(listed(PRIMARY), listed(SUBKEY, algorithm=22)), where="k", now=NOW)
        assert "the subkey 9ED56E0DCB056645, which signs, is not RSA" in notices[0]
        assert "EL7" in notices[0]

    @pytest.mark.parametrize(
        "other", [{"created": 1_900_000_000}, {"expires": 5, "validity": "e"}, {"validity": "r"}, {"here": "#"}]
    )
    def test_a_subkey_that_cannot_sign_is_not_it(self, other: dict[str, object]) -> None:
        rows = keys_of(listed(PRIMARY), listed(SUBKEY, algorithm=22, **other))
        assert judge_keys(rows, where="k", now=NOW) == (FINGERPRINT, ())

    def test_the_newest_subkey_signs(self) -> None:
        old, new = listed(SUBKEY, algorithm=22, created=1), listed(SUBKEY, algorithm=1, created=2)
        assert judge_keys(keys_of(listed(PRIMARY), new, old), where="k", now=NOW)[1] == ()
        assert judge_keys(keys_of(listed(PRIMARY), old, new.replace(":2:", ":0:")), where="k", now=NOW)[1]

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ((listed(PRIMARY, validity="e", expires=1_700_000_000),), "the signing key has expired at 2023-11-14"),
            ((listed(PRIMARY, expires=1_700_000_000),), "the signing key has expired"),
            ((listed(PRIMARY, created=1_900_000_000),), "the signing key is from the future: it was made at 2030-"),
            ((listed(PRIMARY, validity="r"),), "the signing key was revoked"),
            ((listed(PRIMARY, capable="c"), listed(SUBKEY, expires=5)), "subkey 9ED56E0DCB056645 has expired"),
            ((listed(PRIMARY, here="#"), listed(SUBKEY, created=1_900_000_000)), "subkey 9ED56E0DCB056645 is from"),
            ((listed(PRIMARY, capable="c"), listed(SUBKEY, capable="e")), "the key cannot sign"),
        ],
    )  # fmt: skip
    def test_a_key_that_cannot_sign_is_named_so(self, rows: tuple[str, ...], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            judge_keys(keys_of(*rows), where="key.asc", now=NOW)
        assert message in caught.value.message
        assert caught.value.where == "key.asc"


class TestReasons:
    def test_the_reason_is_said_and_not_the_step(self) -> None:
        said = (
            "gpg: keybox '/tmp/x/pubring.kbx' created\ngpg: can't connect to the agent: IPC connect call failed\n"
            "gpg: key 175B6E00D59847E9: error sending to agent: No agent running\ngpg: Total number processed: 0\n"
            "gpg:       secret keys read: 1\n"
        )
        assert gpg_reason(said) == (
            "gpg: can't connect to the agent: IPC connect call failed; "
            "gpg: key 175B6E00D59847E9: error sending to agent: No agent running"
        )

    def test_control_one_line(self) -> None:
        assert gpg_reason("gpg: signing failed: No secret key\n") == "gpg: signing failed: No secret key"
        assert gpg_reason("") == "it says nothing"

    def test_a_keyring_needs_a_short_path(
        self, gnupg: Gnupg, place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = tmp_path / ("long" * 20)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        monkeypatch.delenv(leftovers.RUNTIME, raising=False)
        with open_signer(place, long):
            (home,) = gnupg.homes
            assert len(str(home)) <= signing.HOME_LENGTH
        assert not home.exists()
        monkeypatch.setattr(leftovers, "SHORT", ())
        with pytest.raises(HostError) as caught, open_signer(place, long):
            pass
        assert "TMPDIR" in caught.value.hint
