"""Cells: a model, an image and an allocator, for which packages are built. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A combination of model, image and allocator, with the target that is built for it."""

    model: str
    image: str
    allocator: str
    wanted: str
    """The target that all the model's CPUs can run."""
    target: str
    """The target that is built: `wanted`, or the nearest that the image's compiler can produce."""
    flags: tuple[str, ...]
    problem: str = ""
    """Why the cell cannot be built; empty if it can."""
    remark: str = ""
    """What the operator should know, for example that the target is a fallback."""
    twin: str = ""
    """The target whose smoke test counts for this cell, if its own can be run neither natively nor emulated."""

    @property
    def tried(self) -> str:
        """The target that the smoke test runs."""
        return self.twin or self.target

    @property
    def id(self) -> str:
        """The cell's name in paths, logs, container names and test ids, such as `R620-el7-none`."""
        return f"{self.model}-{self.image}-{self.allocator}"

    @property
    def group(self) -> str:
        """The name of its compilation, which cells with one image, target and allocator share."""
        return f"{self.image}-{self.target}-{self.allocator}"

    @property
    def image_nodes(self) -> tuple[str, str]:
        """The ids of the two nodes of which one makes its image: with packages of its allocator, else without.

        The first one is there if the allocator needs packages that the product does not.
        """
        return f"image:{extended(self.image, self.allocator)}", f"image:{self.image}"


def extended(image: str, allocator: str) -> str:
    """Return the label of an image with the packages of an allocator. No name in matrix.yaml has a plus in it."""
    return f"{image}+{allocator}"


def plain(label: str) -> str:
    """Return the label of the image that an image with packages of an allocator is made from; else the label itself."""
    return label.partition("+")[0]


def allocator_of(label: str) -> str | None:
    """Return the allocator whose packages an image has; None if it has none."""
    return label.partition("+")[2] or None
