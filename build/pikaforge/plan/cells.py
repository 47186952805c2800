"""Cells: what is to be built, as model, image and allocator. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One package to be built."""

    model: str
    image: str
    allocator: str
    wanted: str
    """The target that the model's CPUs allow."""
    target: str
    """The target that is built: `wanted`, or the nearest that the image's compiler can produce."""
    flags: tuple[str, ...]
    problem: str = ""
    """Why the cell cannot be built as asked; empty if it can."""
    remark: str = ""
    """What the operator should know, e.g. that the target is a fallback."""
    twin: str = ""
    """The target whose smoke test counts for this one, because this one can be run neither natively nor emulated."""

    @property
    def tried(self) -> str:
        """The target that the smoke test runs."""
        return self.twin or self.target

    @property
    def id(self) -> str:
        """`R620-el7-none`: used in paths, logs, container names and test ids."""
        return f"{self.model}-{self.image}-{self.allocator}"

    @property
    def group(self) -> str:
        """`el7-sandybridge-none`: what cells with one compilation share."""
        return f"{self.image}-{self.target}-{self.allocator}"
