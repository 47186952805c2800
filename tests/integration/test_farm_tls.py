"""Connections to a scheduler by TLS, with certificates of both sides."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from integration.farms import Farm, Program, connecting

SIDES = ("SCHEDULER", "WORKER", "CLIENT")
PREFIX = "DASK_DISTRIBUTED__COMM"
CONNECT = """
import sys
from pikaforge.errors import ForgeError
from pikaforge.farm.cluster import connected
try:
    with connected(sys.argv[1]) as cluster:
        print("connected", cluster.seen().cores)
except ForgeError as error:
    print("refused", error.message)
"""


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def _authority(folder: Path) -> Mapping[str, str]:
    """Make an authority and a certificate of it; return Dask's configuration for all sides."""
    folder.mkdir()
    made = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    _openssl(folder, "req", "-x509", *made, "-subj", "/CN=a", "-keyout", "ca.key", "-out", "ca.pem")
    _openssl(folder, "req", *made[:3], "-subj", "/CN=127.0.0.1", "-keyout", "node.key", "-out", "node.csr")
    signs = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    _openssl(folder, "x509", "-req", "-in", "node.csr", *signs, "-out", "node.pem")
    pairs = {f"{PREFIX}__TLS__{side}__CERT": str(folder / "node.pem") for side in SIDES}
    pairs |= {f"{PREFIX}__TLS__{side}__KEY": str(folder / "node.key") for side in SIDES}
    return {f"{PREFIX}__REQUIRE_ENCRYPTION": "True", f"{PREFIX}__TLS__CA_FILE": str(folder / "ca.pem"), **pairs}


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The address of a scheduler that wants TLS, and the configuration with which it is reached."""
    pytest.importorskip("distributed")
    known = _authority(tmp_path / "authority")
    made = Farm(tmp_path / "farm")
    argv = ["distributed.cli.dask_scheduler", "--host", "tls://127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
    made.scheduler = Program("scheduler-0", [*argv, "--scheduler-file", str(made._file)], made.folder, known)
    try:
        made.scheduler.wait_for("Scheduler at:")
        yield made.address, known
    finally:
        made.close()


def test_only_who_has_a_certificate_of_the_authority_is_let_in(
    scheduler: tuple[str, Mapping[str, str]], tmp_path: Path
) -> None:
    address, known = scheduler
    assert address.startswith("tls://")
    assert connecting(CONNECT, address, known).stdout.startswith("connected ()")
    for other in ({}, _authority(tmp_path / "other")):
        assert connecting(CONNECT, address, other).stdout.startswith("refused no Dask scheduler answers at tls://")
    plain = connecting(CONNECT, address.replace("tls:", "tcp:"))
    assert plain.stdout.startswith("refused no Dask scheduler answers at tcp://")
