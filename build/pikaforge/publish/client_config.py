"""`utils/detect-model.sh`: the script that chooses a machine's repository. Pure: the same inputs give the same bytes.

All repositories of a root have packages of the same names, built for different CPUs. So it matters which repository a
machine uses. The script chooses as an operator would: by the hardware model, if the CPUs fit its packages. It writes
the result for the fleet's .repo file (yum, dnf), or apt's source. The files of single formats are made by `formats`.

The script is an asset in which words such as `@URL@` are replaced. It is no Jinja template: shellcheck reads the asset,
and the shell's `${#variable}` would begin a comment of Jinja.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pikaforge.config import families
from pikaforge.config.scalars import NAME_PATTERN
from pikaforge.config.schema import DMI_NAME, Spec
from pikaforge.cpu import microarch
from pikaforge.errors import DestinationError
from pikaforge.formats import format as formats
from pikaforge.formats.client_lines import SCRIPT, checked_url
from pikaforge.formats.payload import target_flags
from pikaforge.host.download import FILE_PATTERN
from pikaforge.plan import matrix

ASSETS = Path(__file__).resolve().parent / "assets"
UNKNOWN = "-"
"""Stands for the target of a model that is no longer in the matrix."""

WORD = re.compile(r"@([A-Z]+)@")
KEY_BEGIN, KEY_END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
KEY_BLOCK = re.compile(rf"{KEY_BEGIN}\n(?:[^\n]+\n)*?\n((?:[A-Za-z0-9+/=]+\n)+){KEY_END}")
"""A public key in text form: headers (RFC 4880, 6.2), a blank line, base64 with a checksum."""


def detect_script(
    spec: Spec,
    published: Mapping[str, Sequence[str]],
    *,
    base_url: str,
    key_name: str = "",
    key: str | None = None,
    apt: Collection[str] = (),
) -> bytes:
    """Return the script that finds a machine's model, with the data that it needs.

    Args:
        spec: the matrix. Of models and images that it no longer has, only the names are known.
        published: the published models, by image.
        base_url: of everything that is published.
        key_name: the file name of the key on clients, `NAME.asc`; empty: the product's name.
        key: the public key that signs the repositories, in text form, for `--apt`; None if they are not signed.
        apt: the images that have repositories for apt.

    Raises:
        ConfigError: a name, the URL or the key cannot be written into a script, or two models share a DMI name.
    """
    product = spec.product.name
    for word in (*published, *(model for models in published.values() for model in models)):
        if not re.fullmatch(NAME_PATTERN, word):
            raise DestinationError(f"{word!r} is no name of an image or model", hint="remove it from what is published")
    key_name = key_name or f"{product}.asc"
    if not re.fullmatch(FILE_PATTERN, key_name) or not key_name.endswith(".asc"):
        raise DestinationError(f"{key_name!r} is no name for a key in text form", hint="letters and digits, then .asc")
    ranked = _ranked(spec, published)
    words = {
        "PRODUCT": product,
        **{word: value for kind in formats.every() for word, value in kind.script_words(product).items()},
        "URL": checked_url(base_url),
        "KEYNAME": key_name,
        "KEY": "" if key is None else _bare_key(key),
        "APTIMAGES": " ".join(image for image in _images(spec, published) if image in apt),
        "SYSTEMS": "\n".join(_systems(spec, published)),
        "MODELS": "\n".join(f"{image}\t{model}\t{target}" for image in ranked for model, target in ranked[image]),
        "TARGETS": "\n".join(_targets(ranked)),
        "NAMES": "\n".join(_names(spec, published)),
    }
    text = (ASSETS / SCRIPT).read_text(encoding="utf-8")
    # All words at once: a value that holds such a word is not replaced again.
    return WORD.sub(lambda found: words[found.group(1)], text).encode()


def _bare_key(key: str) -> str:
    """Return the key without the text around it, and without its headers, which may hold any text."""
    found = KEY_BLOCK.findall("\n".join(key.splitlines()))
    if len(found) != 1:
        raise DestinationError(
            "this is no public key in text form", hint="export one alone: gpg --armor --export FINGERPRINT"
        )
    return f"{KEY_BEGIN}\n\n{found[0]}{KEY_END}"


def _images(spec: Spec, published: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the images with packages in the order of the matrix; those that it no longer has come last."""
    present = [image for image in published if published[image]]
    order = list(spec.images)
    return sorted(present, key=lambda image: (order.index(image) if image in order else len(order), image))


def _systems(spec: Spec, published: Mapping[str, Sequence[str]]) -> Iterator[str]:
    # Lines `IMAGE, os-release ID, version`. The script takes the first match. Several images may be for one system, so
    # those with packages come first.
    first = [image for image in _images(spec, published) if image in spec.images]
    for image in (*first, *(image for image in spec.images if image not in first)):
        os = spec.images[image].os
        for name in sorted(families.alike(os.id)):
            yield f"{image}\t{name}\t{os.version}"


def _built_for(spec: Spec, published: Mapping[str, Collection[str]]) -> dict[tuple[str, str], str]:
    """Return targets of what is published by image and model; they do not depend on the allocator.

    A cell that cannot be built has the target that its CPUs allow.
    """
    models = {model for found in published.values() for model in found}
    triples = {
        (image, model): (model, image, allocator)
        for model, image, allocator in matrix.combinations(spec, of=models).triples
        if model in published.get(image, ())
    }
    return {place: matrix.cell_of(spec, triple).target for place, triple in triples.items()}


def _ranked(spec: Spec, published: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[str, str]]]:
    """Return models with their targets by image, the most demanding target first.

    If models share a target, a model with the name of the target comes first: it is the right one for a machine that is
    chosen by its CPUs. Then the order of the matrix counts. Models without a known target come last.
    """
    known = _built_for(spec, published)
    order = list(spec.hardware)
    ranked = {}
    for image in _images(spec, published):
        found = []
        for model in dict.fromkeys(published[image]):
            target = UNKNOWN
            if model in spec.hardware:
                target = known.get((image, model)) or microarch.common_target(spec.hardware[model].cpus)
            demand = microarch.demand(target) if target != UNKNOWN else 0
            place = order.index(model) if model in order else len(order)
            found.append(((-demand, target, model != target, place, model), (model, target)))
        ranked[image] = [pair for _, pair in sorted(found)]
    return ranked


def _targets(ranked: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[str]:
    used = {target for pairs in ranked.values() for _, target in pairs} - {UNKNOWN}
    for target in sorted(used):
        yield f"{target}\t{' '.join(target_flags(target))}"


def _names(spec: Spec, published: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Return lines with the DMI product names of models: whole names (`is`) before parts of names (`has`)."""
    known: dict[str, str] = {}
    for model, hardware in spec.hardware.items():
        for name in hardware.dmi:
            if not DMI_NAME.fullmatch(name):
                raise DestinationError(f"{name!r} is no DMI product name", where=f"hardware.{model}.dmi")
            small = name.lower()
            if known.setdefault(small, model) != model:
                message = f"the DMI product name {name!r} is also that of {known[small]}"
                raise DestinationError(
                    message, where=f"hardware.{model}.dmi", hint="remove it from one of the two models"
                )
    yield from (f"is\t{name}\t{model}" for name, model in known.items())
    gone = sorted({model for models in published.values() for model in models} - set(spec.hardware))
    yield from (f"has\t{model.lower()}\t{model}" for model in (*spec.hardware, *gone))
