"""Configuration of apt on client machines. Pure: the same inputs, the same bytes."""

from __future__ import annotations

from pikaforge.formats.client_lines import checked_url
from pikaforge.formats.templates import render

KEYRINGS = "/etc/apt/keyrings"
"""Where apt's documentation has administrators put keys (sources.list(5), Signed-By); older systems lack the folder."""


def apt_list_path(product: str, image: str, model: str) -> str:
    """`debian12/PRODUCT-R620.list`: where `apt_list` is published."""
    return f"{image}/{product}-{model}.list"


def keyring(key_name: str) -> str:
    """Where a client keeps the key. apt reads text form, since 1.4, by the name's ending `.asc`."""
    return f"{KEYRINGS}/{key_name}"


def apt_list(*, product: str, image: str, model: str, base_url: str, keyring: str | None) -> str:
    """The file for /etc/apt/sources.list.d.

    Without `keyring`, the key's path on the client, it has no source: apt refuses a repository that is not signed, and
    then every `apt-get update` of the machine fails. It is never told to trust such a one.

    Raises:
        ConfigError: the URL cannot be written into it.
    """
    folder = f"{checked_url(base_url)}/{image}/{model}/debs"
    return render("deb/client.list.jinja", product=product, image=image, model=model, folder=folder, keyring=keyring)
