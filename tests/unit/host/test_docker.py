"""What the container engine says, read: its limits, its errors, its archives."""

from __future__ import annotations

import http.client
import io
import os
import socket
import struct
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from docker.errors import APIError, DockerException

from pikaforge.errors import EngineError, FullDiskError, HostError
from pikaforge.host import connection, machine, podman, replies
from pikaforge.host.connection import SOCKETS, brief, engine_errors, environment
from pikaforge.host.container import unpack
from pikaforge.host.docker import DockerEngine
from pikaforge.host.http_session import timed_out
from pikaforge.host.images import _follow, _imported
from pikaforge.host.job import files
from pikaforge.host.replies import ContainerReply, EngineInfo, ImageReply

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max core file size        0                    unlimited            bytes
Max processes             {nproc:<20} {nproc:<20} processes
Max open files            1024                 {nofile:<20} files
Max pending signals       96364                96364                signals
"""


@pytest.mark.parametrize(
    ("nofile", "nproc", "expected"),
    [
        ("20000", "32768", {"nofile": 20000, "nproc": 32768}),
        ("524288", "unlimited", {"nofile": 524288}),  # podman's own default then does
        ("1073741816", "4194304", {"nofile": 1048576, "nproc": 1048576}),
    ],
)
def test_limits_of_the_engines_machine(nofile: str, nproc: str, expected: Mapping[str, int]) -> None:
    assert podman.hard_limits(LIMITS.format(nofile=nofile, nproc=nproc)) == expected


@pytest.mark.parametrize("text", ["", "cat: /proc/7/limits: No such file or directory\n"])
def test_limits_that_cannot_be_seen(text: str) -> None:
    assert podman.hard_limits(text) == {}


def test_which_engine_it_is() -> None:
    options = {"OSType": "linux", "ServerVersion": "20.10.24", "SecurityOptions": ["name=seccomp", "name=rootless"]}
    docker = replies.parse(EngineInfo, options)
    assert not docker.podman
    assert not docker.rootless, "docker without root sets limits"
    rootful, rootless = (replies.parse(EngineInfo, {"BuildahVersion": "1.28.2", "Rootless": x}) for x in (False, True))
    assert (rootful.podman, rootful.rootless) == (True, False)
    assert (rootless.podman, rootless.rootless) == (True, True)


def test_an_image_may_have_no_labels_and_no_digests() -> None:
    bare = replies.parse(ImageReply, {"Id": "sha256:ab", "Config": {"Labels": None}, "RepoDigests": None, "More": [1]})
    assert (bare.id, bare.labels, bare.digests, bare.size) == ("sha256:ab", {}, None, None)
    full = replies.parse(ImageReply, {"Id": "i", "Config": {"Labels": {"a": "b"}}, "RepoDigests": ["n@d"], "Size": 7})
    assert (full.labels, full.digests, full.size) == ({"a": "b"}, ("n@d",), 7)


def test_the_address_of_a_container_is_in_one_of_its_networks() -> None:
    def address(*addresses: str | None) -> str:
        networks = {str(number): {"IPAddress": address} for number, address in enumerate(addresses)}
        return replies.parse(ContainerReply, {"NetworkSettings": {"Networks": networks}}).address

    assert address() == address("", None) == ""
    assert address("", "10.0.0.2", "10.0.1.2") == "10.0.0.2"


def test_an_answer_of_something_else_is_an_error() -> None:
    for answer in ("<html>", {}, {"Id": 7}, None):
        with pytest.raises(HostError, match=r"^the container engine's answer cannot be read: ") as caught:
            replies.parse(ImageReply, answer)
        assert "DOCKER_HOST" in caught.value.hint


# ---- errors


class Answer:
    """What an engine answered, as far as the SDK's errors look at it."""

    def __init__(self, status: int, reason: str = "Internal Server Error") -> None:
        self.status_code = status
        self.reason = reason
        self.url = "http+docker://localhost/v1.41/containers/x/start"


def said(text: str, status: int = 500) -> APIError:
    response: Any = Answer(status)
    return APIError("refused", response=response, explanation=text)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "container create: container-init binary not found on the host: stat /x/catatonit: no such",
            "install the package catatonit where podman runs",
        ),
        (
            'lookup init binary: could not find "catatonit" in one of [/usr/local/libexec/podman /usr/bin]',
            "install the package catatonit where podman runs",
        ),
        (
            "crun: cgroups in hybrid mode not supported, drop all controllers from cgroupv2: OCI runtime error",
            "install the package runc there",
        ),
        (
            "runc create failed: error during container init: error setting rlimit type 7: operation not permitted",
            "raise LimitNOFILE and LimitNPROC",
        ),
        (
            'plugin type="bridge" failed (add): failed to find plugin "bridge" in path',
            "netavark, aardvark-dns and iptables",
        ),
    ],
)
def test_errors_with_a_known_cause_say_what_to_do(text: str, advice: str) -> None:
    with pytest.raises(HostError) as caught, engine_errors(where="container x", hint="another"):
        raise said(text)
    assert caught.value.message == f"the engine failed: {text}"
    assert caught.value.where == "container x"
    assert advice in caught.value.hint
    assert "another" not in caught.value.hint


def test_other_errors_have_the_hint_of_who_asked() -> None:
    with pytest.raises(HostError) as caught, engine_errors("it could not", hint="ask again"):
        raise said("something\nelse")
    assert (caught.value.message, caught.value.hint) == ("it could not: something else", "ask again")


RUNC = "runc create failed: unable to start container process: unable to store init state: %!w(<nil>): unknown"
"""What runc said where the disk was full (version 1.1, under dockerd 20.10)."""


@pytest.mark.parametrize("full", ["/var/lib/docker", "/run"])
def test_a_full_disk_of_which_the_engine_says_nothing(monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    monkeypatch.setattr(connection, "_root", lambda: "/var/lib/docker")
    monkeypatch.setattr(connection, "has_no_room", lambda folder: str(folder) == full)
    monkeypatch.setattr(connection, "address", lambda: "unix:///var/run/docker.sock")
    with pytest.raises(FullDiskError) as caught, engine_errors(where="container x"):
        raise said(RUNC)
    assert caught.value.message == f"no space left in {full} of the container engine: {RUNC}"
    assert caught.value.where == "container x"
    for status in (404, 409):  # such errors come from no disk
        with pytest.raises(EngineError), engine_errors():
            raise said(RUNC, status)
    monkeypatch.setattr(connection, "address", lambda: "tcp://elsewhere:2376")
    with pytest.raises(EngineError), engine_errors():  # the folders here are not the engine's
        raise said(RUNC)


def refused() -> Exception:
    """What is raised where nothing listens any more."""
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            raise urllib3.exceptions.ProtocolError("Connection aborted.", error) from error
    except urllib3.exceptions.ProtocolError as error:
        try:
            raise requests.exceptions.ConnectionError(error) from error
        except requests.exceptions.ConnectionError as outer:
            return outer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (refused(), "Connection refused"),
        (urllib3.exceptions.ProtocolError("Response ended prematurely"), "Response ended prematurely"),
        (http.client.RemoteDisconnected("Remote end closed connection"), "Remote end closed connection"),
        (struct.error("unpack requires a buffer of 8 bytes"), "unpack requires a buffer of 8 bytes"),
        (DockerException("Error while fetching server API version"), "Error while fetching server API version"),
    ],
)
def test_a_dead_engine_has_its_true_name(error: Exception, reason: str) -> None:
    with pytest.raises(HostError) as caught, engine_errors():
        raise error
    said, _, now = caught.value.message.partition("; and now: ")
    assert said == f"the container engine does not answer any more: {reason}"
    assert now.startswith("a unit test must not use docker.from_env")
    assert "run this again" in caught.value.hint
    assert caught.value.exit_code == 3


def test_what_is_no_error_of_the_engine_passes() -> None:
    """A full disk of this machine, or the tool's own errors."""
    for error in (OSError(28, "No space left on device"), HostError("interrupted"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, engine_errors():
            raise error
        assert caught.value is error


def test_a_wait_that_is_over_is_no_dead_engine() -> None:
    pool: Any = None
    late = requests.exceptions.ConnectionError(urllib3.exceptions.ReadTimeoutError(pool, "", "Read timed out."))
    assert timed_out(late)
    assert timed_out(requests.exceptions.ReadTimeout())
    assert not timed_out(refused())
    assert not timed_out(ValueError())


def test_the_reason_is_at_the_bottom() -> None:
    assert brief(refused()) == "Connection refused"
    error = FileNotFoundError(2, "No such file or directory", "/run/podman/podman.sock")
    assert brief(error) == "No such file or directory: /run/podman/podman.sock"
    assert brief(said("the engine's\n own words")) == "the engine's own words"


# ---- where it is


def listen(path: Path, mode: int = 0o600) -> socket.socket:
    """Something that listens at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    path.chmod(mode)
    return server


def test_engines_of_this_machine_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's first, root's before the user's own; a path that is no socket is none."""
    with tempfile.TemporaryDirectory(prefix="pf-") as name:  # a socket's path has at most 107 bytes
        root, user = Path(name), f"{name}/user"
        monkeypatch.setattr(connection, "SOCKETS", [f"{name}{s}" if s.startswith("/") else s for s in SOCKETS])
        given = {"XDG_RUNTIME_DIR": user, "PATH": "/bin"}
        assert environment(given) == {**given, "DOCKER_HOST": ""}
        (root / "var/run").mkdir(parents=True)
        (root / "var/run/docker.sock").touch()
        with listen(Path(user, "podman/podman.sock")):
            assert environment(given)["DOCKER_HOST"] == f"unix://{user}/podman/podman.sock"
            assert environment({"PATH": "/bin"})["DOCKER_HOST"] == ""
            with listen(root / "run/podman/podman.sock"):
                assert environment(given)["DOCKER_HOST"] == f"unix://{name}/run/podman/podman.sock"
                (root / "var/run/docker.sock").unlink()
                with listen(root / "var/run/docker.sock"):
                    assert environment(given)["DOCKER_HOST"] == f"unix://{name}/var/run/docker.sock"
                    named = {**given, "DOCKER_HOST": "tcp://builder:2376"}
                    assert environment(named) == named


def test_a_socket_that_this_user_may_not_open_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="pf-") as name:
        paths = (f"{name}/docker.sock", f"{name}/podman.sock")
        monkeypatch.setattr(connection, "SOCKETS", paths)
        monkeypatch.setattr(os, "access", lambda path, _mode: str(path) == paths[1])
        with listen(Path(paths[0])), listen(Path(paths[1])):
            assert environment({})["DOCKER_HOST"] == f"unix://{paths[1]}"


# ---- images


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"status":"sha256:ab"}\n', "sha256:ab"),  # docker
        ('{"status":"Copying"}\n{"status":"sha256:ab","progress":"","id":"sha256:ab"}\n\n', "sha256:ab"),  # podman
        ("", ""),
        ("no JSON", ""),
        ("[]", ""),
    ],
)
def test_the_id_of_an_import(answer: str, found: str) -> None:
    assert _imported(answer) == found


def test_a_pull_that_fails_after_its_begin() -> None:
    """The status is 200 by then; what went wrong is among the events."""
    _follow("a:b", iter([{"status": "Pulling fs layer"}, {"status": "Download complete"}]))
    with pytest.raises(HostError, match=r"^cannot pull a:b: reading manifest: manifest unknown$"):
        _follow("a:b", iter([{"status": "Pulling"}, {"error": "reading manifest:\n manifest unknown"}]))


# ---- archives


class Unpacked:
    """A container that keeps what is put into it."""

    def __init__(self) -> None:
        self.data = b""

    def put_archive(self, _path: str, data: Any) -> bool:
        self.data = data.read() if hasattr(data, "read") else b"".join(data)
        return True


def put(archive: bytes, *, bare: bool) -> bytes:
    container: Any = Unpacked()
    unpack(container, "/forge", archive, bare=bare)
    sent: bytes = container.data
    return sent


@pytest.mark.parametrize("content", [b"x", b"\0" * 5000, b"", b"y" * 512])
def test_nothing_follows_the_end_of_an_archive(content: bytes) -> None:
    """Zeros at the end of the last file are of it, and stay."""
    archive = files({"a/deep/folder": b"1", "last": content}) + bytes(100_000)
    sent = put(archive, bare=True)
    assert archive.startswith(sent)
    with tarfile.open(fileobj=io.BytesIO(sent)) as tar:
        member = tar.extractfile("last")
        assert member is not None
        assert member.read() == content
    content_blocks = -(-len(content) // 512)
    assert len(sent) == 512 * (2 + 2 + 1 + content_blocks + 2), "two folders, a file, this file, the end"
    assert put(archive, bare=False) == archive


@pytest.mark.parametrize(
    "archive", [b"", b"\x1f\x8b compressed, or no archive at all" * 50, files({"cut": bytes(2000)})[:1024]]
)
def test_what_is_no_plain_archive_is_sent_whole(archive: bytes) -> None:
    assert put(archive, bare=True) == archive


def test_limits_that_are_set_in_the_container() -> None:
    argv = podman.limited(("/forge/tree/bin/server", "-c", "a b"), {"core": 0, "nofile": 300, "nproc": 7})
    assert argv[:2] == ("/bin/sh", "-c")
    assert argv[3:] == ("300", "/forge/tree/bin/server", "-c", "a b")
    assert podman.limited(("true",), {"core": 0})[3:] == ("", "true")


# ---- whose CPU it is


def _asked(monkeypatch: pytest.MonkeyPatch, host: str, held: list[str]) -> tuple[DockerEngine, list[str]]:
    """An engine behind DOCKER_HOST with these images, and those that were looked with."""
    images: list[str] = []

    def look(_: DockerEngine, image: str) -> frozenset[str]:
        images.append(image)
        return frozenset({"there"})

    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"here"}))
    monkeypatch.setattr(DockerEngine, "cpu_flags", look)
    monkeypatch.setattr(DockerEngine, "owned_images", lambda _: [(image, (), 0) for image in held])
    return DockerEngine(), images


def test_a_local_engine_has_the_cpu_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, images = _asked(monkeypatch, "unix:///run/podman/podman.sock", ["sha256:1"])
    assert (engine.known_cpu_flags(), images) == (frozenset({"here"}), [])


@pytest.mark.parametrize("host", ["tcp://192.0.2.1:2375", "ssh://me@example.org"])
def test_a_remote_engine_is_asked_by_an_image_that_it_holds(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    engine, images = _asked(monkeypatch, host, ["sha256:1", "sha256:2"])
    assert (engine.known_cpu_flags(), images) == (frozenset({"there"}), ["sha256:1"])
    engine, images = _asked(monkeypatch, host, [])
    assert (engine.known_cpu_flags(), images) == (None, []), "nothing can tell yet"


def test_a_container_that_is_started_while_the_run_ends_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`abort` cannot kill what does not run yet."""
    done: list[str] = []
    engine = DockerEngine()

    class Starting:
        id = "c1"

        def start(self) -> None:
            engine.abort()
            done.append("started")

    monkeypatch.setattr(engine, "_kill", lambda container: done.append(f"killed {container.id}"))
    engine._start(Starting())  # type: ignore[arg-type]
    assert done == ["started", "killed c1"]
