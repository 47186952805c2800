"""Facts of the image stage."""

from __future__ import annotations

from collections.abc import Mapping

from pikaforge.config.scalars import Strict


class OsReleaseFacts(Strict):
    """What /etc/os-release of an image says; a field is empty if the file lacks it."""

    id: str = ""
    version: str = ""
    variant: str = ""


class ImageStageFacts(Strict):
    """Facts of an image. Those of the tool's own images have no compiler, ABI or runtime image."""

    base: str
    """What it starts from: `name@sha256:…`, `bootstrap SUITE`, or `this machine`."""
    build: str = ""
    """The engine's name of the build image; empty with the host engine, and for the emulator."""
    runtime: str = ""
    """The engine's name of the clean runtime image."""
    ids: Mapping[str, str] = {}
    """The engine's id of each image, by its name."""
    os: OsReleaseFacts = OsReleaseFacts.model_construct()
    gcc: str = ""
    """Version of the compiler."""
    packages: Mapping[str, tuple[tuple[str, str], ...]] = {}
    """Installed packages as (name, version), by `build` and `runtime`."""
    abi: Mapping[str, str] = {}
    """The highest symbol version of the base libraries, by namespace."""
    version: str = ""
    """Version of the emulator."""
