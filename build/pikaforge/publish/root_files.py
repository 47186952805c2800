"""The files of a root that tell of all its repositories: for clients, for programs, and for people."""

from __future__ import annotations

from collections.abc import Iterable

from pikaforge.config.schema import Format, Spec
from pikaforge.publish import client_config
from pikaforge.publish.page import page
from pikaforge.publish.state import CATALOGUE, Artifact, Catalogue, Repository, text

INDEX = "index.html"
DEBS = ("debian", "ubuntu")
"""Systems (ID of /etc/os-release) whose own packages are DEBs."""


def root_files(catalogue: Catalogue, spec: Spec, *, key: str | None) -> dict[str, bytes]:
    """The files by path, in the order in which they are to be written.

    Args:
        catalogue: what the root offers.
        spec: the matrix, for what is to be known of models and images.
        key: the public key that signs, in text form; None where nothing is signed.
    """
    return {
        **_configuration(catalogue),
        client_config.SCRIPT_PATH: _script(catalogue, spec, key=key),
        CATALOGUE: text(catalogue),
        INDEX: _index(catalogue, spec).encode(),
    }


def _key_url(catalogue: Catalogue) -> str | None:
    return f"{catalogue.url}/{catalogue.key.path}" if catalogue.key else None


def _formats(repositories: Iterable[Repository]) -> set[Format]:
    return {artifact.format for repository in repositories for artifact in repository.artifacts}


def _configuration(catalogue: Catalogue) -> dict[str, bytes]:
    """Files for yum, dnf and apt."""
    product, base, key_url = catalogue.product, catalogue.url, _key_url(catalogue)
    found: dict[str, str] = {}
    for repository in catalogue.repositories:
        image, model = repository.image, repository.model
        formats = _formats([repository])
        if "rpm" in formats:
            found[client_config.fleet_repo_path(product, image)] = client_config.fleet_repo_file(
                product=product, image=image, base_url=base, key_url=key_url
            )
            found[client_config.model_repo_path(product, image, model)] = client_config.model_repo_file(
                product=product, image=image, model=model, base_url=base, key_url=key_url
            )
        if "deb" in formats:
            found[client_config.apt_list_path(product, image, model)] = client_config.apt_list(
                product=product,
                image=image,
                model=model,
                base_url=base,
                keyring=client_config.keyring(catalogue.key.path) if catalogue.key else None,
            )
    return {path: content.encode() for path, content in found.items()}


def _script(catalogue: Catalogue, spec: Spec, *, key: str | None) -> bytes:
    """What finds a machine's model, among those that a package manager can install."""
    published: dict[str, list[str]] = {}
    apt: set[str] = set()
    for repository in catalogue.repositories:
        formats = _formats([repository])
        if formats & {"rpm", "deb"}:
            published.setdefault(repository.image, []).append(repository.model)
        if "deb" in formats:
            apt.add(repository.image)
    return client_config.detect_script(
        spec,
        published,
        base_url=catalogue.url,
        key_name=catalogue.key.path if catalogue.key else "",
        key=key,
        apt=apt,
    )


def _index(catalogue: Catalogue, spec: Spec) -> str:
    """The page, with the lines that install each package."""
    of_image: dict[str, list[Repository]] = {}
    for repository in catalogue.repositories:
        of_image.setdefault(repository.image, []).append(repository)

    def lines(kind: Format, image: str, *, model: str | None, package: str, version: str, path: str) -> tuple[str, ...]:
        return client_config.install_lines(
            kind,
            product=catalogue.product,
            image=image,
            model=model,
            package_name=package,
            version=version,
            base_url=catalogue.url,
            path=path,
            key_url=_key_url(catalogue),
            installer=client_config.installer(spec, image),
        )

    def install(repository: Repository, artifact: Artifact) -> tuple[str, ...]:
        return lines(
            artifact.format,
            repository.image,
            model=repository.model,
            package=artifact.package,
            version=artifact.version,
            path=f"{repository.path}/{artifact.path}",
        )

    def fleet(image: str) -> tuple[str, ...]:
        formats = _formats(of_image[image])
        own: Format = "deb" if image in spec.images and spec.images[image].os.id in DEBS else "rpm"
        other: Format = "rpm" if own == "deb" else "deb"
        kind = own if own in formats else other
        if kind not in formats:
            return ()
        return lines(kind, image, model=None, package=catalogue.product, version="", path=image)

    return page(catalogue, install, fleet)
