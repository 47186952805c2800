"""What code for a target may assume of its hosts, by the table of features. Pure.

Compilers and archspec describe CPUs. Whether a *host* can run an instruction also depends on its firmware, hypervisor,
microcode and kernel. The table says so of each feature, and three standings follow for a target:

- `assumed`: all its CPUs have it, nothing is known to switch it off on them, and the CPU gate can tell;
- `doubtful`: firmware or microcode switches it off on some of its hosts. The gate refuses those, so it is a warning;
- `refused`: its CPUs lack it, or no gate can tell whether a host lets programs run it. Only a waiver admits it.

So that compiler and table agree, the build switches off what is refused and the compiler would assume (`off`). Code
that tests the compiler's macros then leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from packaging.version import Version

from pikaforge.cpu.features import Feature, table

Standing = Literal["assumed", "doubtful", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """The hosts that code for a target must run on."""

    lineage: frozenset[str]
    """The target and its ancestors, by archspec's names."""
    features: frozenset[str]
    """archspec's features of the target."""

    def have(self, feature: Feature) -> bool:
        """Return whether their CPUs have a feature."""
        return (feature.archspec != "" and feature.archspec in self.features) or not self.lineage.isdisjoint(
            feature.lineages
        )

    def standing(self, feature: Feature) -> Standing:
        """Return whether code may assume a feature."""
        if feature.free:
            return "assumed"
        if feature.ungated or not self.have(feature):
            return "refused"
        return "doubtful" if feature.switched_off(self.lineage) else "assumed"

    def objection(self, feature: Feature) -> str:
        """Return why code may not assume a feature; empty if it may."""
        match self.standing(feature):
            case "assumed":
                return ""
            case "doubtful":
                causes = " or ".join(feature.switched_off(self.lineage))
                return f"not all of these CPUs have it: {causes} can switch it off"
            case "refused":
                return feature.ungated or "not all of these CPUs have it"

    def assumed(self) -> frozenset[str]:
        """Return the ids of all features that code may assume if the compiler does."""
        return frozenset(f.id for f in table().values() if self.standing(f) == "assumed")

    def not_asked(self) -> frozenset[str]:
        """Return archspec's names of the features that compiled code does not use: a machine may lack them.

        They are those that it may not assume, and those that firmware or microcode may switch off and compilers leave
        out.
        """
        return frozenset(
            f.archspec
            for f in table().values()
            if f.archspec
            and not f.free
            and (standing := self.standing(f)) != "assumed"
            and (standing == "refused" or (f.used_from and self.lineage.isdisjoint(f.used_from)))
        )

    def off(self, gcc: Version) -> tuple[str, ...]:
        """Return gcc's options against features that it would assume, and code may not."""
        options = dict.fromkeys(
            feature.option.off(gcc)
            for feature in table().values()
            if feature.option is not None
            and not self.lineage.isdisjoint(feature.given)
            and self.standing(feature) == "refused"
        )
        return tuple(sorted(option for option in options if option))
