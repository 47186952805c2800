"""Which gperftools an allocator choice means for an image, and which pairs are known to be bad. Pure."""

from __future__ import annotations

from pikaforge.config.compilers import number
from pikaforge.config.schema import Allocator, Spec, Tarball

STANDARDS: tuple[tuple[str, str, str], ...] = (("2.16", "7", "C++17"), ("2.8", "4.8.1", "C++11"))
"""First gperftools that needs a C++ standard, and the first gcc that has all of its language: gperftools' NEWS (2.8rc)
and configure.ac (2.16); gcc.gnu.org/projects/cxx-status.html."""
SAFE_FRAMES = "2.9"
"""First gperftools whose frame-pointer unwinder on x86-64 is the generic one (NEWS, 2.9rc); the one before can crash
on a frame that has none (gperftools issue 1638)."""


def tarball(spec: Spec, image: str, allocator: str) -> Tarball | None:
    """The gperftools that is built for an image; None where none is."""
    entry = spec.allocators[allocator]
    if entry.kind != "gperftools":
        return None
    name = _of(entry, spec, image) or entry.tarball
    assert name is not None  # the model sees to it
    return spec.tarballs[name]


def _of(entry: Allocator, spec: Spec, image: str) -> str | None:
    return entry.tarballs.get(image) or entry.tarballs.get(spec.images[image].family)


def libunwind(spec: Spec, image: str, allocator: str) -> Tarball | None:
    """The libunwind that is built, too; None where the image's own is taken, or none is needed."""
    entry = spec.allocators[allocator]
    packages = entry.packages.get(image) or entry.packages.get(spec.images[image].family)
    if entry.libunwind is None or (packages is not None and packages.build):
        return None
    return spec.tarballs[entry.libunwind]


def problem(spec: Spec, image: str, allocator: str) -> str:
    """Why an allocator cannot be built for an image, or the product not run with it; empty if it can."""
    chosen = tarball(spec, image, allocator)
    if chosen is None:
        return ""
    least = spec.product.gperftools
    if least is not None and number(chosen.version) < number(least.version):
        return f"gperftools {chosen.version} is older than {least.version}: {least.why}"
    gcc = spec.images[image].gcc
    for first, compiler, standard in STANDARDS:
        if number(chosen.version) >= number(first) and number(gcc) < number(compiler):
            return (
                f"gperftools {chosen.version} needs a compiler with {standard}, which gcc has since {compiler}; "
                f"{image} has gcc {gcc}: name an older one in allocators.{allocator}.tarballs"
            )
    return ""


def remark(spec: Spec, image: str, allocator: str) -> str:
    """What the operator should know of a pair that works."""
    chosen = tarball(spec, image, allocator)
    if chosen is None or not spec.allocators[allocator].frame_pointers:
        return ""
    if number(chosen.version) >= number(SAFE_FRAMES):
        return ""
    return (
        f"the frame-pointer unwinder of gperftools {chosen.version} presumes frame pointers in every library, and can "
        "crash where the heap is sampled and there is none (gperftools issue 1638)"
    )
