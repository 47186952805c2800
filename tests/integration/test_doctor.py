"""`doctor` on this machine: with its engine, without programs, against closed ports and servers with a wrong clock."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.keys import new_key
from unit.helpers import make_matrix

if TYPE_CHECKING:
    from conftest import Engine, Tool

ROOT = Path(__file__).resolve().parents[2]
LONG_AGO = "Thu, 01 Jan 2009 00:00:00 GMT"


@contextmanager
def _server(date: str | None) -> Iterator[str]:
    """A server that answers everything with 200, with this Date or the real one; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return date or super().date_time_string(timestamp)

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.fixture
def closed() -> Iterator[str]:
    """The URL of a port that nothing listens at, and that nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


class _Doctor:
    """Runs `doctor --json` on a configuration of its own."""

    def __init__(self, tool: Tool, folder: Path) -> None:
        self._tool, self.folder = tool, folder
        self.matrix = folder / "matrix.yaml"
        (folder / "recipe.sh").write_text("#!/bin/sh\n", encoding="utf-8")

    def write(self, **changes: Any) -> None:
        self.matrix.write_text(make_matrix(**changes), encoding="utf-8")

    def run(self, *words: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        places = ("--matrix", str(self.matrix), "--out", str(self.folder / "out"), "--dist", str(self.folder / "dist"))
        done = self._tool("doctor", "--json", *places, *words, env=env)
        assert done.stderr == ""
        report: dict[str, Any] = json.loads(done.stdout)
        schema = json.loads((ROOT / "doctor.schema.json").read_text(encoding="utf-8"))
        from jsonschema import Draft202012Validator  # its formats take four seconds to import

        assert list(Draft202012Validator(schema).iter_errors(report)) == []
        return done.returncode, report


@pytest.fixture
def doctor(tool: Tool, tmp_path: Path) -> _Doctor:
    """With a configuration that is right."""
    made = _Doctor(tool, tmp_path)
    made.write()
    return made


def _of(report: dict[str, Any], check: str, subject: str = "") -> list[dict[str, Any]]:
    return [each for each in report["findings"] if each["check"] == check and subject in each["subject"]]


NO_ENGINE = {"DOCKER_HOST": "tcp://127.0.0.1:1"}


@pytest.mark.engine
def test_the_engine_of_this_machine(doctor: _Doctor, engine: Engine) -> None:
    with _server(None) as url:
        doctor.write(images__debian12__mirror=f"{url}/debian", product__source__git=str(doctor.folder))
        status, report = doctor.run("--source", "sample", "--os", "debian12")
    info = engine.client.info()
    (found,) = _of(report, "engine", "docker")
    assert found["state"] == "ok"
    assert info["ServerVersion"] in found["says"]
    assert info["Driver"] in found["says"]
    (space,) = _of(report, "disk", "images")
    assert space["says"].startswith(info["DockerRootDir"])
    assert _of(report, "registry")[0]["state"] in ("ok", "warning"), "it can be made of packages"
    (clock,) = _of(report, "clock")
    assert clock["state"] == "ok"
    assert status == (3 if report["state"] == "lacking" else 0)
    assert {each["check"] for each in report["findings"] if each["state"] == "lacking"} <= {"keys", "memory", "disk"}


def test_without_engine_without_network_and_with_a_broken_matrix(doctor: _Doctor) -> None:
    doctor.matrix.write_text("product: [\n", encoding="utf-8")
    status, report = doctor.run(env=NO_ENGINE)
    assert status == 3
    (configuration,) = _of(report, "configuration")
    assert configuration["state"] == "lacking"
    assert "matrix.yaml:" in configuration["says"]
    assert _of(report, "engine")[0]["state"] == "lacking"
    assert {"disk", "tools", "keys", "clock"} <= {each["check"] for each in report["findings"]}


def test_a_path_without_a_tool(doctor: _Doctor, tmp_path: Path) -> None:
    few = tmp_path / "bin"
    few.mkdir()
    (few / "python").symlink_to(sys.executable)
    status, report = doctor.run("--source", "sample", env={**NO_ENGINE, "PATH": str(few)})
    assert status == 3
    (git,) = _of(report, "tools", "git")
    assert git["state"] == "lacking"
    assert git["stops"].startswith("the source stage")
    assert git["mend"]
    assert _of(report, "tools", "mmdebstrap")[0]["state"] == "warning"


def test_a_closed_port(doctor: _Doctor, closed: str) -> None:
    mirror = {"images__debian12__mirror": f"{closed}/debian"}
    doctor.write(product__source__git=f"{closed}/demo.git", mirrors=[f"{closed}/tarballs"], **mirror)
    status, report = doctor.run("--os", "debian12", env={**NO_ENGINE, "http_proxy": "", "no_proxy": "*"})
    assert status == 3
    (source,) = _of(report, "source")
    assert source["state"] == "lacking"
    assert "cannot reach" in source["says"]
    states = {each["state"]: each for each in _of(report, "servers", closed)}
    assert "packages of debian12" in states["lacking"]["says"]
    assert "mirror of tarballs" in states["warning"]["says"]
    assert all("refused" in each["says"] for each in states.values())


def test_a_server_with_another_clock(doctor: _Doctor) -> None:
    with _server(LONG_AGO) as url:
        doctor.write(images__debian12__mirror=f"{url}/debian")
        _, report = doctor.run("--os", "debian12", "--source", "sample", env={**NO_ENGINE, "no_proxy": "*"})
    (clock,) = _of(report, "clock")
    assert clock["state"] == "lacking"
    assert "ahead of the time of the one server" in clock["says"]
    assert clock["mend"][0].startswith("timedatectl")


def test_a_store_from_the_future(doctor: _Doctor) -> None:
    result = doctor.folder / "out" / "store" / "compile" / ("0" * 32)
    result.mkdir(parents=True)
    os.utime(result, (4e9, 4e9))
    _, report = doctor.run("--os", "debian12", "--source", "sample", env=NO_ENGINE)
    (clock,) = (each for each in _of(report, "clock") if each["subject"] == "store")
    assert clock["state"] == "warning"
    assert "2096-10-02" in clock["says"]


def test_credentials_are_not_printed(doctor: _Doctor) -> None:
    with _server(None) as url:
        doctor.write(publish={"vault": {"kind": "http", "url": f"{url}/x/"}})
        secret = {"PIKAFORGE_VAULT_USER": "somebody", "PIKAFORGE_VAULT_PASSWORD": "geheim"}
        _, report = doctor.run("--source", "sample", env={**NO_ENGINE, **secret, "no_proxy": "*"})
    (login,) = _of(report, "keys", "credentials of vault")
    assert (login["state"], login["says"]) == ("ok", "from PIKAFORGE_VAULT_USER")
    assert "geheim" not in json.dumps(report)


def test_an_image_that_does_not_exist(doctor: _Doctor, tool: Tool) -> None:
    done = tool("doctor", "--matrix", str(doctor.matrix), "--os", "debian21")
    assert done.returncode == 2
    assert "error: there is no image 'debian21'" in done.stderr


def test_for_people(doctor: _Doctor, tool: Tool) -> None:
    done = tool("doctor", "--matrix", str(doctor.matrix), "--source", "sample", env=NO_ENGINE)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok       configuration  matrix.yaml: it is right")
    assert any(line.strip().startswith("stops: every build in containers") for line in lines)
    assert any(line.strip().startswith("mend:  ") for line in lines)
    assert lines[-1].endswith("a build needs what is lacking (engine)")


def test_a_key_that_can_sign_and_one_that_has_expired(doctor: _Doctor, tmp_path: Path) -> None:
    with new_key(tmp_path / "good") as good:
        _, report = doctor.run("--source", "sample", env={**NO_ENGINE, **good.environment})
        assert (_of(report, "keys", "signing key")[0]["state"]) == "ok"
        assert _of(report, "keys", "signing key")[0]["says"].startswith(good.fingerprint)
        assert _of(report, "keys", "keys to verify with")[0]["state"] == "ok"
    with new_key(tmp_path / "old", expires="1d", when=("--faked-system-time", "20200101T000000")) as old:
        wrong = {**NO_ENGINE, **old.environment, "PIKAFORGE_VERIFY_KEYS": str(old.secret.parent / "none.asc")}
        status, report = doctor.run("--source", "sample", env=wrong)
    assert status == 3
    (key,) = _of(report, "keys", "signing key")
    assert key["state"] == "lacking"
    assert "has expired" in key["says"]
    assert "gpg --quick-set-expire" in key["mend"][0]
    (verifying,) = _of(report, "keys", "keys to verify with")
    assert verifying["state"] == "warning"
    assert "none.asc" in verifying["says"]
