"""Configuration of apt on client machines. The same inputs give the same bytes."""

from __future__ import annotations

from pikaforge.formats.client_lines import checked_url
from pikaforge.formats.templates import render

KEYRINGS = "/etc/apt/keyrings"
"""The folder for keys of administrators (sources.list(5), Signed-By). Older systems lack it."""


def apt_list_path(product: str, image: str, model: str) -> str:
    """Return where `apt_list` is published: `debian12/PRODUCT-R620.list`."""
    return f"{image}/{product}-{model}.list"


def keyring(key_name: str) -> str:
    """Return where a client keeps the key. Since 1.4, apt reads keys in text form if the name ends with `.asc`."""
    return f"{KEYRINGS}/{key_name}"


def apt_list(*, product: str, image: str, model: str, base_url: str, keyring: str | None) -> str:
    """Return the file for /etc/apt/sources.list.d.

    `keyring` is the key's path on the client. Without it the file has no source: apt refuses a repository that is not
    signed, and then every `apt-get update` of the machine fails. The file never makes apt trust such a repository.

    Raises:
        ConfigError: the URL cannot be written into it.
    """
    folder = f"{checked_url(base_url)}/{image}/{model}/debs"
    return render("deb/client.list.jinja", product=product, image=image, model=model, folder=folder, keyring=keyring)
