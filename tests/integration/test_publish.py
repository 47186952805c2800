"""`publish` as a user calls it: packages that the pipeline built, into folders; dry runs, repetition, back and on."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import documented
import pytest
import yaml
from integration.builds import ALL_FORMATS, ENDED, SampleBuild
from integration.dav import WRITER, Dav, dav_of, fetched, nginx_image
from integration.keys import Key, new_key
from own_engine import small_disk

from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, EXIT_PUBLISH
from pikaforge.host.store import locked

if TYPE_CHECKING:
    from conftest import Done, Engine, Project, Tool

    from .conftest import Shop, Warm

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("publish"),
    pytest.mark.long(130),
    pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg"),
]

PLACE = "debian12/R620"
NOTHING = "nothing was changed: this was a dry run; --yes makes the changes"
THERE = "everything is there already: nothing was uploaded"


@dataclass(slots=True)
class House:
    """A project with packages, and a key."""

    project: Project
    key: Key
    folder: Path

    def publish(
        self,
        *args: str | Path,
        check: int | None = EXIT_DONE,
        signed: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run `publish` in this project; a CI system is not told of unless it is asked for."""
        return self.project.tool(*self.arguments(*args), env=self.environment(signed=signed, env=env), check=check)

    def arguments(self, *args: str | Path) -> list[str]:
        return ["publish", *map(str, args), *self.project.places]

    def environment(self, *, signed: bool = True, env: Mapping[str, str] | None = None) -> dict[str, str]:
        key = dict(self.key.environment) if signed else dict.fromkeys(self.key.environment, "")
        return {**key, **(env or {})}

    def project_url(self, name: str) -> str:
        """Where clients find a destination."""
        return str(yaml.safe_load(self.project.matrix.read_text())["publish"][name]["clients"])

    def root(self, name: str) -> Path:
        """The folder of a destination."""
        return self.project.folder / ("repo" if name == "repo" else f"repo-{name}")

    def tree(self, name: str) -> dict[str, str]:
        """Digests of all that a destination has, links among them."""
        found = {}
        for path in sorted(self.root(name).rglob("*")):
            relative = str(path.relative_to(self.root(name)))
            if path.is_symlink():
                found[relative] = f"-> {path.readlink()}"
            elif path.is_file() and path.name != ".lock":
                found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


@pytest.fixture(scope="module")
def built(shop: Shop, sample_build: Callable[..., SampleBuild], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """R620 in all formats and R720, not signed."""
    project = shop.ready(tmp_path_factory.mktemp("publish"))
    shop.take(project, *ENDED, build=sample_build("R620", "--formats", ALL_FORMATS))
    project.build("R620", "--formats", ALL_FORMATS, check=0)
    project.build("R720", "--formats", "tar", check=0)
    return project


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    """The release key."""
    with new_key(tmp_path_factory.mktemp("key"), passphrase="CANARY-9d2e") as made:
        yield made


@pytest.fixture(scope="module")
def signed(built: Project, key: Key) -> Project:
    """The same packages, signed by a publication."""
    house = House(built, key, built.folder)
    done = house.publish("all", "--to", "repo", "--yes")
    assert done.lines(r"^signed \d+ files that the build has left unsigned$")
    shutil.rmtree(house.root("repo"))
    return built


@pytest.fixture
def house(signed: Project, key: Key, tmp_path: Path, tool: Tool) -> Iterator[House]:
    """A project of the test's own, with the built packages."""
    project = type(signed)(tmp_path, tool)
    shutil.copytree(signed.dist, project.dist)
    yield House(project, key, tmp_path)


@pytest.fixture(scope="module")
def published(signed: Project, key: Key, tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> tuple[House, Done]:
    """Everything in `staging`, to look at and not to be changed; and what was said."""
    folder = tmp_path_factory.mktemp("published")
    project = type(signed)(folder, tool)
    shutil.copytree(signed.dist, project.dist)
    house = House(project, key, folder)
    return house, house.publish("all", "--to", "staging", "--yes")


class TestDryRun:
    def test_nothing_is_changed_without_yes(self, house: House) -> None:
        done = house.publish("R620", "--to", "staging")
        assert NOTHING in done.stdout
        assert done.lines(r"^  debian12/R620: generation none → 1$")
        assert len(done.lines(r"^    \+ ")) == 7
        assert not house.root("staging").exists()

    def test_twice_with_yes_uploads_nothing_the_second_time(self, house: House) -> None:
        (command,) = documented.commands("docs/operating.md", "Offline sites")
        words = command.removeprefix("nox -s publish -- ").split()
        first = house.publish(*words)
        assert first.lines(r"^  done: 33 files were written; see .*/repo/index.html$")
        before = house.tree("repo")
        second = house.publish(*words)
        assert THERE in second.stdout
        assert house.tree("repo") == before
        assert NOTHING not in house.publish("R620", "--to", "repo").stdout

    def test_in_ci_naming_the_destination_is_enough(self, house: House) -> None:
        house.publish("R720", env={"CI": "true"})
        assert not house.root("repo").exists()
        house.publish("R720", "--to", "staging", env={"CI": "true"})
        assert (house.root("staging") / "debian12/R720/repository.json").is_file()

    def test_json_tells_scripts(self, house: House) -> None:
        (told,) = json.loads(house.publish("R620", "--to", "staging", "--json").stdout)
        assert (told["to"], told["done"], told["changes"]) == ("staging", False, True)
        (repository,) = told["repositories"]
        assert (repository["path"], repository["generation"], repository["next"]) == (PLACE, 0, 1)
        assert "x86_64/pika-3.4.0-1.R620.debian12.x86_64.rpm" in repository["added"]

    def test_several_destinations_at_once(self, house: House) -> None:
        house.publish("R720", "--to", "staging,stable", "--yes")
        assert set(house.tree("staging")) == set(house.tree("stable"))


class TestWhatIsPublished:
    def test_everything_is_verified_by_the_tool_itself(self, published: tuple[House, Done], tool: Tool) -> None:
        house, _ = published
        files = (house.root("staging") / PLACE).glob("*/pika*")
        packages = sorted(path for path in files if path.suffix in (".rpm", ".deb", ".gz", ".whl"))
        assert len(packages) == 7
        done = tool("verify", *packages, "--key", house.key.public, check=EXIT_DONE)
        assert done.stdout.count(": verified: all ") == 7

    def test_a_published_folder_is_verified_as_it_is(self, published: tuple[House, Done], tool: Tool) -> None:
        house, _ = published
        folders = [house.root("staging") / PLACE / name for name in ("x86_64", "debs", "tarballs", "wheels")]
        done = tool("verify", *folders, "--key", house.key.public, check=EXIT_DONE)
        assert done.stdout.count(": verified: all ") == 4

    def test_metadata_is_signed_by_the_key(self, published: tuple[House, Done]) -> None:
        house, _ = published
        place = house.root("staging") / PLACE
        for name in ("x86_64/repodata/repomd.xml", "x86_64/SHA256SUMS", "debs/Release"):
            suffix = ".gpg" if name.endswith("Release") else ".asc"
            house.key.gpg("--verify", f"{place / name}{suffix}", str(place / name))
        inside = house.key.gpg("--decrypt", str(place / "debs/InRelease"))
        assert inside.decode().split() == (place / "debs/Release").read_text().split()
        assert (house.root("staging") / "pika.asc").read_text().strip() == house.key.public.read_text().strip()

    def test_the_catalogue_tells_of_every_file(self, published: tuple[House, Done]) -> None:
        house, _ = published
        root = house.root("staging")
        catalogue = json.loads((root / "repo.json").read_text())
        assert catalogue["key"] == {"path": "pika.asc", "fingerprint": house.key.fingerprint}
        assert [repository["path"] for repository in catalogue["repositories"]] == [PLACE, "debian12/R720"]
        for repository in catalogue["repositories"]:
            for artifact in repository["artifacts"]:
                for file in (artifact, *artifact["beside"]):
                    data = (root / repository["path"] / file["path"]).read_bytes()
                    assert hashlib.sha256(data).hexdigest() == file["sha256"]
        page = (root / "index.html").read_text()
        artifacts = [artifact for repository in catalogue["repositories"] for artifact in repository["artifacts"]]
        assert all(artifact["sha256"] in page for artifact in artifacts)

    def test_no_secret_is_anywhere(self, published: tuple[House, Done]) -> None:
        house, done = published
        secret = "".join(house.key.secret.read_text().split("\n")[2:6])
        written = b"".join(path.read_bytes() for path in house.root("staging").rglob("*") if path.is_file())
        for text in ("CANARY-9d2e", secret[:40]):
            assert text not in done.text
            assert text.encode() not in written

    def test_the_key_may_be_in_the_environment_itself(self, house: House, tmp_path: Path) -> None:
        with new_key(tmp_path / "plain") as plain:
            house.publish(
                *("R720", "--to", "staging", "--yes"),
                env={"PIKAFORGE_SIGNING_KEY": plain.secret.read_text(), "PIKAFORGE_SIGNING_PASSPHRASE": ""},
            )
            sums = house.root("staging") / "debian12/R720/tarballs/SHA256SUMS"
            plain.gpg("--verify", f"{sums}.asc", str(sums))

    def test_reports_of_several_jobs_are_gathered(self, house: House) -> None:
        parts = house.project.dist
        whole = parts.rename(parts.with_name("whole"))
        report = json.loads((whole / "report.json").read_text())
        for cell in report["cells"]:
            folder = parts / f"packages-{cell['id']}"
            shutil.copytree(whole / "debian12", folder / "debian12")
            (folder / "report.json").write_text(json.dumps({**report, "sha256": "", "cells": [cell]}))
        house.publish("all", "--to", "staging", "--yes")
        assert (house.root("staging") / "debian12/R720/tarballs/pika-v3.4.0-R720.tar.gz").is_file()
        assert (house.root("staging") / PLACE / "wheels/index.html").is_file()


class TestRefusals:
    def refused(self, done: Done, *words: str) -> None:
        for word in words:
            assert word in done.stderr
        assert "Traceback" not in done.text

    def test_what_was_not_built(self, house: House) -> None:
        done = house.publish("R640", "--to", "staging", "--yes", check=EXIT_CONFIG)
        self.refused(done, "nothing of R640 is in", "build it first: nox -s build -- R640")

    def test_nothing_selected(self, house: House) -> None:
        self.refused(house.publish("--to", "staging", check=EXIT_CONFIG), "nothing is selected")

    def test_a_destination_that_is_not_there(self, house: House) -> None:
        done = house.publish("R620", "--to", "stage", check=EXIT_CONFIG)
        self.refused(done, "there is no destination 'stage'", "did you mean stable or staging?")

    def test_a_package_that_was_altered_after_its_build(self, house: House) -> None:
        package = house.project.package()
        package.write_bytes(package.read_bytes() + b"!")
        for yes in ((), ("--yes",)):
            done = house.publish("R620", "--to", "staging", *yes, check=EXIT_PUBLISH)
            self.refused(done, "not what the report says", package.name)
        assert not house.root("staging").exists()
        assert house.publish("R720", "--to", "staging", "--yes").returncode == EXIT_DONE

    def test_a_cell_that_failed(self, house: House) -> None:
        path = house.project.dist / "report.json"
        report = json.loads(path.read_text())
        for cell in report["cells"]:
            cell["status"] = "failed"
        path.write_text(json.dumps({**report, "sha256": ""}))
        done = house.publish("all", "--to", "staging", check=EXIT_CONFIG)
        self.refused(done, "of the last runs these failed: R620-debian12-none, R720-debian12-none")

    def test_a_signed_repository_wants_a_key(self, house: House) -> None:
        house.publish("R620", "--to", "staging", "--yes")
        done = house.publish("R620", "--to", "staging", signed=False, check=EXIT_PUBLISH)
        self.refused(done, "there is no key to sign with", house.key.fingerprint)

    def test_other_bytes_under_the_same_name(self, house: House) -> None:
        house.publish("R720", "--to", "staging", "--yes")
        before = house.tree("staging")
        self.other_bytes(house)
        done = house.publish("R720", "--to", "staging", "--yes", check=EXIT_PUBLISH)
        self.refused(done, "a package has other bytes", "pika-v3.4.0-R720.tar.gz is", "--replace")
        assert house.tree("staging") == before
        house.publish("R720", "--to", "staging", "--yes", "--replace")
        there = house.root("staging") / "debian12/R720/tarballs/r2/pika-v3.4.0-R720.tar.gz"
        assert there.read_bytes().endswith(b"other")

    @staticmethod
    def other_bytes(house: House) -> None:
        """Another build of R720, as its report tells."""
        package = house.project.package("R720")
        package.write_bytes(package.read_bytes() + b"other")
        path = house.project.dist / "report.json"
        report = json.loads(path.read_text())
        for cell in report["cells"]:
            for artifact in cell["artifacts"]:
                if artifact["path"].endswith(package.name):
                    artifact["sha256"] = hashlib.sha256(package.read_bytes()).hexdigest()
        path.write_text(json.dumps({**report, "sha256": ""}))


class TestHistory:
    @staticmethod
    def offered(house: House) -> list[str]:
        """The packages of R720's newest generation."""
        state = json.loads((house.root("staging") / "debian12/R720/repository.json").read_text(encoding="utf-8"))
        found: list[str] = max(state["generations"], key=lambda each: int(each["number"]))["artifacts"]
        return found

    def test_back_and_on(self, house: House) -> None:
        house.publish("R720", "--to", "staging", "--yes")
        TestRefusals.other_bytes(house)
        house.publish("R720", "--to", "staging", "--yes", "--replace")
        package = "tarballs/pika-v3.4.0-R720.tar.gz"
        assert package not in self.offered(house)  # it is in r2
        sums = house.root("staging") / "debian12/R720/tarballs/SHA256SUMS"
        assert "pika-v3.4.0-R720.tar.gz\n" in sums.read_text(), "it is still there, so its digest is"
        before = house.tree("staging")
        dry = house.publish("R720", "--rollback", "--to", "staging")
        assert dry.lines(r"^  debian12/R720: generation 2 → 3 \(the contents of 1 again\)$")
        assert NOTHING in dry.stdout
        assert house.tree("staging") == before
        house.publish("R720", "--rollback", "--to", "staging", "--yes")
        assert package in self.offered(house)
        done = house.publish("R720", "--rollback", "--to", "staging", "--yes", check=EXIT_PUBLISH)
        assert "there is no generation before the current one" in done.stderr

    def test_promoting_copies_without_building(self, house: House) -> None:
        """The three ways to write the arrow are one: each is part of it."""
        house.publish("R720", "--to", "staging", "--yes")
        shutil.rmtree(house.project.dist)
        assert NOTHING in house.publish("--promote", "staging→stable").stdout
        assert not house.root("stable").exists()
        house.publish("--promote", "staging:stable", "--yes")
        packages = [name for name in house.tree("staging") if name.endswith(".gz")]
        assert len(packages) == 2
        assert {name: house.tree("stable")[name] for name in packages} == {
            name: house.tree("staging")[name] for name in packages
        }
        assert THERE in house.publish("--promote", "staging->stable", "--yes").stdout

    def test_promoting_a_part(self, published: tuple[House, Done]) -> None:
        house, _ = published
        house.publish("R720", "--promote", "staging:stable", "--yes")
        assert {path.name for path in (house.root("stable") / "debian12").iterdir() if path.is_symlink()} == {"R720"}

    def test_promoting_from_nothing_and_to_nowhere(self, house: House) -> None:
        done = house.publish("--promote", "staging:stable", check=EXIT_CONFIG)
        assert "nothing of all is published to staging" in done.stderr
        done = house.publish("--promote", "staging", check=EXIT_CONFIG)
        assert "does not name two destinations" in done.stderr


@pytest.fixture(scope="module")
def server(engine: Engine, warm: Warm, until: Callable[..., None]) -> Iterator[Dav]:
    """nginx with WebDAV, which wants a user and a password of those who write."""
    with dav_of(engine, nginx_image(engine, warm), until) as dav:
        yield dav


@pytest.fixture
def vault(house: House, server: Dav, request: pytest.FixtureRequest) -> Dav:
    """The destination `vault`: a root of the test's own on the server."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    server.exec("install", "-d", "-o", "www-data", f"{server.root}/{name}")
    mine = replace(server, root=f"{server.root}/{name}")
    entry = {"kind": "http", "url": f"{server.url}/{name}", "clients": f"{server.readers}/{name}"}
    house.project.change(lambda matrix: matrix["publish"].update(vault=entry))
    return mine


WHO = {"PIKAFORGE_VAULT_USER": WRITER.user, "PIKAFORGE_VAULT_PASSWORD": WRITER.password}


class TestServer:
    """Point for point as with folders, by HTTP."""

    def test_packages_are_published_once_and_verified(self, house: House, vault: Dav, tool: Tool) -> None:
        dry = house.publish("R620", "--to", "vault", env=WHO)
        assert NOTHING in dry.stdout
        assert vault.listing() == []
        house.publish("R620", "--to", "vault", "--yes", env=WHO)
        before = vault.listing()
        again = house.publish("R620", "--to", "vault", "--yes", env=WHO)
        assert THERE in again.stdout
        assert vault.listing() == before
        clients = house.project_url("vault")
        for name in ("x86_64/pika-3.4.0-1.R620.debian12.x86_64.rpm", "debs/pika_3.4.0-1.R620.debian12_amd64.deb"):
            done = tool("verify", f"{clients}/{PLACE}/{name}", "--key", house.key.public, check=EXIT_DONE)
            assert "verified: all" in done.stdout
        status, data = fetched(f"{clients}/debian12/pika.repo") or (0, b"")
        assert status == 200
        assert f"baseurl={clients}/debian12/$pikamodel/x86_64/\n" in data.decode()

    def test_what_is_on_the_server_is_that_of_a_folder(self, house: House, vault: Dav) -> None:
        house.publish("R720", "--to", "staging", "--yes")
        house.publish("R720", "--to", "vault", "--yes", env=WHO)
        listed = {name.removeprefix("./") for name in vault.listing()}
        place = house.root("staging") / "debian12/R720"
        assert {f"debian12/R720/{path.relative_to(place)}" for path in place.rglob("*") if path.is_file()} <= listed
        assert {"index.html", "repo.json", "pika.asc", "utils/detect-model.sh"} <= listed

    def test_credentials_may_be_in_a_netrc_or_a_file(self, house: House, vault: Dav, tmp_path: Path) -> None:
        netrc, file = tmp_path / "netrc", tmp_path / "file"
        host = urlsplit(vault.url).hostname
        netrc.write_text(f'machine {host} login {WRITER.user} password "{WRITER.password}"\n')
        file.write_text(f"{WRITER.user}:{WRITER.password}\n")
        for path in (netrc, file):
            path.chmod(0o600)
        house.publish("R720", "--to", "vault", "--yes", env={"NETRC": str(netrc)})
        done = house.publish("R720", "--to", "vault", "--yes", env={"PIKAFORGE_VAULT_CREDENTIALS": str(file)})
        assert THERE in done.stdout

    def test_wrong_ones_are_told_with_what_to_do(self, house: House, vault: Dav) -> None:
        wrong = {**WHO, "PIKAFORGE_VAULT_PASSWORD": "CANARY-77"}
        for env in (wrong, {"NETRC": "/dev/null"}):
            done = house.publish("R720", "--to", "vault", "--yes", check=EXIT_PUBLISH, env=env)
            assert "401" in done.stderr
            assert "PIKAFORGE_VAULT_USER and PIKAFORGE_VAULT_PASSWORD" in done.stderr
            assert "CANARY-77" not in done.text
            assert "Traceback" not in done.text
        assert vault.listing() == []

    def test_promoted_from_a_folder_to_the_server_and_on_to_another_folder_and_back(
        self, house: House, vault: Dav
    ) -> None:
        house.publish("R720", "--to", "staging", "--yes")
        house.publish("--promote", "staging:vault", "--yes", env=WHO)
        house.publish("--promote", "vault:stable", "--yes", env=WHO)
        name = "debian12/R720/tarballs/pika-v3.4.0-R720.tar.gz"
        assert house.tree("stable")[f"debian12/.R720.generations/1/tarballs/{Path(name).name}"]
        TestRefusals.other_bytes(house)
        house.publish("R720", "--to", "vault", "--yes", "--replace", env=WHO)
        house.publish("R720", "--to", "vault", "--rollback", "--yes", env=WHO)
        sums = fetched(f"{house.project_url('vault')}/debian12/R720/tarballs/SHA256SUMS")
        assert sums is not None
        package = (house.root("stable") / name).read_bytes()
        assert f"{hashlib.sha256(package).hexdigest()}  {Path(name).name}\n" in sums[1].decode()


class TestTrouble:
    def test_a_full_disk_leaves_what_was_there(self, house: House) -> None:
        with small_disk("6m") as disk:
            house.project.change(lambda matrix: matrix["publish"]["staging"].update(path=str(disk / "root")))
            house.publish("R720", "--to", "staging", "--yes")
            before = set(disk.rglob("*"))
            done = house.publish("R620", "--to", "staging", "--yes", check=EXIT_PUBLISH)
            assert "No space left on device" in done.stderr
            assert "nothing was changed" in done.stderr
            assert set(disk.rglob("*")) - before <= {disk / "root/debian12/.R620.generations"}
            assert THERE in house.publish("R720", "--to", "staging", "--yes").stdout

    def test_two_publishers_wait_for_each_other(self, house: House, tool: Tool) -> None:
        house.publish("R720", "--to", "staging", "--yes")
        arguments = house.arguments("R620", "--to", "staging", "--yes")
        with locked(house.root("staging") / ".lock"), tool.start(*arguments, env=house.environment()) as running:
            running.wait_for("^note: waits for another publisher of ")
            assert not (house.root("staging") / PLACE).exists()
        with (
            tool.start(*house.arguments("R620", "--to", "staging", "--yes"), env=house.environment()) as first,
            tool.start(*house.arguments("R720", "R620", "--to", "staging", "--yes"), env=house.environment()) as second,
        ):
            assert [first.finish().returncode, second.finish().returncode] == [0, 0]
        catalogue = json.loads((house.root("staging") / "repo.json").read_text())
        assert [r["path"] for r in catalogue["repositories"]] == [PLACE, "debian12/R720"]

    def test_a_killed_publisher_leaves_no_lock(self, house: House, tool: Tool, until: Callable[..., None]) -> None:
        with tool.start(*house.arguments("R620", "--to", "staging", "--yes"), env=house.environment()) as running:
            until((house.root("staging") / ".lock").exists, "the publisher is at it")
            running.signal(signal.SIGKILL)
            assert running.finish().returncode == -signal.SIGKILL
        done = house.publish("R620", "--to", "staging", "--yes")
        assert "waits for" not in done.text
        generations = house.root("staging") / "debian12/.R620.generations"
        assert all(path.name.isdecimal() for path in generations.iterdir())
