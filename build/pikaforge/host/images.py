"""Images: what the engine holds, pulling, importing, building and removing them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pikaforge.errors import HostError
from pikaforge.host.connection import LABEL, EngineConnection, brief, load_sdk


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image that the engine holds."""

    id: str
    labels: Mapping[str, str]
    digests: tuple[str, ...]
    """`name@sha256:…` under which registries know it."""


class RegistryError(HostError):
    """The registry could not be reached, or does not have the image."""


class EngineImages(EngineConnection):
    """An engine's images, and its caches, which are kept like them."""

    def image(self, reference: str) -> ImageFacts | None:
        """The facts of an image that the engine holds, or None."""
        sdk = load_sdk()
        try:
            attrs = self._client().images.get(reference).attrs
        except sdk.errors.ImageNotFound:
            return None
        return ImageFacts(
            id=attrs["Id"],
            labels=attrs["Config"].get("Labels") or {},
            digests=tuple(attrs.get("RepoDigests") or ()),
        )

    def pull(self, reference: str) -> ImageFacts:
        """Pull an image by `name:tag` or `name@sha256:…`.

        Raises:
            RegistryError: the registry is out of reach, or has no such image.
        """
        import requests  # noqa: PLC0415

        sdk = load_sdk()
        try:
            image = self._client().images.pull(reference, platform="linux/amd64")
        except (sdk.errors.DockerException, requests.exceptions.RequestException) as error:
            raise RegistryError(f"cannot pull {reference}: {brief(error)}") from error
        facts = self.image(str(image.id))
        assert facts is not None  # it was pulled a moment ago
        return facts

    def import_tar(self, archive: Path, tag: str, labels: Mapping[str, str]) -> ImageFacts:
        """Make a one-layer image of a root file system in a tar archive."""
        api = self._client().api
        changes = [f"LABEL {json.dumps(k)}={json.dumps(v)}" for k, v in {**labels, f"{LABEL}.kind": "image"}.items()]
        repository, _, version = tag.rpartition(":")
        with archive.open("rb") as stream:
            answer = api.import_image_from_data(stream, repository=repository, tag=version, changes=changes)
        facts = self.image(tag)
        if facts is None:
            raise HostError(f"the engine did not import {archive.name}: {str(answer)[-300:]}")
        return facts

    def build(
        self, *, context: bytes, target: str, tag: str, args: Mapping[str, str], labels: Mapping[str, str], log: Path
    ) -> ImageFacts | None:
        """Build one stage of the Dockerfile in `context` (a tar archive); None if a step failed, see `log`."""
        sdk = load_sdk()
        stream = self._client().api.build(
            fileobj=io.BytesIO(context),
            custom_context=True,
            target=target,
            tag=tag,
            buildargs=dict(args),
            labels={**labels, f"{LABEL}.kind": "image"},
            rm=True,
            forcerm=True,
            decode=True,
        )
        failed = False
        try:
            with log.open("a", encoding="utf-8") as file:
                for event in stream:
                    if "error" in event:
                        failed = True
                    file.write(event.get("stream") or event.get("error") or "")
                    file.flush()
        except sdk.errors.APIError as error:
            raise HostError(f"the engine could not build {tag}: {brief(error)}") from error
        return None if failed else self.image(tag)

    def owned_images(self) -> list[tuple[str, tuple[str, ...], int]]:
        """Images made by this tool: id, tags, size in bytes."""
        found = self._client().images.list(filters={"label": f"{LABEL}.kind=image"})
        return [(str(i.id), tuple(i.tags), int(i.attrs.get("Size") or 0)) for i in found]

    def remove_image(self, reference: str) -> None:
        """Remove an image with its tags, unless a container uses it."""
        sdk = load_sdk()
        try:
            self._client().images.remove(reference, force=True)
        except sdk.errors.ImageNotFound:
            return
        except sdk.errors.APIError as error:
            raise HostError(f"cannot remove {reference}: {brief(error)}") from error

    def remove_cache(self, name: str) -> bool:
        """Remove a cache volume; whether there was one."""
        sdk = load_sdk()
        try:
            self._client().volumes.get(f"pikaforge-{name}").remove()
        except sdk.errors.NotFound:
            return False
        except sdk.errors.APIError as error:
            raise HostError(f"cannot remove the cache {name}: {brief(error)}") from error
        return True
