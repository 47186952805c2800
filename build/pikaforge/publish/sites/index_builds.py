"""Builds in one Python index. Without a pinned version pip takes the highest one, whatever machine it runs on.

All wheels of a product have one project name, and differ in the local part of their version, as in 3.4.0+r620.debian12.
So of two models' wheels pip takes the one whose name sorts last. An index may therefore have wheels of one model, and
of one allocator for each image, unless clients pin the version. Wheels of several images may share an index: the
platform tag keeps a host from what it cannot run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from pikaforge.errors import DestinationError, PublishError
from pikaforge.formats.wheel.wheel_version import local_version
from pikaforge.publish.sites.site import Upload

LOCAL = re.compile(r"[^-]+-[^-+]+\+(?P<local>[A-Za-z0-9._]+)-.+\.whl")
FIELD = re.compile(r"\{([^{}]*)\}")
FIELDS = ("model", "image", "allocator")
"""What may be in the URLs of a destination, in braces: then there is an index for each."""
SHOWN = 3
"""Names of wheels in an error."""


def check_fields(urls: Iterable[str], where: str) -> None:
    """Raise ConfigError if a URL of a destination has other words in braces, or another brace."""
    for url in urls:
        wrong = [name for name in FIELD.findall(url) if name not in FIELDS]
        if wrong or set("{}") & set(FIELD.sub("", url)):
            raise DestinationError(
                f"{url} has {{{wrong[0]}}}" if wrong else f"{url} has a single brace",
                where=where,
                hint=f"known: {', '.join(f'{{{name}}}' for name in FIELDS)}",
            )


def by_index(url: str, simple: str | None, uploads: Sequence[Upload]) -> Mapping[tuple[str, str | None], list[Upload]]:
    """Return the uploads to each index, by its two URLs."""
    found: dict[tuple[str, str | None], list[Upload]] = {}
    for upload in uploads:
        place = _filled(url, upload), None if simple is None else _filled(simple, upload)
        found.setdefault(place, []).append(upload)
    return found


def _filled(url: str, upload: Upload) -> str:
    values = {"model": upload.model, "image": upload.image, "allocator": upload.allocator}
    return FIELD.sub(lambda field: quote(values[field[1]], safe=""), url)


def refuse_mixed(uploads: Sequence[Upload], there: Sequence[str], *, where: str, target: str) -> None:
    """Refuse uploads after which an index would have several builds among which pip cannot choose.

    Args:
        uploads: to one index.
        there: names of the files of the project that the index has.
        where: the index, as it is shown.
        target: name of the destination.

    Raises:
        PublishError: it would.
    """
    names = list(dict.fromkeys([*(upload.path.name for upload in uploads), *there]))
    for upload in uploads:
        others = [name for name in names if _is_other(upload, name)]
        if others:
            more = f", and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            raise PublishError(
                f"{upload.path.name} would share an index with other builds: {', '.join(others[:SHOWN])}{more}",
                where=where,
                hint="an unpinned `pip install` takes the one whose name sorts last, on any machine\n"
                f"give each model an index: {{model}} in the URLs of publish.{target}, or {{image}}, or {{allocator}}\n"
                f"or say `pinned: true` there, if all clients name the version (NAME=={_version(upload.path.name)})",
            )


def _is_other(upload: Upload, name: str) -> bool:
    """Return whether a wheel is of another model, or of another allocator of the same model and image."""
    mine, its = _local(upload.path.name), _local(name)
    if not mine or not its:
        return False  # it is none of ours
    if not _begins(its, local_version(upload.model)):
        return True
    image = local_version(upload.model, upload.image)
    return _begins(its, image) and _variant(its, image) != _variant(mine, image)


def _local(name: str) -> str:
    found = LOCAL.fullmatch(name)
    return local_version(found["local"]) if found else ""


def _begins(local: str, words: str) -> bool:
    return f"{local}.".startswith(f"{words}.")


def _variant(local: str, image: str) -> str:
    """Return the allocator in a local version: what is behind the image, without the count of builds."""
    return re.sub(r"(^|\.)[0-9]+$", "", local[len(image) + 1 :])


def _version(name: str) -> str:
    return name.split("-")[1]
