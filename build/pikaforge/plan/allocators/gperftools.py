"""gperftools' tcmalloc: the image's own, or one that is built for the target. See `kind.AllocatorKind`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from packaging.version import Version

from pikaforge.plan.allocators.kind import NotBuilt, Presence, Statistics

if TYPE_CHECKING:  # the schema needs the kinds, so these cannot import it
    from pikaforge.config.schema import Allocator, Spec, Tarball

STANDARDS: tuple[tuple[str, str, str], ...] = (("2.16", "7", "C++17"), ("2.8", "4.8.1", "C++11"))
"""The first gperftools that needs a C++ standard, the first gcc that has all of its language, and the standard.
Sources: gperftools' NEWS (2.8rc) and configure.ac (2.16); gcc.gnu.org/projects/cxx-status.html."""
SAFE_FRAMES = "2.9"
"""The first gperftools whose frame-pointer unwinder on x86-64 is the generic one (NEWS, 2.9rc). The unwinder before it
can crash on a frame without a frame pointer (gperftools issue 1638)."""
STATISTICS = Statistics(
    # tcmalloc prints its statistics when the program ends (src/tcmalloc.cc: ~TCMallocGuard).
    environment={"MALLOCSTATS": "1"},
    total=re.compile(r"^MALLOC:\s*=\s*(\d+)\s*\(.*\)\s*Virtual address space used\s*$", re.MULTILINE),
)
TCMALLOC = Presence(
    title="tcmalloc",
    libraries=("libtcmalloc*.so*",),
    # Not libtcmalloc_minimal: it lacks the heap profiler's statistics of MallocExtension.
    whole=("libtcmalloc.so*", "libtcmalloc_and_profiler.so*"),
    symbols=(b"tc_malloc",),
    link="-ltcmalloc",
    statistics=STATISTICS,
)
SOURCE = "src"
"""The folder in which allocator.sh finds gperftools' source; libunwind's is in a folder of its name."""


class Gperftools:
    """gperftools, built for the target from a pinned tarball, perhaps with a libunwind."""

    name = "gperftools"
    about = "is built\nfor the target from a pinned tarball"
    own = True
    required = ("unwinder", "tarball")
    optional = frozenset({"tarballs", "libunwind"})
    fields: Mapping[str, str] = {
        "unwinder": "How a gperftools that is built walks the stack; with frame-pointers the product has them, too.",
        "tarball": "The gperftools that is built, by name in `tarballs`.",
    }
    presence: Presence | None = TCMALLOC
    scripts = ("allocator.sh", "toolchain.sh", "cc", "ccache.conf")
    licence = "BSD-3-Clause"
    """Source: its COPYING."""
    other_licences: Mapping[str, str] = {"libunwind": "MIT"}
    """Source: its COPYING."""
    url = "https://github.com/gperftools/gperftools"

    def check(self, entry: Allocator) -> None:
        """Raise ValueError if an entry names a libunwind that its unwinder does not use."""
        if entry.frame_pointers and entry.libunwind:
            raise ValueError(f"unwinder {entry.unwinder} takes no `libunwind`")

    def sources(self, spec: Spec, image: str, allocator: str) -> Mapping[str, Tarball]:
        """Return gperftools, and libunwind if it is needed and the image's own is not taken."""
        entry, family = spec.allocators[allocator], spec.images[image].family
        name = entry.tarballs.get(image) or entry.tarballs.get(family) or entry.tarball
        assert name is not None  # the model requires it
        packages = entry.packages.get(image) or entry.packages.get(family)
        if entry.libunwind is None or (packages is not None and packages.build):
            return {SOURCE: spec.tarballs[name]}
        return {SOURCE: spec.tarballs[name], "libunwind": spec.tarballs[entry.libunwind]}

    def environment(self, entry: Allocator) -> Mapping[str, str]:
        """Return the unwinder."""
        return {"PIKAFORGE_UNWINDER": str(entry.unwinder)}

    def material(self, entry: Allocator) -> Mapping[str, str | None]:
        """Return the unwinder."""
        return {"unwinder": entry.unwinder}

    def use(self, entry: Allocator) -> Mapping[str, str]:
        """Return nothing: recipes need no more than the two variables that every allocator has."""
        return {}

    def problem(self, spec: Spec, image: str, allocator: str) -> str:
        """Return that the product needs a newer version, or the compiler an older one; empty if neither."""
        version = Version(self.sources(spec, image, allocator)[SOURCE].version)
        least = spec.product.least(self.name)
        if least is not None and version < Version(least.version):
            return f"gperftools {version} is older than {least.version}: {least.why}"
        gcc = spec.images[image].gcc
        for first, compiler, standard in STANDARDS:
            if version >= Version(first) and Version(gcc) < Version(compiler):
                return (
                    f"gperftools {version} needs a compiler with {standard}, which gcc has since {compiler}; "
                    f"{image} has gcc {gcc}: name an older one in allocators.{allocator}.tarballs"
                )
        return ""

    def remark(self, spec: Spec, image: str, allocator: str) -> str:
        """Return why frame pointers are dangerous with an old version; empty if they are not."""
        version = Version(self.sources(spec, image, allocator)[SOURCE].version)
        if not spec.allocators[allocator].frame_pointers or version >= Version(SAFE_FRAMES):
            return ""
        return (
            f"the frame-pointer unwinder of gperftools {version} presumes frame pointers in every library, and can "
            "crash where the heap is sampled and there is none (gperftools issue 1638)"
        )


SYSTEM = NotBuilt(name="system", about="the image's own gperftools", presence=TCMALLOC)
BUILT = Gperftools()
