"""Makes stand-ins for base images that cannot be pulled, out of Debian roots, and puts them into a registry.

    PYTHONPATH=tests python -m standins.make rockylinux:9 127.0.0.1:5000     builds, pushes, prints NAME@DIGEST

A stand-in answers to the name of another distribution's image: its os-release, and for EL yum or dnf with EL's names of
packages and repositories, a database of rpm with EL's names and paths, libraries in /usr/lib64, bash as sh; the one
of EL 7 refuses options that its tar, make and gcc do not know (el/old.tsv). So Dockerfiles, lists of packages, pins,
guest scripts and packaging of these families run as code. The programs and libraries are Debian's: compiler and C
library are newer than the real ones (`gcc` of standins.yaml, which a copy of matrix.yaml must say), so that a package
built on a stand-in proves nothing about one built on the real image.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from engine_images import OWN, STAND_IN, note
from standins.registry import Registry

from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import files
from pikaforge.pipeline.image import bootstrap
from pikaforge.pipeline.image.base_image import Base

HERE = Path(__file__).resolve().parent
MATRIX = HERE.parents[1] / "matrix.yaml"
REPOSITORY = f"{OWN}standin"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """A stand-in, as standins.yaml describes it."""

    name: str
    """Of the image that it stands in for, such as `rockylinux:9`."""
    entry: str
    """The image entry of matrix.yaml that has this name as its base."""
    root: str
    """The image entry whose Debian root it is made of."""
    gcc: str
    os_release: dict[str, str]
    release: str = ""
    """Of EL; "" for Ubuntu."""

    def os_release_text(self) -> bytes:
        """Its /etc/os-release, which says what it is."""
        pretty = f"{self.os_release['NAME']} {self.os_release['VERSION']}, a stand-in made of Debian's packages"
        values = {**self.os_release, "PRETTY_NAME": pretty, "VARIANT_ID": "standin"}
        return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items()).encode()


def known() -> dict[str, StandIn]:
    """All stand-ins by the name of the image that they stand in for."""
    content: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "standins.yaml").read_text(encoding="utf-8"))
    return {name: StandIn(name=name, **fields) for name, fields in content.items()}


def use(matrix: dict[str, Any], registry: str, *names: str) -> None:
    """Edit the content of a matrix.yaml: the images of these stand-ins (else of all) come from a registry with them.

    Their libraries are those of the Debian root, and so are the waivers.
    """
    for name, standin in known().items():
        if not names or name in names:
            entry = matrix["images"][standin.entry]
            entry.pop("bootstrap", None)
            entry.update(base=f"{registry}/{name}", gcc=standin.gcc)
            for waiver in list(matrix.get("waivers", ())):
                if fnmatchcase(standin.root, waiver.get("image", "")):
                    matrix["waivers"].append({**waiver, "image": standin.entry})


def build(name: str) -> str:
    """Make the stand-in for an image in the engine, unless it is there; its tag."""
    standin = known()[name]
    engine = DockerEngine()
    with tempfile.TemporaryDirectory() as scratch:
        base = _root(engine, standin.root, Path(scratch))
        context: dict[str, bytes | Path] = {"Dockerfile": HERE / "Dockerfile", "os-release": standin.os_release_text()}
        if standin.release:
            context.update({path.name: path for path in sorted((HERE / "el").iterdir())})
        root = engine.image(base)
        assert root is not None
        archive = files(context)
        tag = note(f"{REPOSITORY}:{standin.entry}-{sha256(archive + root.id.encode()).hexdigest()[:16]}")
        if engine.image(tag) is None:
            log = Path(scratch) / "log"
            made = engine.build(
                context=archive,
                target="el" if standin.release else "ubuntu",
                tag=tag,
                args={"BASE": base, **({"RELEASE": standin.release} if standin.release else {})},
                labels={STAND_IN: name},
                log=log,
            )
            if made is None:
                sys.exit(f"the stand-in for {name} could not be built:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return tag


def _root(engine: DockerEngine, entry: str, scratch: Path) -> str:
    """The bootstrapped root of an image entry: the one that the tool has made, or would make."""
    suite = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))["images"][entry]["bootstrap"]
    tag = Base(image=entry, suite=suite).tag
    if engine.image(tag) is None:
        archive = scratch / "root.tar"
        bootstrap.root_tar(suite, archive, mirror=None, log=scratch / "log")
        engine.import_tar(archive, tag, {"org.pikaforge.base": suite})
    return tag


def main(arguments: list[str]) -> None:
    """Build and push what the command line names."""
    if len(arguments) != 2 or arguments[0] not in known():
        sys.exit(f"usage: python -m standins.make NAME REGISTRY\nNAME is one of: {' '.join(known())}")
    name, address = arguments
    digest = Registry(address=address).push(build(name), name)
    print(f"{address}/{name.partition(':')[0]}@{digest}")


if __name__ == "__main__":
    main(sys.argv[1:])
