"""What goes into a package beside the tree: utils/ and systemd/, filled in from the product entry.

The templates under payload/ name no product. They hold @WORDS@ for values that are names by the model's patterns, so
nothing needs quoting; settings go to the deployment script as data, in a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pikaforge.model import Product

FOLDER = Path(__file__).resolve().parents[1] / "payload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Files by their path below the top folder."""

    contents: Mapping[str, bytes]
    executable: tuple[str, ...]


def render(product: Product) -> Rendered:
    """The files for a product."""
    server = product.server
    separator = server.conf.line.replace("{key}", "").replace("{value}", "")
    settings = "".join(f"{key}\t{value}\n" for key, value in server.conf.settings.items())
    words = {
        "PRODUCT": product.name,
        "VERSION": product.version,
        "PORT": str(server.port),
        "CONF": server.conf.path,
        "SEPARATOR": separator,
        "COMMAND": " ".join(part.replace("{conf}", "${CONF}").replace("{port}", "%i") for part in server.command),
        "SIGNAL": f"SIG{server.stop.signal}",
        "SECONDS": f"{server.stop.within:g}",
    }

    def fill(name: str) -> bytes:
        text = (FOLDER / name).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        return text.encode()

    return Rendered(
        contents={
            "utils/deploy.sh": fill("deploy.sh"),
            "utils/settings.tsv": settings.encode(),
            f"systemd/{product.name}@.service": fill("instance.service"),
        },
        executable=("utils/deploy.sh",),
    )
