"""What client machines need to take packages from where they were published. Pure: the same inputs, the same bytes.

    IMAGE/PRODUCT.repo                  a whole fleet's, for yum and dnf: each machine takes its own model's packages
    IMAGE/PRODUCT-MODEL.repo            one model's
    IMAGE/PRODUCT-MODEL.list            one model's, for apt
    utils/detect-model.sh               finds a machine's model, for the fleet's file and for apt

Every machine has packages of one name to choose from, built for different CPUs; so which repository it uses is what
matters, and the script chooses as an operator would: by the model, if the CPUs agree.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pikaforge.config.scalars import NAME_PATTERN
from pikaforge.config.schema import DMI_NAME, Format, Spec
from pikaforge.cpu import microarch
from pikaforge.errors import ConfigError
from pikaforge.formats.payload import target_flags
from pikaforge.host.download import FILE_PATTERN
from pikaforge.host.hostos import EL_LIKE
from pikaforge.plan import plan

SCRIPT = "detect-model.sh"
ASSETS = Path(__file__).resolve().parent / "assets"
SCRIPT_PATH = f"utils/{SCRIPT}"
KEYRINGS = "/etc/apt/keyrings"
"""Where apt's documentation has administrators put keys (sources.list(5), Signed-By); older systems lack the folder."""
METADATA_EXPIRE = 300
"""Seconds for which yum and dnf do not ask again. Their own values are 6 and 48 hours: somebody who has published a
package would not find it, and a repository that keeps a few versions would be asked for files that are gone. What is
asked for is repomd.xml, a few kilobytes, and only while somebody works with packages."""
FIRST_DNF = 8
"""The first Enterprise Linux with dnf."""
UNKNOWN = "-"
"""A target of which the matrix says nothing any more."""

WORD = re.compile(r"@([A-Z]+)@")
NO_VARIABLE = re.compile(r"[^a-z0-9_]")
BASE_URL = re.compile(r"(https?|file)://[A-Za-z0-9._~:/%@+,=!()\[\]-]+")
"""What goes unquoted into a .repo file, where `$` begins a variable, and a sources.list, where blanks separate."""
PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~/-]*")
KEY_BEGIN, KEY_END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
KEY_BLOCK = re.compile(rf"{KEY_BEGIN}\n(?:[^\n]+\n)*?\n((?:[A-Za-z0-9+/=]+\n)+){KEY_END}")
"""A public key in text form: headers (RFC 4880, 6.2), a blank line, base64 with a checksum."""


# --- where things are


def fleet_repo_path(product: str, image: str) -> str:
    """`el7/PRODUCT.repo`: where `fleet_repo_file` is published."""
    return f"{image}/{product}.repo"


def model_repo_path(product: str, image: str, model: str) -> str:
    """`el7/PRODUCT-R620.repo`: where `model_repo_file` is published."""
    return f"{image}/{product}-{model}.repo"


def apt_list_path(product: str, image: str, model: str) -> str:
    """`debian12/PRODUCT-R620.list`: where `apt_list` is published."""
    return f"{image}/{product}-{model}.list"


def keyring(key_name: str) -> str:
    """Where a client keeps the key. apt reads text form, since 1.4, by the name's ending `.asc`."""
    return f"{KEYRINGS}/{key_name}"


def installer(spec: Spec, image: str) -> str:
    """What installs RPMs on an image's system: `yum`, or `dnf`."""
    if image not in spec.images:  # published before it was taken out of the matrix
        return "dnf"
    os = spec.images[image].os
    return "yum" if os.id in EL_LIKE and int(os.version.partition(".")[0]) < FIRST_DNF else "dnf"


# --- files for package managers


def yum_variable(product: str) -> str:
    """The variable that holds a machine's model.

    In small letters, without what a variable cannot have: yum looks for `$Name` under `name`, and takes names to be
    letters, digits and underscores (yum.conf(5)).
    """
    return f"{NO_VARIABLE.sub('', product.lower())}model"


def fleet_repo_file(*, product: str, image: str, base_url: str, key_url: str | None) -> str:
    """The .repo file for all machines of an image.

    Raises:
        ConfigError: a URL cannot be written into it.
    """
    variable = yum_variable(product)
    return _repo_file(
        (
            f"# {product} for {image}: each machine takes the packages of its hardware model, which {SCRIPT}",
            f"# writes to /etc/yum/vars/{variable}. Without that file there is nothing at the address below.",
        ),
        name=product,
        # Without braces: yum of EL7 knows `$name` alone.
        title=f"{product} for {image}, ${variable}",
        folder=f"{_url(base_url)}/{image}/${variable}",
        key_url=key_url,
    )


def model_repo_file(*, product: str, image: str, model: str, base_url: str, key_url: str | None) -> str:
    """The .repo file for machines of one model.

    Raises:
        ConfigError: a URL cannot be written into it.
    """
    return _repo_file(
        (f"# {product} for {image} on {model}, whatever machine this is.",),
        name=f"{product}-{model}",
        title=f"{product} for {image}, {model}",
        folder=f"{_url(base_url)}/{image}/{model}",
        key_url=key_url,
    )


def _repo_file(comments: Iterable[str], *, name: str, title: str, folder: str, key_url: str | None) -> str:
    if key_url is None:
        checks: tuple[str, ...] = (
            "# Nobody has signed the packages or this repository: there is no key to check them with.",
            "gpgcheck=0",
            "repo_gpgcheck=0",
        )
    else:
        checks = ("gpgcheck=1", "repo_gpgcheck=1", f"gpgkey={_url(key_url)}")
    lines = (
        *comments,
        f"[{name}]",
        f"name={title}",
        f"baseurl={folder}/x86_64/",
        "enabled=1",
        *checks,
        f"metadata_expire={METADATA_EXPIRE}",
    )
    return "".join(f"{line}\n" for line in lines)


def apt_list(*, product: str, image: str, model: str, base_url: str, keyring: str | None) -> str:
    """The file for /etc/apt/sources.list.d.

    Without `keyring`, the key's path on the client, it has no source: apt refuses a repository that is not signed, and
    then every `apt-get update` of the machine fails. It is never told to trust such a one.

    Raises:
        ConfigError: the URL cannot be written into it.
    """
    folder = f"{_url(base_url)}/{image}/{model}/debs"
    lines = [f"# {product} for {image}, {model}"]
    if keyring is None:
        lines += [
            "# Nobody has signed this repository, and apt takes nothing from such. Publish it with a signing key, and",
            "# take this file anew; until then download a package and install its file: apt-get install ./FILE.deb",
            f"# deb [arch=amd64] {folder} ./",
        ]
    else:
        lines.append(f"deb [arch=amd64 signed-by={keyring}] {folder} ./")
    return "".join(f"{line}\n" for line in lines)


# --- what a person copies


def install_lines(
    artifact_format: Format,
    *,
    product: str,
    image: str,
    model: str | None,
    package_name: str,
    version: str,
    base_url: str,
    path: str,
    key_url: str | None,
    installer: str = "dnf",
    port: str = "PORT",
) -> tuple[str, ...]:
    """Shell lines that install a package as root, to be copied from a page.

    Args:
        artifact_format: what is installed; tar and wheel take the file at `path` and what lies beside it.
        product: the product's name.
        image: the image's name.
        model: the model's name; None for a machine that finds it by itself (rpm and deb). There are no lines for
            such a one and a deb that nobody has signed: no file is for every model.
        package_name: as the package manager has it; a wheel's is its distribution's.
        version: a wheel's, as pip has it; the other formats install what is newest.
        base_url: of everything that is published; a folder's is file://…
        path: of the artifact, below `base_url`.
        key_url: where the key is that signs, if any does.
        installer: for RPMs, see the function of that name.
        port: for the first instance of a tarball.

    Raises:
        ConfigError: a URL or the path cannot be written into a line.
    """
    base = _url(base_url)
    if not PATH.fullmatch(path) or ".." in path.split("/") or not re.fullmatch(FILE_PATTERN, posixpath.basename(path)):
        raise ConfigError(f"{path!r} is no path of a published file", hint="letters, digits and . _ + ~ - in its parts")
    name = shlex.quote(package_name)
    if artifact_format == "rpm":
        return (*_rpm_lines(base, product, image, model), f"{installer} install {name}")
    if artifact_format == "deb":
        if key_url is None:
            return () if model is None else _checked(base, path, f"apt-get install ./{_file(path)}")
        return (*_deb_lines(base, product, image, model, _url(key_url)), "apt-get update", f"apt-get install {name}")
    if artifact_format == "tar":
        deploy = shlex.quote(f"/opt/{product}/utils/deploy.sh")
        return (*_checked(base, path, f"tar xf {_file(path)} -C /opt/"), f"bash {deploy} {shlex.quote(port)} /data")
    if base.startswith("http:"):
        # pip looks for packages at none but safe places; a file it takes from anywhere.
        return _checked(base, path, f"python3 -m pip install --no-index ./{_file(path)}")
    # No index: another one may have something else of this name.
    folder = shlex.quote(f"{base}/{posixpath.dirname(path)}/")
    return (f"python3 -m pip install --no-index --find-links {folder} {shlex.quote(f'{package_name}=={version}')}",)


def _rpm_lines(base: str, product: str, image: str, model: str | None) -> Iterator[str]:
    path = fleet_repo_path(product, image) if model is None else model_repo_path(product, image, model)
    yield _fetch(base, path, f"/etc/yum.repos.d/{posixpath.basename(path)}")
    if model is None:
        yield from _script_lines(base)


def _deb_lines(base: str, product: str, image: str, model: str | None, key_url: str) -> Iterator[str]:
    if model is None:
        yield from _script_lines(base, " --apt")
        return
    path = keyring(posixpath.basename(key_url))
    yield f"mkdir -p {KEYRINGS}"
    yield f"curl -fsS -o {shlex.quote(path)} {shlex.quote(key_url)}"
    yield _fetch(base, apt_list_path(product, image, model), f"/etc/apt/sources.list.d/{product}.list")


def _script_lines(base: str, option: str = "") -> Iterator[str]:
    # Into a file first: a shell would obey the half of a script of which the rest was lost on the way.
    yield f"curl -fsSO {shlex.quote(f'{base}/{SCRIPT_PATH}')} && sh {SCRIPT}{option}"


def _fetch(base: str, path: str, into: str) -> str:
    return f"curl -fsS -o {shlex.quote(into)} {shlex.quote(f'{base}/{path}')}"


def _file(path: str) -> str:
    return shlex.quote(posixpath.basename(path))


def _checked(base: str, path: str, then: str) -> tuple[str, ...]:
    """Download a file and what says its digest, compare, and only then go on."""
    sums = shlex.quote(f"{base}/{posixpath.join(posixpath.dirname(path), 'SHA256SUMS')}")
    # awk, because sha256sum of EL7 cannot leave out the files that are not here.
    chosen = shlex.quote(f'$2 == "{posixpath.basename(path)}"')
    return (
        f"curl -fsSO {shlex.quote(f'{base}/{path}')}",
        f"curl -fsS {sums} | awk {chosen} | sha256sum -c - && {then}",
    )


def _url(url: str) -> str:
    url = url.rstrip("/")
    if not BASE_URL.fullmatch(url):
        hint = "https://, http:// or file:// with letters, digits and . _ ~ : / % @ + , = ! ( ) [ ] -; others as %XX"
        raise ConfigError(f"{url!r} cannot be written into the files of package managers", hint=hint)
    return url


# --- the script


def detect_script(
    spec: Spec,
    published: Mapping[str, Sequence[str]],
    *,
    base_url: str,
    key_name: str = "",
    key: str | None = None,
    apt: Collection[str] = (),
) -> bytes:
    """The script that finds a machine's model, with what it has to know.

    Args:
        spec: the matrix. Models and images that it has no more are known by their names alone.
        published: models by image, as they are published.
        base_url: of everything that is published.
        key_name: the file name of the key on clients, `NAME.asc`; empty: called after the product.
        key: the public key that signs the repositories, in text form, for `--apt`; None if they are not signed.
        apt: images for which there are repositories for apt.

    Raises:
        ConfigError: a name, the URL or the key cannot be written into a script, or two models share a DMI name.
    """
    product = spec.product.name
    for word in (*published, *(model for models in published.values() for model in models)):
        if not re.fullmatch(NAME_PATTERN, word):
            raise ConfigError(f"{word!r} is no name of an image or model", hint="remove it from what is published")
    key_name = key_name or f"{product}.asc"
    if not re.fullmatch(FILE_PATTERN, key_name) or not key_name.endswith(".asc"):
        raise ConfigError(f"{key_name!r} is no name for a key in text form", hint="letters and digits, then .asc")
    ranked = _ranked(spec, published)
    words = {
        "PRODUCT": product,
        "VARIABLE": yum_variable(product),
        "URL": _url(base_url),
        "KEYNAME": key_name,
        "KEY": "" if key is None else _bare_key(key),
        "APTIMAGES": " ".join(image for image in _images(spec, published) if image in apt),
        "SYSTEMS": "\n".join(_systems(spec, published)),
        "MODELS": "\n".join(f"{image}\t{model}\t{target}" for image in ranked for model, target in ranked[image]),
        "TARGETS": "\n".join(_targets(ranked)),
        "NAMES": "\n".join(_names(spec, published)),
    }
    text = (ASSETS / SCRIPT).read_text(encoding="utf-8")
    # In one go: a word within a value stays as it is.
    return WORD.sub(lambda found: words[found.group(1)], text).encode()


def _bare_key(key: str) -> str:
    """The key without what stands before and after it, and without its headers, which may hold any text."""
    found = KEY_BLOCK.findall("\n".join(key.splitlines()))
    if len(found) != 1:
        raise ConfigError(
            "this is no public key in text form", hint="export one alone: gpg --armor --export FINGERPRINT"
        )
    return f"{KEY_BEGIN}\n\n{found[0]}{KEY_END}"


def _images(spec: Spec, published: Mapping[str, Sequence[str]]) -> list[str]:
    """Images that something is published for, in the matrix's order; those that it has no more come last."""
    there = [image for image in published if published[image]]
    order = list(spec.images)
    return sorted(there, key=lambda image: (order.index(image) if image in order else len(order), image))


def _systems(spec: Spec, published: Mapping[str, Sequence[str]]) -> Iterator[str]:
    # What is published comes first, because the first that matches is taken and several may be one system's.
    first = [image for image in _images(spec, published) if image in spec.images]
    for image in (*first, *(image for image in spec.images if image not in first)):
        os = spec.images[image].os
        for name in sorted(EL_LIKE) if os.id in EL_LIKE else (os.id,):
            yield f"{image}\t{name}\t{os.version}"


def _built_for(spec: Spec) -> dict[tuple[str, str], str]:
    """Targets by image and model. Of cells that cannot be built, what the CPUs allow: that asks for no less."""
    return {(cell.image, cell.model): cell.target for cell in plan.all_cells(spec)}


def _ranked(spec: Spec, published: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[str, str]]]:
    """Models with their targets by image, the most demanding first.

    Of models that share a target, the one that is called like it comes first, because where CPUs decide the machine is
    no other; then the matrix's order. Those without a target come last.
    """
    known = _built_for(spec)
    order = list(spec.hardware)
    ranked = {}
    for image in _images(spec, published):
        found = []
        for model in dict.fromkeys(published[image]):
            target = UNKNOWN
            if model in spec.hardware:
                target = known.get((image, model)) or microarch.common_target(spec.hardware[model].cpus)
            flags = len(target_flags(target)) if target != UNKNOWN else 0
            place = order.index(model) if model in order else len(order)
            found.append(((-flags, target, model != target, place, model), (model, target)))
        ranked[image] = [pair for _, pair in sorted(found)]
    return ranked


def _targets(ranked: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[str]:
    used = {target for pairs in ranked.values() for _, target in pairs} - {UNKNOWN}
    for target in sorted(used):
        yield f"{target}\t{' '.join(target_flags(target))}"


def _names(spec: Spec, published: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What machines call themselves: whole names before words, which may be part of those of others."""
    owner: dict[str, str] = {}
    for model, hardware in spec.hardware.items():
        for name in hardware.dmi:
            if not DMI_NAME.fullmatch(name):
                raise ConfigError(f"{name!r} is no DMI product name", where=f"hardware.{model}.dmi")
            small = name.lower()
            if owner.setdefault(small, model) != model:
                message = f"the DMI product name {name!r} is also that of {owner[small]}"
                raise ConfigError(message, where=f"hardware.{model}.dmi", hint="a machine is of one model: remove one")
    yield from (f"is\t{name}\t{model}" for name, model in owner.items())
    gone = sorted({model for models in published.values() for model in models} - set(spec.hardware))
    yield from (f"has\t{model.lower()}\t{model}" for model in (*spec.hardware, *gone))
