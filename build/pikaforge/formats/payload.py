"""The payload: files that are added to the tree in every package, utils/ and systemd/, made from the product's entry.

A product without a server has the CPU gate alone; a server without a configuration file, no settings.

The templates in assets/ name no product. Their words (`@PRODUCT@`) stand for values that the model's patterns restrict
to names, so that nothing is quoted. What sets instances up is made in `operate.scripts`. The CPU gate reads two lists:
`utils/cpu-features` has one kernel flag in each line, `utils/cpu-targets` has target, models and flags of each package
that the gate may advise to take instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pikaforge.config.product import Product
from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.host.text import filled
from pikaforge.operate import scripts
from pikaforge.plan import matrix
from pikaforge.plan.cells import Cell

FOLDER = Path(__file__).resolve().parent / "assets"
GATE = "utils/cpu-gate.sh"
GATE_TEMPLATE = FOLDER / "cpu-gate.sh"
LONG_MODE = "lm"
"""The kernel's flag of a 64-bit processor. Every program here needs it, so no list of features is empty."""
KERNEL_FLAG = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The payload of a package."""

    contents: Mapping[str, bytes]
    """By path below the top folder."""
    executable: tuple[str, ...]
    """Paths of what gets mode 0755."""


def all_offers(spec: Spec) -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """Return all packages of the matrix: by image and allocator, the models by the target that they are built for."""
    found: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
    for cell in matrix.all_cells(spec):
        if not cell.problem:
            models = found.setdefault((cell.image, cell.allocator), {})
            models[cell.target] = (*models.get(cell.target, ()), cell.model)
    return found


def offers(spec: Spec, cell: Cell) -> dict[str, tuple[str, ...]]:
    """Return the packages with the image and allocator of a cell: models by target."""
    return all_offers(spec).get((cell.image, cell.allocator), {})


@lru_cache(maxsize=256)
def target_flags(target: str) -> tuple[str, ...]:
    """Return the kernel flags of a target, sorted. They are for advice, and do not judge a program."""
    return tuple(sorted({LONG_MODE, *microarch.kernel_flags(target)}))


def feature_list(features: Sequence[str]) -> str:
    """Return the text of utils/cpu-features.

    Raises:
        ValueError: a feature is not the name of a kernel flag.
    """
    wrong = [name for name in features if not KERNEL_FLAG.fullmatch(name) or name in microarch.KERNEL_NAMES]
    if wrong:
        raise ValueError(f"not names of /proc/cpuinfo: {', '.join(wrong)}")
    lines = sorted({LONG_MODE, *features})
    return "# CPU features in use, by the names of /proc/cpuinfo; read by cpu-gate.sh\n" + "".join(
        f"{name}\n" for name in lines
    )


def target_list(others: Mapping[str, Sequence[str]]) -> str:
    """Return the text of utils/cpu-targets, the most demanding target first."""
    return _target_list(tuple((target, tuple(models)) for target, models in others.items()))


@lru_cache(maxsize=256)
def _target_list(offered: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    others = dict(offered)
    flags = {target: target_flags(target) for target in others}
    order = sorted(others, key=lambda target: (-microarch.demand(target), target))
    return "# target, models, flags; the most demanding first; read by cpu-gate.sh\n" + "".join(
        f"{target}\t{','.join(others[target])}\t{' '.join(flags[target])}\n" for target in order
    )


def render(
    product: Product,
    *,
    model: str = "",
    target: str = "",
    image: str = "",
    features: Sequence[str] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
) -> Rendered:
    """Return the payload of a product's package.

    Args:
        product: what is packed.
        model: the hardware model that the package is named after.
        target: the target that it was built for.
        image: the image that it was built on.
        features: CPU features that the audit found in use, by the kernel's names, in any order. Without them
            utils/cpu-features is left out, and the CPU gate refuses every machine: that is for a cache key before the
            audit has run, and never for a package.
        others: the packages that the gate may advise, `offers`.

    Raises:
        ValueError: a feature is not the name of a kernel flag.
    """
    words = {
        "PRODUCT": product.name,
        "VERSION": product.version,
        "MODEL": model,
        "TARGET": target,
        "IMAGE": image,
    }
    contents = {
        GATE: filled(GATE_TEMPLATE, words).encode(),
        "utils/cpu-targets": target_list(others or {}).encode(),
    }
    if features is not None:
        contents["utils/cpu-features"] = feature_list(features).encode()
    contents |= scripts.rendered(product, words)
    return Rendered(contents=contents, executable=(GATE, *(name for name in scripts.EXECUTABLE if name in contents)))
