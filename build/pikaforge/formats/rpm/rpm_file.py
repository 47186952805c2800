"""RPMs as files: what of them is signed, and how a signature gets in.

The header is signed where the key is; rpm only puts the ready signature in (docker/guest/rpmsign.sh), here or in a
container, and is given nothing that is secret. Facts: rpm's docs/manual/format.md and include/rpm/rpmtag.h.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.errors import ForgeError
from pikaforge.host import process
from pikaforge.host.text import REASON

if TYPE_CHECKING:
    from pikaforge.host.workspace import Workspace

RPM_LEAD, RPM_LEAD_MAGIC, RPM_HEADER_MAGIC = 96, b"\xed\xab\xee\xdb", b"\x8e\xad\xe8\x01"
RPM_INTRO, RPM_INDEX = 16, 16
RPM_SIGNATURE_TAGS = (268, 267)
"""RPMSIGTAG_RSA and RPMSIGTAG_DSA: signatures of the header alone, which has the payload's digest (rpm's rpmtag.h)."""
RPM_HEADER_LIMIT = 256 << 20
"""Bytes; rpm's own limit."""
TIMEOUT = 600.0


class RpmError(ForgeError):
    """A file is no RPM, or cannot get a signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmFile:
    """The parts of an RPM that signing is about."""

    header: bytes
    """The main header: what is signed."""
    signature: bytes
    """Binary OpenPGP signature of it; empty if there is none."""
    body: str
    """SHA-256 of header and payload: the same before and after signing, so it tells whether two RPMs are one."""


def read_rpm(path: Path) -> RpmFile:
    """Take an RPM apart.

    Raises:
        RpmError: it is no RPM, or is truncated.
    """
    with path.open("rb") as stream:
        lead = stream.read(RPM_LEAD)
        if len(lead) != RPM_LEAD or not lead.startswith(RPM_LEAD_MAGIC):
            raise RpmError("this is no RPM", where=str(path))
        signatures = _rpm_header(stream.read, path)
        stream.read(-len(signatures) % 8)
        header = _rpm_header(stream.read, path)
        digest = sha256(header)
        while block := stream.read(1 << 20):
            digest.update(block)
    return RpmFile(header=header, signature=_rpm_signature(signatures), body=digest.hexdigest())


def _rpm_header(read: Callable[[int], bytes], path: Path) -> bytes:
    intro = read(RPM_INTRO)
    count, size = int.from_bytes(intro[8:12], "big"), int.from_bytes(intro[12:16], "big")
    length = count * RPM_INDEX + size
    if len(intro) != RPM_INTRO or not intro.startswith(RPM_HEADER_MAGIC) or length > RPM_HEADER_LIMIT:
        raise RpmError("the RPM is truncated or corrupt: it has no header", where=str(path))
    rest = read(length)
    if len(rest) != length:
        raise RpmError("the RPM is truncated: its header is cut off", where=str(path))
    return intro + rest


def _rpm_signature(header: bytes) -> bytes:
    count = int.from_bytes(header[8:12], "big")
    store = RPM_INTRO + count * RPM_INDEX
    for number in range(count):
        start = RPM_INTRO + number * RPM_INDEX
        tag, _, offset, size = (int.from_bytes(header[start + i : start + i + 4], "big") for i in (0, 4, 8, 12))
        if tag in RPM_SIGNATURE_TAGS:
            return header[store + offset : store + offset + size]
    return b""


def last_line(text: str) -> str:
    """The last line of what a program printed that says something, 200 characters at most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it says nothing"


Insert = Callable[[Path, bytes, bytes, str], bytes]
"""Puts a signature into an RPM: the RPM, its header, the binary signature, the fingerprint; the new RPM's bytes."""
INSERT_SCRIPT = "rpmsign.sh"
INSERT_FOLDER = "sign"
INSERT_OUTPUT = "out/package.rpm"
STAGE = "sign"
"""As logs and errors call it; nothing of it is stored."""


def insert_files(rpm: Path, header: bytes, signature: bytes, fingerprint: str) -> dict[str, bytes | Path]:
    """What rpmsign.sh wants in the folder `sign`, by name; nothing of it is secret."""
    return {"package.rpm": rpm, "header": header, "signature": signature, "key": f"{fingerprint}\n".encode()}


def insert_here(script: Path, folder: Path) -> Insert:
    """Inserts with this machine's own rpm.

    Args:
        script: docker/guest/rpmsign.sh.
        folder: an empty one; the caller removes it.
    """

    def insert(rpm: Path, header: bytes, signature: bytes, fingerprint: str) -> bytes:
        process.require("rpmsign", hint="install the package rpm (Debian, Ubuntu) or rpm-sign (EL)")
        root = Path(tempfile.mkdtemp(dir=folder))
        (root / INSERT_FOLDER).mkdir()
        for name, content in insert_files(rpm, header, signature, fingerprint).items():
            (root / INSERT_FOLDER / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        done = process.run(["sh", str(script)], env=process.environment({"PIKAFORGE_ROOT": str(root)}), timeout=TIMEOUT)
        if done.status != 0:
            said = done.errors() + done.text()
            reasons = REASON.findall(said) or [last_line(said)]
            raise RpmError(f"rpm does not take the signature: {reasons[0]}", where=str(rpm))
        return (root / INSERT_OUTPUT).read_bytes()

    return insert


def insert_in(workspace: Workspace, *, tools: str, label: str, folder: Path) -> Insert:
    """Inserts with the rpm of the tools image.

    Args:
        workspace: has the engine.
        tools: the image.
        label: of the cell, for names and the log.
        folder: where the job leaves the RPM; the caller removes it.
    """
    from pikaforge.host.job import Input, Job, files  # noqa: PLC0415
    from pikaforge.host.workspace import run_job  # noqa: PLC0415  # not for verifying

    def insert(rpm: Path, header: bytes, signature: bytes, fingerprint: str) -> bytes:
        job = Job(
            label=f"{STAGE}-{label}",
            image=tools,
            argv=("sh", "guest/run.sh", INSERT_SCRIPT.removesuffix(".sh")),
            env={},
            inputs=(
                workspace.guest(INSERT_SCRIPT),
                Input(folder=INSERT_FOLDER, archive=files(insert_files(rpm, header, signature, fingerprint))),
            ),
            outputs=(INSERT_OUTPUT,),
            log=workspace.log_path(label, STAGE),
            timeout=TIMEOUT,
        )
        done = run_job(workspace, job, folder, stage=STAGE, label=label, failed=f"{rpm.name} could not be signed")
        return done.outputs[INSERT_OUTPUT].read_bytes()

    return insert
