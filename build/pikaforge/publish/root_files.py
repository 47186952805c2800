"""The files of a root, about all its repositories: for clients, for programs, and for people."""

from __future__ import annotations

from collections.abc import Iterable

from pikaforge.config.families import managed_by
from pikaforge.config.schema import Spec
from pikaforge.formats import client_lines
from pikaforge.formats.format import Format, InstallOffer, every, of
from pikaforge.publish import client_config
from pikaforge.publish.page import page
from pikaforge.publish.state import CATALOGUE, Artifact, Catalogue, Repository, text

INDEX = "index.html"
APT = "dpkg"
"""The package manager of the OS families that use apt."""


def root_files(catalogue: Catalogue, spec: Spec, *, key: str | None) -> dict[str, bytes]:
    """Return the files by path, in the order in which they are to be written.

    Args:
        catalogue: the repositories of the root.
        spec: the matrix, for facts about models and images.
        key: the public key that signs, in text form; None if nothing is signed.
    """
    return {
        **_configuration(catalogue, spec),
        client_lines.SCRIPT_PATH: _script(catalogue, spec, key=key),
        CATALOGUE: text(catalogue),
        INDEX: _index(catalogue, spec).encode(),
    }


def _formats(repositories: Iterable[Repository]) -> list[Format]:
    """Return the formats of all packages, in the order of the registry."""
    names = {artifact.format for repository in repositories for artifact in repository.artifacts}
    return [kind for kind in every() if kind.name in names]


def _offer(catalogue: Catalogue, spec: Spec, image: str, *, model: str | None, **changes: str) -> InstallOffer:
    """Return the offer for client machines; by default the product itself, for machines that find their model."""
    given = {"package": catalogue.product, "version": "", "path": image, **changes}
    return InstallOffer(
        product=catalogue.product,
        image=image,
        os=spec.images[image].os if image in spec.images else None,  # it may have been taken out of the matrix
        model=model,
        package=given["package"],
        version=given["version"],
        base_url=catalogue.url,
        path=given["path"],
        key_url=f"{catalogue.url}/{catalogue.key.path}" if catalogue.key else None,
        port=str(spec.product.server.port) if spec.product.server is not None else "",
    )


def _configuration(catalogue: Catalogue, spec: Spec) -> dict[str, bytes]:
    """Return the files for package managers."""
    found: dict[str, str] = {}
    for repository in catalogue.repositories:
        offer = _offer(catalogue, spec, repository.image, model=repository.model)
        for kind in _formats([repository]):
            found.update(kind.client_files(offer))
    return {path: content.encode() for path, content in found.items()}


def _script(catalogue: Catalogue, spec: Spec, *, key: str | None) -> bytes:
    """Return the script that finds a machine's model, among those that its package manager can install."""
    published: dict[str, list[str]] = {}
    families: dict[str, set[str]] = {}
    for repository in catalogue.repositories:
        taken_by = {family for kind in _formats([repository]) for family in kind.families}
        if taken_by:
            published.setdefault(repository.image, []).append(repository.model)
            families.setdefault(repository.image, set()).update(taken_by)
    return client_config.detect_script(
        spec,
        published,
        base_url=catalogue.url,
        key_name=catalogue.key.path if catalogue.key else "",
        key=key,
        apt={image for image, found in families.items() if found & managed_by(APT)},
    )


def _index(catalogue: Catalogue, spec: Spec) -> str:
    """Return the index page, with the lines that install each package."""
    of_image: dict[str, list[Repository]] = {}
    for repository in catalogue.repositories:
        of_image.setdefault(repository.image, []).append(repository)

    def install(repository: Repository, artifact: Artifact) -> tuple[str, ...]:
        offer = _offer(
            catalogue,
            spec,
            repository.image,
            model=repository.model,
            package=artifact.package,
            version=artifact.version,
            path=f"{repository.path}/{artifact.path}",
        )
        return of(artifact.format).install_lines(offer)

    def fleet(image: str) -> tuple[str, ...]:
        family = spec.images[image].family if image in spec.images else ""
        own = [kind for kind in _formats(of_image[image]) if kind.families]
        own.sort(key=lambda kind: family not in kind.families)
        return own[0].install_lines(_offer(catalogue, spec, image, model=None)) if own else ()

    return page(catalogue, install, fleet)
