"""Images of an engine: look them up, pull, import, build and remove them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pikaforge.errors import EngineError, HostError, UnreachableError
from pikaforge.host import compiler_cache, engine_socket, offline, podman, replies
from pikaforge.host.connection import (
    LABEL,
    OK,
    EngineConnection,
    brief,
    engine_errors,
    engine_full,
    load_sdk,
    refuse_error,
)
from pikaforge.host.disk import SAID, full_disk_errors, said_in

KEPT = "pikaforge-kept-"
"""Start of the names of volumes with data that outlives a server."""
BLOCK = 1 << 20
"""Bytes of an archive that are read at once."""
NOT_FOUND = 404
CONFLICT = 409
"""HTTP status of an engine that cannot remove what is in use."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""The classic builder colours what a step writes to standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image that the engine holds."""

    id: str
    labels: Mapping[str, str]
    digests: tuple[str, ...]
    """`name@sha256:…` under which registries know it; that of all architectures comes first."""


class RegistryError(UnreachableError):
    """The registry cannot be reached, or does not have the image."""

    kind = "E-registry"


class EngineImages(EngineConnection):
    """An engine's images and caches."""

    def image(self, reference: str) -> ImageFacts | None:
        """Return the facts of an image; None if the engine does not have it."""
        looked = self._look(engine_socket.image_path(reference), replies.ImageReply)
        if looked is not None and looked[0] == NOT_FOUND:
            return None
        if looked is not None and looked[0] == OK:
            image = replies.parse(replies.ImageReply, looked[1])
            if len(image.digests or ()) < 2 or not self.facts().podman:
                return ImageFacts(id=image.id, labels=image.labels, digests=image.digests or ())
        return self._image_by_sdk(reference)

    @engine_errors()
    def _image_by_sdk(self, reference: str) -> ImageFacts | None:
        sdk = load_sdk()
        try:
            answer = self._client().images.get(reference).attrs
        except sdk.errors.NotFound:
            return None
        image = replies.parse(replies.ImageReply, answer)
        return ImageFacts(id=image.id, labels=image.labels, digests=self._digests(image))

    def _digests(self, image: replies.ImageReply) -> tuple[str, ...]:
        digests = image.digests or ()
        if len(digests) < 2 or not self.facts().podman:
            return digests
        # Docker gives the digest that the tag has in the registry. Podman also gives the digest of this architecture's
        # manifest, in no order. A pin must not depend on which engine has pulled.
        api = self._client().api
        with api.get(f"{api.base_url}{podman.IMAGE.format(id=image.id)}", timeout=60) as answer:
            tagged = replies.parse(replies.PodmanImage, answer.json()).digest if answer.ok else ""
        return tuple(sorted(digests, key=lambda digest: not digest.endswith(f"@{tagged}")))

    @engine_errors()
    def pull(self, reference: str) -> ImageFacts:
        """Pull an image by `name:tag` or `name@sha256:…`.

        Raises:
            RegistryError: the registry is out of reach, or has no such image.
        """
        from pikaforge.host.http_session import LOST, timed_out  # noqa: PLC0415

        offline.refuse(f"the image {reference}")
        sdk = load_sdk()
        repository, tag = sdk.utils.parse_repository_tag(reference)
        try:
            with self._calls().closing():
                events = self._client().api.pull(
                    repository, tag=tag or "latest", platform="linux/amd64", stream=True, decode=True
                )
                _follow(reference, events)
        except sdk.errors.APIError as error:
            if SAID.search(brief(error)):
                raise
            raise RegistryError(f"cannot pull {reference}: {brief(error)}") from error
        except LOST as error:
            if not timed_out(error):
                raise
            raise RegistryError(f"cannot pull {reference}: the registry is silent") from error
        facts = self.image(reference)
        if facts is None:
            raise RegistryError(f"cannot pull {reference}: the engine does not have it afterwards")
        return facts

    def registry_problem(self, reference: str) -> str | None:
        """Return why a registry does not give an image, as this engine reaches it; "" if it would; None if unknown.

        Nothing is pulled. Podman has no such question.
        """
        sdk = load_sdk()
        if self.facts().podman:
            return None
        try:
            with engine_errors():
                self._client().images.get_registry_data(reference)
        except HostError as error:
            return error.message.removeprefix("the engine failed: ")
        except sdk.errors.SDKError as error:  # it knows no such question
            return brief(error)
        return ""

    @engine_errors("the engine could not import an image")
    def import_tar(self, archive: Path, tag: str, labels: Mapping[str, str]) -> ImageFacts:
        """Make an image with one layer from a root file system in a tar archive."""
        api = self._client().api
        changes = [f"LABEL {json.dumps(k)}={json.dumps(v)}" for k, v in {**labels, f"{LABEL}.kind": "image"}.items()]
        with archive.open("rb") as stream:
            answer = api.import_image_from_data(stream, changes=changes)
        # The image gets its name afterwards, because podman ignores a name that is given with the import.
        id_ = _imported(answer)
        repository, _, version = tag.rpartition(":")
        if not id_ or not api.tag(id_, repository, version) or (facts := self.image(tag)) is None:
            raise EngineError(f"the engine did not import {archive.name}: {str(answer)[-300:]}")
        return facts

    @engine_errors("the engine could not build an image")
    def build(
        self, *, context: bytes, target: str, tag: str, args: Mapping[str, str], labels: Mapping[str, str], log: Path
    ) -> ImageFacts | None:
        """Build one stage of the Dockerfile in `context` (a tar archive); return None if a step failed, see `log`."""
        offline.refuse(
            f"the image {tag}, whose packages come from a distribution's mirror,",
            hint="another matrix.yaml, docker/ or sources.lock than when the bundle was made? then make it again",
        )
        failed, full = False, ""
        with self._calls().closing(), full_disk_errors(log.parent), log.open("a", encoding="utf-8") as file:
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
            for answer in stream:
                event = replies.parse(replies.Event, answer)
                failed = failed or event.error is not None
                said = COLOUR.sub("", event.stream or event.error or "")
                full = said_in(said.splitlines()) or full
                file.write(said)
                file.flush()
        if failed and full:
            raise engine_full(full, where=str(log))
        return None if failed else self.image(tag)

    @contextmanager
    def saved(self, references: Sequence[str]) -> Iterator[Iterator[bytes]]:
        """Open an archive of images, as `docker save` writes it, in blocks. The SDK can only ask for one image."""
        with engine_errors(f"the engine could not save {', '.join(references)}"), self._calls().closing():
            api = self._client().api
            url = f"{api.base_url}/v{api.api_version}/images/get"
            answer = api.get(url, params={"names": list(references)}, stream=True)
            refuse_error(answer)
            yield iter(lambda: bytes(answer.raw.read(BLOCK)), b"")

    @engine_errors("the engine could not load images")
    def load(self, archive: Iterator[bytes]) -> None:
        """Load the images of an archive, as `docker load` does.

        Args:
            archive: its blocks.
        """
        api = self._client().api
        url = f"{api.base_url}/v{api.api_version}/images/load"
        answer = api.post(url, data=archive, params={"quiet": "true"}, headers={"Content-Type": "application/x-tar"})
        refuse_error(answer)
        for line in answer.text.splitlines():
            event = replies.parse(replies.Event, json.loads(line) if line.startswith("{") else {"stream": line})
            if event.error is not None:
                if full := said_in(event.error.splitlines()):
                    raise engine_full(full)
                raise HostError(f"the engine could not load images: {' '.join(event.error.split())[:300]}")

    def image_size(self, reference: str) -> int:
        """Return the bytes of an image, unpacked; 0 if the engine does not say it."""
        with engine_errors():
            found = replies.parse(replies.ImageReply, self._client().images.get(reference).attrs)
        return found.size or 0

    @engine_errors()
    def owned_images(self) -> list[tuple[str, tuple[str, ...], int]]:
        """Return the images that this tool has made: id, tags, size in bytes."""
        # Not by the SDK's collection: that asks for each image again, and one may be gone by then.
        found = self._client().api.images(filters={"label": f"{LABEL}.kind=image"})
        listed = (replies.parse(replies.ListedImage, image) for image in found)
        return [(image.id, image.named, image.size) for image in listed]

    def remove_image(self, reference: str) -> None:
        """Remove an image with its tags. It may be gone already.

        Raises:
            HostError: a container uses it.
        """
        sdk = load_sdk()
        with engine_errors(f"cannot remove {reference}"):
            try:
                self._client().images.remove(reference, force=True)
            except sdk.errors.NotFound:
                return

    def caches(self) -> list[tuple[str, str]]:
        """Return the volumes of compiler caches: name, and when it was made."""
        with engine_errors("the engine could not list its caches"):
            # By name: where one vanishes before its container is made, the engine makes it again, without labels.
            found = self._client().volumes.list(filters={"name": compiler_cache.START.rstrip("-")})
            return sorted((str(volume.name), str(volume.attrs.get("CreatedAt"))) for volume in found)

    def cache_volume(self, cache: str) -> str:
        """Return the volume of a compiler cache; it is made, and old ones are removed.

        Args:
            cache: the digest that names it.
        """
        sdk = load_sdk()
        name = compiler_cache.volume_of(cache)
        with engine_errors("the engine could not make a compiler cache"):
            volumes = self._client().volumes
            try:
                volumes.get(name)
            except sdk.errors.NotFound:
                volumes.create(name, labels={f"{LABEL}.kind": "cache", f"{LABEL}.cache": cache})
            else:
                return name
        for other in compiler_cache.superfluous(self.caches()):
            self.remove_cache(other)
        return name

    def kept_volume(self, kept: str) -> str:
        """Return the volume for a server's data that outlives the server; it is made.

        Args:
            kept: its name for the tool.
        """
        name = f"{KEPT}{kept}"
        with engine_errors("the engine could not make a volume"):
            # It is no error if there is one of that name.
            self._client().volumes.create(name, labels={f"{LABEL}.kind": "kept"})
        return name

    def kept_volumes(self) -> list[tuple[str, str]]:
        """Return the names of such volumes, and when each was made."""
        with engine_errors():
            found = self._client().volumes.list(filters={"label": f"{LABEL}.kind=kept"})
            return sorted((str(volume.name), str(volume.attrs.get("CreatedAt"))) for volume in found)

    def forget(self, kept: str) -> None:
        """As `Engine.forget`."""
        self.remove_cache(f"{KEPT}{kept}")

    def remove_cache(self, volume: str) -> bool:
        """Remove the volume of a cache; return whether it was there and no container uses it."""
        sdk = load_sdk()
        with engine_errors(f"cannot remove the volume {volume}"):
            try:
                self._client().volumes.get(volume).remove()
            except sdk.errors.NotFound:
                return False
            except sdk.errors.APIError as error:
                if error.status_code != CONFLICT:
                    raise
                return False
        return True


def _follow(reference: str, answers: Iterator[object]) -> None:
    """Read the events of a pull to their end; one of them has what goes wrong after the pull has begun."""
    for answer in answers:
        event = replies.parse(replies.Event, answer)
        if event.error is not None:
            if full := said_in(event.error.splitlines()):
                raise engine_full(full)
            raise RegistryError(f"cannot pull {reference}: {' '.join(event.error.split())[:300]}")


def _imported(answer: str) -> str:
    """Return the id of an image from the last event of its import; "" if it is not there."""
    lines = [line for line in str(answer).splitlines() if line.strip()]
    try:
        return replies.Event.model_validate_json(lines[-1]).status or "" if lines else ""
    except ValueError:
        return ""
