"""Contexts of docker's command line: which engine they lead to, and what is refused."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from unit.helpers import refusal

from pikaforge.errors import HostError
from pikaforge.host import connection, machine, watch
from pikaforge.host.connection import environment
from pikaforge.host.docker import DockerEngine
from pikaforge.host.docker_context import with_context

ADDRESS = "tcp://builder.example.org:2376"


def write(folder: Path, name: str, meta: object) -> Path:
    """Make a context as docker does. Return the folder for its certificates."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    file = folder / "contexts/meta" / digest / "meta.json"
    file.parent.mkdir(parents=True)
    file.write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return folder / "contexts/tls" / digest / "docker"


def meta(host: str = ADDRESS, **more: object) -> dict[str, object]:
    return {"Name": "far", "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False, **more}}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A folder of docker's settings with a context that is the current one."""
    folder = tmp_path / ".docker"
    write(folder, "far", meta())
    (folder / "config.json").write_text(json.dumps({"auths": {}, "currentContext": "far"}))
    return folder


def test_the_current_one(config: Path) -> None:
    for given in (
        {"DOCKER_CONFIG": str(config)},
        {"HOME": str(config.parent)},
        {"HOME": "/x", "DOCKER_CONFIG": f"{config}"},
    ):
        assert environment(given) == {**given, "DOCKER_HOST": ADDRESS}


def test_who_watches_knows_that_settings_were_looked_for(tmp_path: Path) -> None:
    with watch.watching() as seen:
        assert "DOCKER_HOST" not in with_context({"HOME": str(tmp_path)})
    assert seen.files == {str(tmp_path / ".docker" / "config.json"): False}


def test_the_order_is_dockers(config: Path) -> None:
    write(config, "near", meta("unix:///run/near.sock"))
    given = {"HOME": str(config.parent), "DOCKER_CONTEXT": "near"}
    assert with_context(given)["DOCKER_HOST"] == "unix:///run/near.sock"
    assert with_context({**given, "DOCKER_HOST": "tcp://x:1"})["DOCKER_HOST"] == "tcp://x:1"
    assert "DOCKER_HOST" not in with_context({**given, "DOCKER_CONTEXT": "default"})


def test_podmans_own_variables(config: Path) -> None:
    """Another engine must not be used silently."""
    here = "unix:///run/podman/podman.sock"
    assert environment({"CONTAINER_HOST": here}) == {"CONTAINER_HOST": here, "DOCKER_HOST": here}
    assert environment({"CONTAINER_HOST": here, "HOME": str(config.parent)})["DOCKER_HOST"] == ADDRESS, "the control"
    assert environment({"CONTAINER_CONNECTION": "far", "DOCKER_HOST": "tcp://x:1"})["DOCKER_HOST"] == "tcp://x:1"
    for given in (
        {"CONTAINER_HOST": "ssh://user:secret@far.example.org/run/podman/podman.sock"},
        {"CONTAINER_CONNECTION": "far"},
    ):
        with pytest.raises(HostError) as caught:
            environment(given)
        message, where, hint = refusal(caught)
        (variable,) = given
        assert message == f"{variable} names an engine of podman's that only podman itself can reach"
        assert where.startswith(f"{variable}=")
        assert "secret" not in where
        assert f"unset {variable}" in hint


@pytest.mark.parametrize("text", [None, "{}", '{"currentContext": ""}', '{"currentContext": "default"}'])
def test_without_one(tmp_path: Path, text: str | None) -> None:
    """The control: what is given stays as it is."""
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    given = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CERT_PATH": "/certs"}
    assert with_context(given) == given
    assert with_context({}) == {}


@pytest.mark.parametrize(("skip", "verify"), [(False, "1"), (True, "")])
def test_certificates_of_the_context(tmp_path: Path, skip: bool, verify: str) -> None:
    certificates = write(tmp_path, "far", meta(SkipTLSVerify=skip))
    given = {
        "DOCKER_CONFIG": str(tmp_path),
        "DOCKER_CONTEXT": "far",
        "DOCKER_CERT_PATH": "/own",
        "DOCKER_TLS_VERIFY": "1",
    }
    found = with_context(given)
    assert "DOCKER_CERT_PATH" not in found
    assert "DOCKER_TLS_VERIFY" not in found
    certificates.mkdir(parents=True)
    found = with_context(given)
    assert (found["DOCKER_CERT_PATH"], found["DOCKER_TLS_VERIFY"]) == (str(certificates), verify)


DAMAGED: dict[str, tuple[object, str]] = {
    "gone": (None, "there is no docker context 'other'"),
    "not-json": ("{", "docker's settings cannot be read"),
    "no-endpoint": ({"Name": "other", "Endpoints": {}}, "docker's settings cannot be read"),
    "no-host": ({"Endpoints": {"docker": {}}}, "docker's settings cannot be read"),
    "deep": ("[" * 100_000, "docker's settings cannot be read"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_one_that_cannot_be_read_is_refused(config: Path, case: str) -> None:
    content, words = DAMAGED[case]
    if content is not None:
        write(config, "other", content)
    with pytest.raises(HostError) as caught:
        environment({"DOCKER_CONFIG": str(config), "DOCKER_CONTEXT": "other"})
    assert words in caught.value.message
    assert "docker context ls" in caught.value.hint


def test_settings_that_cannot_be_read_are_refused(config: Path) -> None:
    (config / "config.json").write_text("{")
    with pytest.raises(HostError, match="docker's settings cannot be read"):
        environment({"DOCKER_CONFIG": str(config)})


def test_its_engine_is_a_remote_one(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CPU is not this machine's, and its servers are reached by its name."""
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"here"}))
    monkeypatch.setattr(DockerEngine, "owned_images", lambda _: [])
    assert DockerEngine().known_cpu_flags() == frozenset({"here"})
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    engine = DockerEngine()
    assert engine.known_cpu_flags() is None
    assert engine._remote_host() == "builder.example.org"


# ---- over ssh


def test_ssh_without_what_it_takes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://me:secret@builder.example.org")
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(HostError) as caught:
        DockerEngine().verify()
    text = " ".join(refusal(caught))
    assert "an engine over ssh needs the Python package paramiko" in text
    assert f"{sys.executable} -m pip install 'docker[ssh]'" in text
    assert "secret" not in text


@pytest.mark.parametrize("kind", ["ssh", "os"])
def test_ssh_that_does_not_connect_is_no_traceback(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    class Refused(Exception):
        """As paramiko.SSHException, which is neither an OSError nor one of the SDK's."""

    def from_env(**_: object) -> object:
        raise Refused("Authentication failed.") if kind == "ssh" else ConnectionRefusedError(111, "Connection refused")

    paramiko = ModuleType("paramiko")
    monkeypatch.setattr(paramiko, "SSHException", Refused, raising=False)
    monkeypatch.setitem(sys.modules, "paramiko", paramiko)
    monkeypatch.setattr(connection.load_sdk(), "from_env", from_env)
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@builder.example.org")
    with pytest.raises(HostError, match=r"no container engine answers: (Authentication failed|Connection refused)"):
        DockerEngine().verify()
