"""What a container engine answers, as far as this tool reads it: models of the JSON of its interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pikaforge.errors import HostError
from pikaforge.host.confinement import Abilities


class Reply(BaseModel):
    """An answer. It has many more fields, which differ from version to version."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


ReplyT = TypeVar("ReplyT", bound=Reply)


class EngineInfo(Reply):
    """`/info`."""

    system: str | None = Field(default=None, alias="OSType")
    architecture: str | None = Field(default=None, alias="Architecture")
    version: str | None = Field(default=None, alias="ServerVersion")
    driver: str | None = Field(default=None, alias="Driver")
    """Of the storage of images and containers."""
    cpus: int | None = Field(default=None, alias="NCPU")
    buildah: str | None = Field(default=None, alias="BuildahVersion")
    rootless_podman: bool | None = Field(default=None, alias="Rootless")
    root: str | None = Field(default=None, alias="DockerRootDir")
    """Folder of its images and containers, on its machine."""
    memory: int | None = Field(default=None, alias="MemTotal")
    limits_memory: bool | None = Field(default=None, alias="MemoryLimit")
    limits_processes: bool | None = Field(default=None, alias="PidsLimit")

    @property
    def podman(self) -> bool:
        """Whether the engine is podman, which adds this field to those of docker."""
        return self.buildah is not None

    @property
    def rootless(self) -> bool:
        """Whether it is podman without root's rights, which ignores the limits that a container asks for."""
        return bool(self.rootless_podman)

    @property
    def abilities(self) -> Abilities:
        """What it can limit."""
        return Abilities(
            memory=self.memory or 0,
            limits_memory=bool(self.limits_memory),
            limits_processes=bool(self.limits_processes),
        )


class ImageConfig(Reply):
    """Part of `ImageReply`."""

    labels: Mapping[str, str] | None = Field(default=None, alias="Labels")


class ImageReply(Reply):
    """`/images/NAME/json`."""

    id: str = Field(alias="Id")
    config: ImageConfig | None = Field(default=None, alias="Config")
    digests: tuple[str, ...] | None = Field(default=None, alias="RepoDigests")
    size: int | None = Field(default=None, alias="Size")

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return (self.config and self.config.labels) or {}


class Listed(Reply):
    """A container or network in a list of them."""

    id: str = Field(alias="Id")
    labels: Mapping[str, str] | None = Field(default=None, alias="Labels")


class ListedImage(Reply):
    """An image in the list of them."""

    id: str = Field(alias="Id")
    tags: tuple[str, ...] | None = Field(default=None, alias="RepoTags")
    size: int = Field(default=0, alias="Size")

    @property
    def named(self) -> tuple[str, ...]:
        """Its tags. Engines before API 1.43 have one of `<none>` in place of no tag."""
        return tuple(tag for tag in self.tags or () if tag != "<none>:<none>")


class PodmanImage(Reply):
    """Podman's own `/libpod/images/NAME/json`."""

    digest: str = Field(default="", alias="Digest")
    """The one that the image's tag has in the registry."""


class Network(Reply):
    """Part of `ContainerReply`: a network that a container is in."""

    address: str | None = Field(default=None, alias="IPAddress")


class NetworkSettings(Reply):
    """Part of `ContainerReply`."""

    networks: Mapping[str, Network] = Field(alias="Networks")


class ContainerReply(Reply):
    """`/containers/NAME/json`."""

    network: NetworkSettings = Field(alias="NetworkSettings")

    @property
    def address(self) -> str:
        """Its address in the first network that gives it one; "" without one."""
        return next((found.address for found in self.network.networks.values() if found.address), "")


class ContainerState(Reply):
    """Part of `EndedReply`."""

    out_of_memory: bool | None = Field(default=None, alias="OOMKilled")


class EndedReply(Reply):
    """`/containers/NAME/json` of a container that has ended."""

    state: ContainerState = Field(alias="State")


class MemoryStats(Reply):
    """What a container uses of the memory."""

    usage: int = 0
    """Bytes, with files that the kernel keeps in memory."""
    stats: dict[str, int] = Field(default_factory=dict)
    """Figures of its control group, by name."""


class StatsReply(Reply):
    """A sample of `/containers/NAME/stats`."""

    memory: MemoryStats = Field(default_factory=MemoryStats, alias="memory_stats")


class Event(Reply):
    """A line of what an engine says while it pulls, imports or builds."""

    stream: str | None = None
    """What a step of a build prints."""
    status: str | None = None
    error: str | None = None


def parse(model: type[ReplyT], answer: object) -> ReplyT:
    """Return an answer as a model.

    Raises:
        HostError: it is not of that kind.
    """
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise HostError(
            f"the container engine's answer cannot be read: {f'{place}: ' if place else ''}{first['msg']}",
            hint="is DOCKER_HOST the address of a container engine?",
        ) from error
