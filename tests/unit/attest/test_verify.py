"""Verification without programs: every way in which a folder can be other than it was built, and the line for it."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit import elf_files as ef
from unit.artifacts import (
    NAME,
    PROGRAMS,
    TREE,
    claimed,
    deliver,
    flip,
    listed,
    make_manifest,
    manifest_bytes,
    pack,
    tar_bytes,
    write_sums,
)
from unit.package_files import make_rpm

from pikaforge.attest.check_result import CheckResult
from pikaforge.attest.claims import distribution
from pikaforge.attest.contents import ContentEntry, PackageContents, contents_of, differences, read_package
from pikaforge.attest.describe import describe
from pikaforge.attest.provenance import Builder
from pikaforge.attest.verify import (
    VerifyContext,
    VerifyResult,
    artifact_of,
    read_sums,
    verify_file,
    verify_folder,
)
from pikaforge.audit.distribution import PackagedRecord
from pikaforge.errors import AuditError
from pikaforge.formats.embedded_signature import EmbeddedSignature, SignatureVerdict
from pikaforge.formats.manifest import Manifest, ManifestFile
from pikaforge.host.store import sha256

OTHER = "demo-v1.0-R720.tar.gz"


class Signatures:
    """A signature is the file's digest; of an RPM, the word `good`."""

    def __init__(self) -> None:
        self.by_program: SignatureVerdict | None = None

    def check(self, data: Path, signature: Path) -> SignatureVerdict:
        good = signature.read_text() == sha256(data)
        return SignatureVerdict(good=good, why="key ABC" if good else "the file is not what was signed")

    def check_embedded(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict:
        signature = embedded.signed_part(path).signature
        good = signature == b"good"
        return SignatureVerdict(good=good, why="key ABC" if good else embedded.unsigned, missing=not signature)

    def check_by_program(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict | None:
        return self.by_program


class Auditor:
    """Finds what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.finds: list[str] = []

    def __call__(self, path: Path, manifest: Manifest, package: PackageContents) -> Sequence[str]:
        self.asked.append((path.name, manifest.target))
        return self.finds


@pytest.fixture
def auditor() -> Auditor:
    return Auditor()


@pytest.fixture
def means(auditor: Auditor) -> VerifyContext:
    return VerifyContext(audit=auditor, signatures=Signatures())


def sign(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if artifact_of(path.name) == path.name:
            path.with_name(f"{path.name}.asc").write_text(sha256(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two artifacts, as a build leaves it."""
    folder = tmp_path / "debian12"
    deliver(folder)
    deliver(folder, OTHER, cell="R720-debian12-none", model="R720")
    sign(folder)
    return folder


def refusals(outcome: VerifyResult) -> list[tuple[str, str]]:
    assert not outcome.passed
    assert outcome.lines()[-1].startswith(f"{outcome.title}: REFUSED: ")
    return [(check.file, f"{check.what}: {check.why}") for check in outcome.refusals]


def rewrite(path: Path, edit: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


class TestGood:
    def test_a_folder(self, folder: Path, means: VerifyContext, auditor: Auditor) -> None:
        outcome = verify_folder(folder, means, title="dist/debian12")
        assert outcome.passed
        said = [(check.file, check.what) for check in outcome.checks if check.verdict == "yes"]
        for name in (NAME, OTHER):
            assert [what for file, what in said if file == name] == [
                "digest in SHA256SUMS",
                "signature",
                "manifest.json agrees with provenance",
                "contents agree with manifest.json",
                "audit for sandybridge",
            ]
            assert (f"{name}.intoto.json", "provenance is of the artifact") in said
            assert (f"{name}.sbom.json", "SBOM is of the artifact") in said
        assert ("SHA256SUMS", "signature") in said
        assert outcome.lines()[-1] == "dist/debian12: verified: all 19 checks say yes"

    def test_the_same_programs_are_audited_once(self, folder: Path, means: VerifyContext, auditor: Auditor) -> None:
        outcome = verify_folder(folder, means)
        assert auditor.asked == [(NAME, "sandybridge")]
        assert any(check.why == f"the same programs as in {NAME}" for check in outcome.checks)

    def test_other_programs_are_audited_too(self, tmp_path: Path, means: VerifyContext, auditor: Auditor) -> None:
        deliver(tmp_path)
        deliver(tmp_path, OTHER, tree={"bin/demo": ef.make(ef.Elf(text=ef.NOP + ef.RET))})
        verify_folder(tmp_path, replace(means, unsigned=True))
        assert len(auditor.asked) == 2

    def test_the_same_programs_with_other_claims_are_audited_too(self, tmp_path: Path, means: VerifyContext) -> None:
        """What a manifest says of the distribution's libraries decides what the audit accepts."""
        auditor = means.audit
        assert isinstance(auditor, Auditor)
        library = {"soname": "a", "path": "lib/a", "package": "a", "version": "1", "sha256": "1" * 64, "code": "2" * 64}
        deliver(tmp_path)
        deliver(tmp_path, OTHER, bundled_libraries=[library])
        verify_folder(tmp_path, replace(means, unsigned=True))
        assert len(auditor.asked) == 2

    @pytest.mark.parametrize("name", ["demo.deb", "demo.whl", "demo.tar.gz"])
    def test_every_format(self, tmp_path: Path, means: VerifyContext, name: str) -> None:
        deliver(tmp_path, name)
        sign(tmp_path)
        assert verify_folder(tmp_path, means).passed

    @pytest.mark.parametrize("given", [NAME, f"{NAME}.asc", f"{NAME}.sbom.json", f"{NAME}.intoto.json"])
    def test_a_file_with_what_lies_beside_it(self, folder: Path, means: VerifyContext, given: str) -> None:
        flip(folder / OTHER)
        outcome = verify_file(folder / given, means)
        assert outcome.passed, "another artifact is nothing to it"
        assert {check.file for check in outcome.checks} == {
            NAME, "SHA256SUMS", f"{NAME}.sbom.json", f"{NAME}.intoto.json",
        }  # fmt: skip

    def test_a_file_without_sums(self, folder: Path, means: VerifyContext) -> None:
        (folder / "SHA256SUMS").unlink()
        outcome = verify_file(folder / NAME, means)
        assert outcome.passed
        assert [check.file for check in outcome.checks if check.verdict == "not checked"] == ["SHA256SUMS"]
        assert outcome.lines()[-1].endswith("say yes, 1 not checked")

    def test_hidden_files_are_no_part_of_it(self, folder: Path, means: VerifyContext) -> None:
        (folder / ".lock").touch()
        assert verify_folder(folder, means).passed


class TestAltered:
    @pytest.mark.parametrize("what", [NAME, f"{NAME}.sbom.json", f"{NAME}.intoto.json"])
    def test_one_byte(self, folder: Path, means: VerifyContext, what: str) -> None:
        flip(folder / what)
        outcome = verify_folder(folder, means)
        assert {check.file for check in outcome.refusals} <= {NAME, f"{NAME}.sbom.json", f"{NAME}.intoto.json"}
        assert any(file == what and "it has SHA-256" in why for file, why in refusals(outcome))
        assert what in outcome.lines()[-1]

    def test_one_byte_with_new_sums(self, folder: Path, means: VerifyContext) -> None:
        flip(folder / NAME, -3)
        write_sums(folder)
        found = refusals(verify_folder(folder, means))
        assert ("SHA256SUMS", "signature: the file is not what was signed") in found
        assert (NAME, "signature: the file is not what was signed") in found
        assert any(
            f == f"{NAME}.intoto.json" and "provenance is of the artifact: it is of a file with" in w for f, w in found
        )
        assert any(f == f"{NAME}.sbom.json" and "SBOM is of the artifact: it is of a file with" in w for f, w in found)

    def test_the_sums_themselves(self, folder: Path, means: VerifyContext) -> None:
        flip(folder / "SHA256SUMS", 3)
        found = refusals(verify_folder(folder, means))
        assert ("SHA256SUMS", "signature: the file is not what was signed") in found

    def test_a_signature(self, folder: Path, means: VerifyContext) -> None:
        flip(folder / f"{NAME}.asc")
        assert refusals(verify_folder(folder, means)) == [(NAME, "signature: the file is not what was signed")]


class TestMissing:
    def test_no_sums(self, folder: Path, means: VerifyContext) -> None:
        (folder / "SHA256SUMS").unlink()
        found = refusals(verify_folder(folder, means))
        assert ("SHA256SUMS", "digests: there is no SHA256SUMS") in found

    @pytest.mark.parametrize("name", [NAME, "SHA256SUMS"])
    def test_no_signature(self, folder: Path, means: VerifyContext, name: str) -> None:
        (folder / f"{name}.asc").unlink()
        assert refusals(verify_folder(folder, means)) == [
            (name, f"signature: it is not signed: there is no {name}.asc")
        ]

    def test_a_listed_file(self, folder: Path, means: VerifyContext) -> None:
        (folder / f"{NAME}.sbom.json").unlink()
        assert refusals(verify_folder(folder, means)) == [
            (f"{NAME}.sbom.json", "digest in SHA256SUMS: the file cannot be read: No such file or directory"),
            (f"{NAME}.sbom.json", f"SBOM is of the artifact: there is no {NAME}.sbom.json"),
        ]

    def test_a_provenance(self, folder: Path, means: VerifyContext) -> None:
        (folder / f"{NAME}.intoto.json").unlink()
        found = refusals(verify_folder(folder, means))
        assert (f"{NAME}.intoto.json", f"provenance is of the artifact: there is no {NAME}.intoto.json") in found
        assert (NAME, "manifest.json agrees with provenance: there is none of it") in found

    def test_the_artifact(self, folder: Path, means: VerifyContext) -> None:
        (folder / NAME).unlink()
        found = refusals(verify_folder(folder, means))
        assert (NAME, "digest in SHA256SUMS: the file cannot be read: No such file or directory") in found
        assert (f"{NAME}.sbom.json", f"belongs here: there is no {NAME}") in found
        assert (f"{NAME}.asc", f"belongs here: there is no {NAME}") in found

    def test_everything(self, tmp_path: Path, means: VerifyContext) -> None:
        assert ("SHA256SUMS", "digests: there is no SHA256SUMS") in refusals(verify_folder(tmp_path, means))


class TestUnlisted:
    def test_a_file(self, folder: Path, means: VerifyContext) -> None:
        (folder / "extra.sh").write_text("#!/bin/sh\n")
        found = refusals(verify_folder(folder, means))
        assert ("extra.sh", "digest in SHA256SUMS: it is not listed") in found

    @pytest.mark.parametrize("kind", ["a folder", "a link"])
    def test_what_is_no_file(self, folder: Path, means: VerifyContext, kind: str) -> None:
        if kind == "a folder":
            (folder / "extra").mkdir()
        else:
            (folder / "extra").symlink_to(NAME)
        assert refusals(verify_folder(folder, means)) == [
            ("extra", f"belongs here: it is {kind}, which nothing proves")
        ]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("what\n", "line 1 is no digest and name"),
            (f"{'a' * 64}  ../up\n", "line 1 names ../up, which is no file of this folder"),
            (f"{'a' * 64}  .hidden\n", "line 1 names .hidden, which is no file of this folder"),
            (f"{'a' * 64}  x\n{'b' * 64}  x\n", "line 2 names x again"),
            ("", "it is empty"),
        ],
    )
    def test_lines_that_list_nothing(self, folder: Path, means: VerifyContext, text: str, problem: str) -> None:
        (folder / "SHA256SUMS").write_text(text)
        assert ("SHA256SUMS", f"digests: {problem}") in refusals(verify_folder(folder, means))


class TestUnsigned:
    @pytest.fixture
    def bare(self, folder: Path) -> Path:
        for path in folder.glob("*.asc"):
            path.unlink()
        return folder

    def test_it_is_accepted_and_said(self, bare: Path, means: VerifyContext) -> None:
        outcome = verify_folder(bare, replace(means, unsigned=True, signatures=None))
        assert outcome.passed
        left = [(c.file, c.why) for c in outcome.checks if c.verdict == "not checked"]
        assert left == [(n, "it is not signed, which --unsigned accepts") for n in ("SHA256SUMS", NAME, OTHER)]

    def test_a_signature_that_is_there_must_be_good(self, folder: Path, means: VerifyContext) -> None:
        flip(folder / f"{NAME}.asc")
        outcome = verify_folder(folder, replace(means, unsigned=True))
        assert refusals(outcome) == [(NAME, "signature: the file is not what was signed")]

    def test_without_a_key_signatures_are_not_checked(self, folder: Path, means: VerifyContext) -> None:
        outcome = verify_folder(folder, replace(means, unsigned=True, signatures=None))
        left = [c.why for c in outcome.checks if c.verdict == "not checked"]
        assert left == ["no key was given (--key FILE)"] * 3

    def test_one_flipped_byte_is_refused_still(self, bare: Path, means: VerifyContext) -> None:
        flip(bare / NAME)
        assert NAME in verify_folder(bare, replace(means, unsigned=True, signatures=None)).lines()[-1]


class TestSwapped:
    """Files that are good, but of something else; signed and listed anew, as by somebody who has the key."""

    @staticmethod
    def seal(folder: Path) -> None:
        write_sums(folder)
        sign(folder)

    @pytest.mark.parametrize("suffix", [".sbom.json", ".intoto.json"])
    def test_what_describes_another_artifact(self, folder: Path, means: VerifyContext, suffix: str) -> None:
        shutil.copy(folder / (OTHER + suffix), folder / (NAME + suffix))
        self.seal(folder)
        ((file, why), *_) = refusals(verify_folder(folder, means))
        assert file == NAME + suffix
        assert "it is of" in why

    def test_an_sbom_that_the_provenance_does_not_name(self, folder: Path, means: VerifyContext) -> None:
        rewrite(folder / f"{NAME}.sbom.json", lambda bill: bill["components"].pop())
        self.seal(folder)
        assert refusals(verify_folder(folder, means)) == [
            (f"{NAME}.sbom.json", "SBOM is of the artifact: it is not the one that the provenance names")
        ]

    @pytest.mark.parametrize(
        ("changes", "wrong"),
        [
            ({"cell": "R640-debian12-none"}, "the cell is R640-debian12-none in the manifest, R620-debian12-none in"),
            ({"target": "haswell"}, "the target is haswell in the manifest, sandybridge in the provenance"),
            ({"source__commit": "0" * 40}, f"the commit is {'0' * 40} in the manifest, {'c' * 40} in the provenance"),
            ({"source__patches": []}, "the patch series is empty in the manifest, pull-9, local in the provenance"),
            (
                {
                    "source__patches": [
                        {"name": n, "sha256": "0" * 64, "url": "", "why": ""} for n in ("pull-9", "local")
                    ]
                },
                "patches have other digests in the manifest than in the provenance",
            ),
            (
                {
                    "source__patches": [
                        {"name": name, "sha256": digit * 64, "url": "", "why": "", "state": "present"}
                        for name, digit in (("pull-9", "9"), ("local", "1"))
                    ]
                },
                "patches have other states in the manifest than in the provenance",
            ),
        ],
    )
    def test_another_manifest(self, folder: Path, means: VerifyContext, changes: dict[str, Any], wrong: str) -> None:
        told = {**make_manifest(**changes), "contents": listed(folder, TREE)}
        pack(folder / NAME, TREE, manifest_bytes(told))

        def claim(statement: Any) -> None:
            statement["subject"][0]["digest"]["sha256"] = sha256(folder / NAME)

        rewrite(folder / f"{NAME}.intoto.json", claim)
        self.seal(folder)
        found = dict(reversed(refusals(verify_folder(folder, means))))
        assert "its own SHA-256 is" in found[NAME]
        assert wrong in found[NAME]

    @pytest.mark.parametrize(
        ("edit", "why"),
        [
            (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "it is no SLSA provenance"),
            (lambda s: s.update(predicateType="https://slsa.dev/provenance/v0.2"), "it is no SLSA provenance"),
            (
                lambda s: s["predicate"]["buildDefinition"].update(buildType="x:y"),
                "it is of another kind of build: x:y",
            ),
            (
                lambda s: s["predicate"]["buildDefinition"].update(
                    buildType="x:y", externalParameters={"source": "git+x"}, internalParameters=[]
                ),
                "it is of another kind of build: x:y",
            ),
            (lambda s: s.update(subject=[]), "it is of nothing, not of this file"),
            (lambda s: s.pop("predicate"), "it cannot be read: predicate: Field required"),
            (lambda s: s.update(subject="all"), "it cannot be read: subject"),
        ],
    )
    def test_another_statement(
        self, folder: Path, means: VerifyContext, edit: Callable[[Any], object], why: str
    ) -> None:
        rewrite(folder / f"{NAME}.intoto.json", edit)
        self.seal(folder)
        found = refusals(verify_folder(folder, means))
        assert found[0][0] == f"{NAME}.intoto.json"
        assert why in found[0][1]

    @pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '"x"', '{"bomFormat": "SPDX"}', "\xff"])
    @pytest.mark.parametrize("suffix", [".sbom.json", ".intoto.json"])
    def test_what_is_none_at_all(self, folder: Path, means: VerifyContext, text: str, suffix: str) -> None:
        (folder / (NAME + suffix)).write_text(text, encoding="latin-1")
        self.seal(folder)
        assert "it cannot be read" in dict(reversed(refusals(verify_folder(folder, means))))[NAME + suffix]

    @pytest.mark.parametrize(
        ("tree", "wrong"),
        [
            ({**TREE, "bin/demo": TREE["bin/demo"] + b"\0"}, "bin/demo has SHA-256"),
            ({**TREE, "bin/more": b"x"}, "bin/more is there, and not listed"),
            ({"bin/demo": TREE["bin/demo"]}, "conf/demo.conf is listed, and not there"),
        ],
    )
    def test_other_contents(self, folder: Path, means: VerifyContext, tree: dict[str, bytes], wrong: str) -> None:
        told = {**make_manifest(), "contents": listed(folder, TREE)}
        describe(pack(folder / NAME, tree, manifest_bytes(told)), builder=Builder())
        self.seal(folder)
        ((file, why),) = refusals(verify_folder(folder, means))
        assert file == NAME
        assert wrong in why

    def test_no_list_of_contents(self, folder: Path, means: VerifyContext) -> None:
        describe(pack(folder / NAME, TREE, manifest_bytes(make_manifest())), builder=Builder())
        self.seal(folder)
        assert refusals(verify_folder(folder, means)) == [
            (NAME, "contents agree with manifest.json: the manifest does not list them")
        ]

    def test_no_manifest(self, folder: Path, means: VerifyContext) -> None:
        (folder / NAME).write_bytes(tar_bytes({"demo/bin/demo": b"x"}, mode="w:gz"))
        self.seal(folder)
        assert (NAME, "manifest.json: there is none in it") in refusals(verify_folder(folder, means))

    @pytest.mark.parametrize(
        "content",
        [b"", b"no package", b"\x1f\x8b broken", tar_bytes({"../up": b""}, mode="w:gz")],
        ids=["nothing", "text", "broken", "leaves"],
    )
    def test_no_package(self, folder: Path, means: VerifyContext, content: bytes) -> None:
        (folder / NAME).write_bytes(content)
        self.seal(folder)
        assert any(
            file == NAME and why.startswith("manifest.json") for file, why in refusals(verify_folder(folder, means))
        )


class TestDebug:
    def test_debug_information_has_no_manifest(self, folder: Path, means: VerifyContext, auditor: Auditor) -> None:
        path = folder / "debug.tar.gz"
        path.write_bytes(tar_bytes({"demo/bin/demo.debug": b"d"}, mode="w:gz"))
        describe(path, builder=Builder(), manifest=make_manifest())
        write_sums(folder)
        sign(folder)
        outcome = verify_folder(folder, means)
        assert outcome.passed
        left = [str(check) for check in outcome.checks if check.verdict == "not checked"]
        assert left == ["not checked  debug.tar.gz: manifest.json: there is none in debug information"]
        assert "debug.tar.gz" not in [name for name, _ in auditor.asked]


class TestAudit:
    def test_it_says_no(self, folder: Path, means: VerifyContext, auditor: Auditor) -> None:
        auditor.finds = [f"bin/demo: function f{n} uses avx2" for n in range(9)]
        found = refusals(verify_folder(folder, means))
        assert [file for file, _ in found] == [NAME, OTHER]
        assert found[0][1].startswith("audit for sandybridge: bin/demo: function f0 uses avx2; ")
        assert found[0][1].endswith("; and 4 more")

    def test_it_cannot_be_made(self, folder: Path, means: VerifyContext) -> None:
        def audit(path: Path, manifest: Manifest, package: PackageContents) -> Sequence[str]:
            raise AuditError("there is nothing to judge")

        found = refusals(verify_folder(folder, replace(means, audit=audit)))
        assert (NAME, "audit for sandybridge: there is nothing to judge") in found


class TestRpm:
    @pytest.fixture
    def signatures(self, means: VerifyContext) -> Signatures:
        assert isinstance(means.signatures, Signatures)
        return means.signatures

    def checks(self, folder: Path, means: VerifyContext, content: bytes) -> dict[str, tuple[str, str]]:
        (folder / "demo.rpm").write_bytes(content)
        outcome = verify_folder(folder, means)
        return {c.what: (c.verdict, c.why) for c in outcome.checks if c.file == "demo.rpm" and "rpm" in c.what.lower()}

    def test_without_rpm_it_is_said(self, tmp_path: Path, means: VerifyContext) -> None:
        assert self.checks(tmp_path, means, make_rpm(signature=b"good")) == {
            "RPM header signature": ("yes", "key ABC"),
            "rpm's own check (rpmkeys)": ("not checked", "there is no rpm on this machine"),
        }

    @pytest.mark.parametrize("good", [True, False])
    def test_what_rpm_says(self, tmp_path: Path, means: VerifyContext, signatures: Signatures, good: bool) -> None:
        signatures.by_program = SignatureVerdict(good=good, why="rpm says")
        found = self.checks(tmp_path, means, make_rpm(signature=b"good"))
        assert found["rpm's own check (rpmkeys)"] == ("yes" if good else "no", "rpm says")

    def test_not_signed(self, tmp_path: Path, means: VerifyContext) -> None:
        assert self.checks(tmp_path, means, make_rpm())["RPM header signature"] == (
            "no", "the RPM's header is not signed",
        )  # fmt: skip
        found = self.checks(tmp_path, replace(means, unsigned=True), make_rpm())
        assert found["RPM header signature"][0] == "not checked"

    def test_a_bad_signature_is_refused_even_if_unsigned_files_are_accepted(
        self, tmp_path: Path, means: VerifyContext
    ) -> None:
        found = self.checks(tmp_path, replace(means, unsigned=True), make_rpm(signature=b"bad"))
        assert found["RPM header signature"][0] == "no"

    def test_no_rpm_at_all(self, tmp_path: Path, means: VerifyContext) -> None:
        assert self.checks(tmp_path, means, b"text")["RPM header signature"] == ("no", "this is no RPM")


class TestContents:
    def test_what_a_manifest_lists(self, tmp_path: Path) -> None:
        path = tmp_path / "tree.tar"
        path.write_bytes(tar_bytes({"./bin/b": b"b", "./a": b"a", "./manifest.json": b"{}"}, executable={"./bin/b"}))
        (tmp_path / "gate.sh").write_bytes(b"gate")
        found = contents_of(path, {"utils/gate.sh": tmp_path / "gate.sh", "a": b"other"}, executable={"utils/gate.sh"})
        assert [(item.path, item.mode) for item in found] == [
            ("a", "0644"), ("bin/b", "0755"), ("utils/gate.sh", "0755"),
        ]  # fmt: skip
        assert found[0].sha256 == "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"

    def test_links(self, tmp_path: Path) -> None:
        path = tmp_path / "tree.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, kind, target in (
                ("./lib/a.so", tarfile.SYMTYPE, "a.so.1"),
                ("./lib/b.so", tarfile.LNKTYPE, "./lib/a.so.1"),
            ):
                if name.endswith("b.so"):
                    info = tarfile.TarInfo("./lib/a.so.1")
                    tar.addfile(info)
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                tar.addfile(info)
        found = contents_of(path)
        assert found[0] == ManifestFile(path="lib/a.so", link="a.so.1")
        assert found[1].sha256 == found[2].sha256
        assert not [line for line in differences(found, read_package(path)) if "mode" not in line]
        moved = [found[0].model_copy(update={"link": "elsewhere"}), *found[1:]]
        assert "lib/a.so is a link to a.so.1, not elsewhere" in differences(moved, read_package(path))

    @pytest.mark.parametrize("mode", [0o4755, 0o777, 0o644])
    def test_a_mode(self, mode: int) -> None:
        listed = [ManifestFile(path="run", mode="0755", sha256="a" * 64)]
        assert differences(listed, PackageContents(files={"run": ContentEntry(sha256="a" * 64, mode=0o755)})) == []
        other = PackageContents(files={"run": ContentEntry(sha256="a" * 64, mode=mode)})
        assert differences(listed, other) == [f"run has mode {mode:04o}, not 0755"]

    def test_what_is_neither_file_nor_link(self, tmp_path: Path) -> None:
        path = tmp_path / "tree.tar"
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("./pipe")
            info.type = tarfile.FIFOTYPE
            tar.addfile(info)
        with pytest.raises(AuditError) as caught:
            contents_of(path)
        assert "pipe is neither file, folder nor link" in caught.value.message

    def test_the_nearest_manifest_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar.gz"
        path.write_bytes(
            tar_bytes({"opt/a/b/manifest.json": b"2", "opt/a/manifest.json": b"1", "usr/x": b""}, mode="w:gz")
        )
        package = read_package(path)
        assert (package.manifest, package.top, set(package.inside)) == (b"1", "opt/a", {"b/manifest.json"})

    def test_a_name_twice_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        one = tar_bytes({"a": b"1"})
        path.write_bytes(one[:1024] + tar_bytes({"a": b"2"}))
        with pytest.raises(AuditError) as caught:
            read_package(path)
        assert "a is in the package twice" in caught.value.message

    def test_programs_are_the_same_in_every_format(self, tmp_path: Path) -> None:
        tar = pack(tmp_path / "a.tar.gz", TREE, b"{}")
        deb = pack(tmp_path / "a.deb", TREE, b"{}", top="opt/demo")
        assert read_package(tar).programs == read_package(deb).programs
        assert {name for name, _ in read_package(tar).programs} == set(PROGRAMS)


@pytest.mark.parametrize("suffix", [".asc", ".sbom.json", ".intoto.json", ".intoto.json.asc"])
def test_what_a_file_is_of(suffix: str) -> None:
    assert artifact_of(f"a.rpm{suffix}") == "a.rpm"
    assert artifact_of("SHA256SUMS.asc") == "SHA256SUMS"


def test_sums_as_sha256sum_writes_them() -> None:
    sums, bad = read_sums(f"{'a' * 64}  x y\n{'b' * 64} *z\n")
    assert sums == {"x y": "a" * 64, "z": "b" * 64}
    assert bad == []


def test_a_name_cannot_write_on_the_terminal() -> None:
    check = CheckResult(file="a\x1b[2J\n", what="w", verdict="no")
    assert str(check) == "no           a\\x1b[2J\\x0a: w"
    outcome = VerifyResult(title="t", checks=(check,))
    assert "\x1b" not in "".join(outcome.lines())


def test_for_scripts(folder: Path, means: VerifyContext) -> None:
    facts = json.loads(json.dumps(verify_folder(folder, means, title="t").facts()))
    assert (facts["title"], facts["passed"]) == ("t", True)
    assert {check["verdict"] for check in facts["checks"]} == {"yes"}
    assert set(facts["checks"][0]) == {"file", "what", "verdict", "why"}


def test_nothing_to_say_is_no_yes() -> None:
    assert not VerifyResult(title="t", checks=()).passed


def test_what_a_manifest_says_of_the_distributions_libraries() -> None:
    own = {"soname": "a", "path": "lib/a", "package": "a", "version": "1", "sha256": "1" * 64, "code": "2" * 64}
    other = {"soname": "b", "path": "lib/b", "package": "unknown", "version": "-", "sha256": "3" * 64}
    found = distribution(claimed(image__baseline="x86_64_v2", bundled_libraries=[own, other]), below="opt/demo")
    assert found is not None
    assert found.baseline == "x86_64_v2"
    assert found.libraries == {
        "opt/demo/lib/a": PackagedRecord(package="a", version="1", sha256="1" * 64, code="2" * 64)
    }, "a library without a digest of its code is nobody's"
    for baseline in ("", "pdp11"):
        assert distribution(claimed(image__baseline=baseline)) is None
    assert distribution(claimed()) is None, "as earlier versions wrote it"
