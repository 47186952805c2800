"""Signatures inside package files, as RPMs have them.

A format says which bytes are signed, and how a ready signature gets into a file. It holds no key: `attest.signing`
makes the signature, `attest.signatures` judges it. What puts the signature in is a guest script (`docker/guest/`),
which runs on this machine or in the tools image and is given nothing that is secret.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pikaforge.errors import ForgeError
from pikaforge.formats.text import last_line
from pikaforge.host import process
from pikaforge.host.text import REASON

if TYPE_CHECKING:
    from pikaforge.host.workspace import Workspace

TIMEOUT = 600.0
"""Seconds for one run of a script."""
STAGE = "sign"
"""The name of a run in logs and errors. Nothing of it is stored."""


class InsertionError(ForgeError):
    """A signature cannot be put into a file."""

    kind = "E-signing"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureVerdict:
    """Whether a signature is good."""

    good: bool
    why: str
    """Digest and key of a good one; else what is wrong, as the end of a sentence."""
    missing: bool = False
    """Whether there is no signature at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPart:
    """What is signed of a file."""

    data: bytes
    signature: bytes
    """Binary OpenPGP signature of `data`; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """A run of a guest script that puts a signature into a file."""

    path: Path
    """The file that is signed. It is not changed: the output takes its place."""
    script: str
    """Name of the script."""
    program: str
    """The program that the script needs."""
    install: str
    """How to get the program."""
    folder: str
    """The folder of the job that has the inputs."""
    inputs: Mapping[str, bytes | Path]
    """By name; nothing of it is secret."""
    output: str
    """The file with its signature, below the root of the job."""
    failed: str
    """What is wrong if the script fails."""
    advice: str
    """What to do if the output is not what was asked for."""


Insert = Callable[[Insertion], bytes]
"""Runs an insertion; returns the bytes of the signed file."""


class EmbeddedSignature(Protocol):
    """How files of a format hold a signature."""

    title: str
    """Of the check of the signature: `RPM header signature`."""
    unsigned: str
    """What is said of a file without one: `the RPM's header is not signed`."""
    program_title: str
    """Of the check by the format's own program: `rpm's own check (rpmkeys)`."""
    program_missing: str
    """What is said where that program is missing."""

    def signed_part(self, path: Path) -> SignedPart:
        """Return what is signed of a file, and its signature.

        Raises:
            AuditError: it is no such file, or is damaged.
        """

    def body(self, path: Path) -> str:
        """Return the SHA-256 of what signing leaves alone. Two files with the same one are one package.

        Raises:
            AuditError: as `signed_part`.
        """

    def insertion(self, path: Path, part: SignedPart, signature: bytes, fingerprint: str) -> Insertion:
        """Return what puts a signature into a file.

        Args:
            path: the file.
            part: what is signed of it.
            signature: binary OpenPGP signature of `part.data`.
            fingerprint: of the key.
        """

    def program_check(self, path: Path, keys: Path, folder: Path) -> SignatureVerdict | None:
        """Return what the format's own program says of a file's signature and digests; None where it is missing.

        Args:
            path: the file.
            keys: public keys in text form; no others are trusted.
            folder: for the program's own files, which further calls use again.
        """


def insert_here(guest: Path, folder: Path) -> Insert:
    """Return what runs insertions with this machine's own programs.

    Args:
        guest: the folder of the guest scripts.
        folder: for the files of the runs; the caller removes it.
    """

    def insert(job: Insertion) -> bytes:
        process.require(job.program, hint=job.install)
        root = Path(tempfile.mkdtemp(dir=folder))
        (root / job.folder).mkdir()
        for name, content in job.inputs.items():
            (root / job.folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        env = process.environment({"PIKAFORGE_ROOT": str(root)})
        done = process.run(["sh", str(guest / job.script)], env=env, timeout=TIMEOUT)
        if done.status != 0:
            said = done.errors() + done.text()
            reasons = REASON.findall(said) or [last_line(said)]
            raise InsertionError(f"{job.failed}: {reasons[0]}", where=str(job.path))
        return (root / job.output).read_bytes()

    return insert


def insert_in(workspace: Workspace, *, tools: str, label: str, folder: Path) -> Insert:
    """Return what runs insertions with the programs of the tools image.

    Args:
        workspace: has the engine.
        tools: the image.
        label: of the cell, for names and the log.
        folder: where the job leaves the signed file; the caller removes it.
    """
    from pikaforge.host.job import Input, Job, files  # noqa: PLC0415
    from pikaforge.host.workspace import run_job  # noqa: PLC0415  # not for verifying

    def insert(job: Insertion) -> bytes:
        done = run_job(
            workspace,
            Job(
                label=f"{STAGE}-{label}",
                image=tools,
                argv=("sh", "guest/run.sh", job.script.removesuffix(".sh")),
                env={},
                inputs=(workspace.guest(job.script), Input(folder=job.folder, archive=files(job.inputs))),
                outputs=(job.output,),
                log=workspace.log_path(label, STAGE),
                timeout=TIMEOUT,
            ),
            folder,
            stage=STAGE,
            label=label,
            failed=f"{job.path.name} could not be signed",
        )
        return done.outputs[job.output].read_bytes()

    return insert
