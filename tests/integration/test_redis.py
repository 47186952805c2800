"""Somebody else's tree through the whole pipeline: Debian's source package of redis, with its patches, two targets.

Only tests/products/redis says what redis is: configuration, a recipe, and a script that fetches the package with
apt's source client. Packages are compared byte for byte elsewhere; here it is shown that nothing but that folder is
needed, and that it was redis with Debian's patches that was built, checked and packed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.builds_of_redis import DOWNLOAD, MODELS, NO_WAY_TO_FETCH, REPOSITORY, RedisBuild, fetch, run_tool
from integration.judging import RPMLINT, WHEEL_CONTENTS, platform_tag, rpmlint, wheel_faults

from pikaforge.bench.journal import LoadJournal

# One worker, so that the trees are compiled once.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("redis"), pytest.mark.long(180)]


@pytest.fixture(scope="module")
def package(redis_build: RedisBuild) -> Path:
    """Debian's source package, of which the build was made."""
    assert redis_build.matrix.exists()
    return DOWNLOAD


@pytest.fixture(scope="module")
def build(redis_build: RedisBuild) -> RedisBuild:
    """Both models built."""
    return redis_build


def contents(archive: Path) -> dict[str, bytes]:
    """The regular files of a package, by name."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None:
                found[member.name] = stream.read()
    return found


def manifest(archive: Path) -> Any:
    return json.loads(contents(archive)["redis/manifest.json"])


def test_each_target_gets_its_own_server(build: RedisBuild) -> None:
    servers = {sha256(contents(build.package(model))["redis/bin/redis-server"]).hexdigest() for model in MODELS}
    assert len(servers) == len(MODELS), build.output
    described = [manifest(build.package(model)) for model in MODELS]
    assert [d["product"] for d in described] == ["redis", "redis"]
    assert [d["target"] for d in described] == ["sandybridge", "haswell"]


@pytest.mark.parametrize("model", MODELS)
def test_patches_of_the_package_are_applied_in_their_order(build: RedisBuild, package: Path, model: str) -> None:
    lines = (package / "patches" / "series").read_text(encoding="utf-8").splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    assert len(names) > 10
    applied = [(patch["name"], patch["sha256"]) for patch in manifest(build.package(model))["source"]["patches"]]
    assert [name for name, _ in applied] == [f"quilt download/patches/{name}" for name in names]
    assert [digest for _, digest in applied] == [
        sha256((package / "patches" / name).read_bytes()).hexdigest() for name in names
    ]
    # What the first of them does, in what was packed.
    conf = contents(build.package(model))["redis/conf/redis.conf"].decode()
    assert "\npidfile /run/redis/redis-server.pid\n" in conf


@pytest.mark.parametrize("model", MODELS)
def test_every_check_was_made(build: RedisBuild, model: str) -> None:
    checks = [entry["check"] for entry in yaml.safe_load(build.matrix.read_text(encoding="utf-8"))["product"]["smoke"]]
    assert {"string", "hash", "list", "set", "zset", "expiry", "lua", "snapshot"} <= set(checks)
    made = manifest(build.package(model))["checks"]
    assert [name for name in made if name in checks] == checks
    assert {"version", "start", "stop"} <= set(made)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_in_the_package_is_of_another_product(build: RedisBuild, model: str) -> None:
    for name, data in contents(build.package(model)).items():
        assert not re.search(rb"pika(?!forge)", name.encode() + b"\n" + data, re.IGNORECASE), name


@pytest.fixture(scope="module")
def every_format(build: RedisBuild, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in every format."""
    folder = tmp_path_factory.mktemp("formats")
    run_tool(build.matrix, build.out, folder, MODELS[0], "--os", "debian12", "--formats", "tar,rpm,deb,wheel")
    return folder / "debian12"


def test_every_format_is_made_and_verified(build: RedisBuild, every_format: Path) -> None:
    """Its tree has symbolic links, of which a wheel holds copies."""
    names = {path.name for path in every_format.iterdir()}
    assert {
        "redis-7.0.15-R620.tar.gz",
        "redis-7.0.15-1.R620.debian12.x86_64.rpm",
        "redis_7.0.15-1.R620.debian12_amd64.deb",
    } <= names
    assert any(re.fullmatch(r"redis_server-7[.]0[.]15[+]r620[.]debian12-py3-none-manylinux.*[.]whl", n) for n in names)
    said = run_tool(build.matrix, build.out, every_format.parent, str(every_format), "--unsigned", verb="verify")
    assert re.search(r": verified: all \d+ checks say yes", said), said
    licences = {"redis/licenses/redis/COPYING", "redis/licenses/redis/deps/lua/COPYRIGHT"}
    assert licences <= contents(every_format / "redis-7.0.15-R620.tar.gz").keys()


def test_the_judges_of_others_say_yes(every_format: Path, tmp_path: Path) -> None:
    """lintian, which takes longest, judges the sample alone: see test_judges.py."""
    [wheel] = every_format.glob("*.whl")
    assert wheel_faults(wheel, "--config", WHEEL_CONTENTS) == []
    assert wheel.name.endswith(f"-{platform_tag(wheel)}.whl")
    assert rpmlint(every_format.glob("*.rpm"), tmp_path, settings=RPMLINT.read_text(encoding="utf-8")) == []


def test_a_second_run_has_nothing_to_do(build: RedisBuild) -> None:
    before = {model: build.package(model).stat().st_mtime_ns for model in MODELS}
    output = run_tool(build.matrix, build.out, build.dist)
    assert "everything is up to date" in output
    assert " ..." not in output, output
    assert {model: build.package(model).stat().st_mtime_ns for model in MODELS} == before


def test_a_load_test_goes_on_where_it_was_interrupted(
    build: RedisBuild, tmp_path: Path, until: Callable[..., None]
) -> None:
    """This server has its keys in memory, and writes them to disk when it is stopped in good order."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "store").symlink_to(build.out / "store")
    journal = out / "bench/R620-debian12-none-load"
    words = ("R620", "--os", "debian12", "--keys", "60K", "--connections", "2", "--pipeline", "1")
    places = ("--matrix", str(build.matrix), "--out", str(out), "--dist", str(tmp_path / "dist"))

    def acknowledged() -> int:
        found = LoadJournal.open(journal) if journal.is_dir() else None
        return 0 if found is None else found.written()[0]

    argv = [sys.executable, "-m", "pikaforge", "bench", *words, *places]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "build")}
    with subprocess.Popen(argv, env=env, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as first:
        until(lambda: first.poll() is not None or acknowledged() > 2000, "keys were written", 240)
        first.send_signal(signal.SIGINT)
        said, _ = first.communicate(timeout=120)
    done = acknowledged()
    assert (first.returncode, 2000 < done < 60_000) == (130, True), said
    said = run_tool(build.matrix, out, tmp_path / "dist", *words, verb="bench")
    assert f"note: the load test goes on after {done:,} of 60,000 keys\n" in said
    whole = "60,000 keys written, 12,000 with a time to live; the server has 60,000 keys, 12,000 expires\n"
    assert whole in said
    facts = json.loads((out / "bench/R620-debian12-none-load.json").read_text(encoding="utf-8"))
    for when in ("before", "after"):
        (text,) = facts["load"]["allocator"][when]
        assert "mem_allocator:libc" in text["text"]
    assert not journal.exists()


def test_what_was_fetched_is_not_fetched_again(package: Path) -> None:
    before = (package.stat().st_ino, package.stat().st_mtime_ns)
    # Without a way to the network, to be sure.
    done = fetch(package, http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "redis.orig.tar.gz" in done.stdout
    assert (package.stat().st_ino, package.stat().st_mtime_ns) == before


def test_no_way_to_the_network_is_said(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("apt is not installed here")
    config = tmp_path / "apt.conf"
    config.write_text('Acquire::http::Proxy "http://127.0.0.1:9";\nAcquire::https::Proxy "http://127.0.0.1:9";\n')
    done = fetch(tmp_path / "download", APT_CONFIG=str(config))
    assert done.returncode == NO_WAY_TO_FETCH, done.stdout + done.stderr
    assert "fetch.sh: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apt.conf"], "it leaves nothing behind"


def test_a_damaged_download_is_replaced(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "download"
    shutil.copytree(package, copy)
    (copy / "redis.orig.tar.gz").write_bytes(b"half of it")
    done = fetch(copy)
    if done.returncode == NO_WAY_TO_FETCH:
        pytest.skip(f"Debian's source package cannot be fetched here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in copy.iterdir()} == {path.name for path in package.iterdir()}
    assert (copy / "redis.orig.tar.gz").read_bytes()[:2] == b"\x1f\x8b"
