"""The index page of a published root: `index.html`, for people.

One file that loads nothing: style, script and data are in it, and links are relative to the root, so it works at any
URL and as a local file. Its Content-Security-Policy allows this style and this script by their digests and nothing
else, and all names reach it as text. The plain list of files is what wget, text browsers, and servers whose own policy
forbids scripts are left with; the script puts the search in its place.

The same catalogue and lines give the same bytes: there is no clock in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX
from pikaforge.formats.format import Format, every
from pikaforge.publish.state import CATALOGUE, Artifact, Catalogue, File, Repository

ASSETS = Path(__file__).resolve().parent / "assets"
UNRESERVED = "/!'()*~"
"""What JavaScript's encodeURIComponent leaves as it is, and the slash: both halves of the page write the same links."""
LABELS: Mapping[str, str] = {SBOM_SUFFIX: "SBOM", PROVENANCE_SUFFIX: "provenance", SIGNATURE_SUFFIX: "signature"}
"""What lies beside an artifact, by what its name has more than that of the artifact."""
ROLES = ("main", "allocator", "debug")
"""In the order of their interest to a reader."""

Install = Callable[[Repository, Artifact], tuple[str, ...]]
"""The shell lines that install one artifact."""
Fleet = Callable[[str], tuple[str, ...]]
"""The shell lines that install on any machine of the fleet with an image."""


def page(catalogue: Catalogue, install: Install, fleet: Fleet) -> str:
    """The text of `index.html`.

    Args:
        catalogue: what is published.
        install: the lines to copy for an artifact; none where there is nothing to say.
        fleet: the lines to copy for all models of an image; none where there is nothing to say.
    """
    style, script = _asset("page.css"), _asset("page.js")
    images = _images(catalogue.repositories)
    fleets = {image: fleet(image) for image in images}
    title = escape(f"{catalogue.product} packages")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_source(style)}'",
            f"script-src '{_source(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title>",
        f"<style>{style}</style>",
        f"<script>{script}</script>",
        "</head>",
        "<body>",
        *_header(catalogue, title),
        "<main>",
    ]
    if any(repository.artifacts for repository in catalogue.repositories):
        parts += _controls(catalogue.repositories)
        parts += _plain(images, fleets)
        parts.append(f'<script type="application/json" id="data">{_data(images, fleets, install)}</script>')
    parts += [
        "</main>",
        f'<footer>Made by pikaforge. For programs, the same as JSON: <a href="{CATALOGUE}">{CATALOGUE}</a>.</footer>',
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """What names an inline style or script in a policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _header(catalogue: Catalogue, title: str) -> list[str]:
    files = sum(len(repository.artifacts) for repository in catalogue.repositories)
    if files:
        newest = max(_moment(repository.published) for repository in catalogue.repositories)
        told = (
            f"{_count(files, 'file', 'files')} in "
            f"{_count(len(catalogue.repositories), 'repository', 'repositories')}; the newest publication is of "
            f'<time datetime="{escape(newest)}">{escape(newest.replace("T", " ").replace("Z", " UTC"))}</time>.'
        )
    else:
        told = "Nothing is published here yet."
    if catalogue.key is None:
        signed = "Nothing here is signed: the digests are only as good as the way by which this page reached you."
    else:
        # In fours, as gpg prints it; without blanks in the copy that a search of the page finds.
        digits = catalogue.key.fingerprint
        fours = "".join(f"<span>{escape(digits[at : at + 4])}</span>" for at in range(0, len(digits), 4))
        signed = (
            f'Signed with the key <code class="fingerprint">{fours}</code> '
            f'(<a href="{_link(catalogue.key.path)}">{escape(posixpath.basename(catalogue.key.path))}</a>).'
        )
    return [
        "<header>",
        f"<h1>{title}</h1>",
        *([f'<p class="summary">{escape(catalogue.summary)}</p>'] if catalogue.summary else []),
        f"<p>{told}</p>",
        f"<p>{signed}</p>",
        "</header>",
    ]


def _controls(repositories: Sequence[Repository]) -> list[str]:
    """The search; hidden until the script that makes it work is there."""
    present = {artifact.format for repository in repositories for artifact in repository.artifacts}
    return [
        '<form id="controls" role="search" autocomplete="off" hidden>',
        '<div class="field wide">',
        '<label for="q">Search</label>',
        '<input type="search" id="q" placeholder="model, version, date, digest …" spellcheck="false"',
        'autocapitalize="off" aria-describedby="hint">',
        "</div>",
        _select("model", "Model", "all models", sorted({r.model for r in repositories}, key=_natural)),
        _select("image", "Image", "all images", sorted({r.image for r in repositories}, key=_natural)),
        _select("format", "Format", "all formats", [kind.name for kind in _formats() if kind.name in present]),
        '<label class="check"><input type="checkbox" id="debug"> debug packages</label>',
        '<button type="reset" id="clear" disabled>clear</button>',
        '<p id="hint">All words must match: model, image, version, file, package, target, allocator or date;',
        "six digits or more of a SHA-256 find its file.</p>",
        "</form>",
        '<p id="status" role="status" hidden></p>',
        '<div id="results" hidden></div>',
        '<button type="button" id="more" hidden></button>',
    ]


def _select(name: str, label: str, everything: str, values: Iterable[str]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
    return (
        f'<div class="field"><label for="{name}">{label}</label>'
        f'<select id="{name}"><option value="">{everything}</option>{options}</select></div>'
    )


def _plain(images: Mapping[str, Sequence[Repository]], fleets: Mapping[str, tuple[str, ...]]) -> list[str]:
    """All files as plain links: what there is without a script."""
    parts = ['<section id="plain">']
    for image, repositories in images.items():
        parts.append(f"<h2>{escape(image)}</h2>")
        if fleets[image]:
            lines = escape("\n".join(fleets[image]))
            parts.append(f"<p>On any machine of the fleet with {escape(image)}:</p>\n<pre>{lines}</pre>")
        for repository in repositories:
            parts.append(f"<h3>{escape(repository.model)}</h3>")
            parts.append("<ul>")
            parts += [_item(repository, artifact) for artifact in _newest_first(repository.artifacts)]
            parts.append("</ul>")
    parts.append("</section>")
    return parts


def _item(repository: Repository, artifact: Artifact) -> str:
    beside = "".join(
        f', <a href="{_link(repository.path, file.path)}">{escape(_label(artifact, file))}</a>'
        for file in artifact.beside
    )
    return (
        f'<li><a href="{_link(repository.path, artifact.path)}">{escape(artifact.name)}</a> ({_size(artifact.bytes)}, '
        f"published {escape(_moment(artifact.published)[:10])}, SHA-256 <code>{escape(artifact.sha256)}</code>"
        f"{beside}){_proof(artifact)}</li>"
    )


def _proof(artifact: Artifact) -> str:
    """What is to be known of an artifact's target: that a better one was wanted, or that it was not run."""
    wanted = f"built for {artifact.target}, as the compiler knows no {artifact.wanted}" if artifact.wanted else ""
    told = "; ".join(text for text in (wanted, artifact.not_run) if text)
    return f": {escape(told)}" if told else ""


def _data(images: Mapping[str, Sequence[Repository]], fleets: Mapping[str, tuple[str, ...]], install: Install) -> str:
    """What the script searches, as JSON that is safe inside a script element.

    Lines to copy are alike for many artifacts, so they are told once and referred to by their number.
    """
    lines: dict[str, int] = {}

    def numbers(texts: Iterable[str]) -> list[int]:
        return [lines.setdefault(text, len(lines)) for text in texts]

    told = {
        "images": [
            {
                "image": image,
                "fleet": numbers(fleets[image]),
                "repositories": [
                    {
                        "path": repository.path,
                        "model": repository.model,
                        "published": _moment(repository.published),
                        "files": [
                            {**_told(artifact), "install": numbers(install(repository, artifact))}
                            for artifact in _newest_first(repository.artifacts)
                        ],
                    }
                    for repository in repositories
                ],
            }
            for image, repositories in images.items()
        ],
    }
    return _embedded({**told, "lines": list(lines)})


def _told(artifact: Artifact) -> dict[str, Any]:
    """What the script knows of an artifact."""
    return {
        "path": artifact.path,
        "format": artifact.format,
        "role": artifact.role,
        "package": artifact.package,
        "version": artifact.version,
        "product": artifact.product_version,
        "cell": artifact.cell,
        "target": artifact.target,
        **({"wanted": artifact.wanted} if artifact.wanted else {}),
        **({"notRun": artifact.not_run} if artifact.not_run else {}),
        "allocator": artifact.allocator,
        "built": _moment(artifact.built),
        "published": _moment(artifact.published),
        "bytes": artifact.bytes,
        "size": _size(artifact.bytes),
        "sha256": artifact.sha256,
        "beside": [[_label(artifact, file), file.path] for file in artifact.beside],
    }


def _embedded(value: object) -> str:
    """JSON in which nothing ends the script element, begins a comment or another one, or ends a line of JavaScript."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _label(artifact: Artifact, file: File) -> str:
    """What a file beside an artifact is; its name if that is not known."""
    if file.path.startswith(artifact.path) and (label := LABELS.get(file.path[len(artifact.path) :])):
        return label
    return posixpath.basename(file.path)


def _link(*parts: str) -> str:
    """A link to a file, relative to the root.

    A colon in the first part would make it a scheme, and a plus means a blank to some servers, so both are encoded.
    """
    return escape(quote("/".join(parts), safe=UNRESERVED))


def _images(repositories: Iterable[Repository]) -> dict[str, list[Repository]]:
    """The repositories by image: both with the newest publication first.

    Only the day counts, and then the name: models that were published in one run are in an order that can be read.
    """

    def day(repository: Repository) -> str:
        return _moment(repository.published)[:10]

    by_name = sorted(repositories, key=lambda repository: (_natural(repository.image), _natural(repository.model)))
    images: dict[str, list[Repository]] = {}
    for repository in by_name:
        images.setdefault(repository.image, []).append(repository)
    for found in images.values():
        found.sort(key=day, reverse=True)
    return dict(sorted(images.items(), key=lambda item: day(item[1][0]), reverse=True))


def _newest_first(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """What was published together stays together: newer versions first, and debug information last.

    Of several allocators the default one is first: its files have no allocator in their names, so theirs are shorter.
    """
    formats = [kind.name for kind in _formats()]
    by_kind = sorted(
        artifacts, key=lambda a: (ROLES.index(a.role), formats.index(a.format), len(a.name), _natural(a.path))
    )
    by_version = sorted(by_kind, key=lambda artifact: _natural(artifact.product_version), reverse=True)
    return sorted(by_version, key=lambda artifact: _moment(artifact.published), reverse=True)


@lru_cache(maxsize=4096)
def _formats() -> list[Format]:
    """All formats; those that system package managers install come first."""
    return sorted(every(), key=lambda kind: not kind.families)


def _natural(text: str) -> tuple[tuple[str, int], ...]:
    """A key that puts R620 before R6415."""
    return tuple((other, int(digits or 0)) for other, digits in re.findall(r"([^0-9]*)([0-9]*)", text))


@lru_cache(maxsize=4096)
def _moment(text: str) -> str:
    """A point in time in one notation, to the second, in UTC; a text that is none stays as it is."""
    try:
        moment = datetime.fromisoformat(re.sub("Z$", "+00:00", text))  # Python 3.10 knows no Z
    except ValueError:
        return text
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _size(count: int) -> str:
    """A size for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
