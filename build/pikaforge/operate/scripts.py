"""What packages bring to set instances of a server up, and to look after them: scripts, tables and units.

The scripts name no product and are the same for all: what is particular is in utils/lib/product.sh and in tables. A
server without the section `operate` gets utils/deploy.sh and what that needs; its unit starts the server itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pikaforge.config.operate import Operate
from pikaforge.config.product import Product, Server
from pikaforge.host.memo import for_last
from pikaforge.host.text import filled
from pikaforge.operate import metrics, tables
from pikaforge.operate.product_sh import product_sh

ASSETS = Path(__file__).resolve().parent / "assets"
UNIT, OPERATED_UNIT, BOOT_TEMPLATE = ASSETS / "instance.service", ASSETS / "operated.service", ASSETS / "boot.sh"
DEPLOY = "utils/deploy.sh"
SETTINGS = "utils/settings.tsv"
LIBRARY = "utils/lib"
BOOT = "utils/boot.sh"
OPERATED = ("utils/instance.sh", "utils/run.sh", "utils/backup-rsync.sh")
"""What an operated server gets beside utils/deploy.sh."""
EXECUTABLE = (DEPLOY, *OPERATED, BOOT, metrics.SCRIPT)
"""What gets mode 0755. The others are read by these."""
FOR_ALL = ("common.sh", "conf-merge.sh", "deploy-checks.sh", "deploy-conf.sh", "deploy-host.sh")
"""Of the library: what utils/deploy.sh needs."""
TABLES: tuple[Callable[[Operate], Mapping[str, bytes]], ...] = (tables.of_operate, tables.of_parts)
"""What each part of the section adds: contents by path. A part that is left out adds nothing."""


def rendered(product: Product, words: Mapping[str, str]) -> dict[str, bytes]:
    """Return what goes into a package: contents by path below its top folder.

    Args:
        product: what is packed.
        words: PRODUCT, VERSION, MODEL, TARGET and IMAGE of the package.
    """
    server = product.server
    if server is None:
        return {}
    words = {**words, **_words(server)}
    unit = f"systemd/{product.name}@.service"
    contents = {**_of_all_packages(product), f"{LIBRARY}/product.sh": product_sh(product, words).encode()}
    if server.operate is None:
        contents[unit] = filled(UNIT, words).encode()
        return contents
    contents[unit] = filled(OPERATED_UNIT, words).encode()
    contents[BOOT] = filled(BOOT_TEMPLATE, words).encode()
    if server.operate.metrics is not None:
        contents |= metrics.units(product, words)
    return contents


@for_last
def _of_all_packages(product: Product) -> Mapping[str, bytes]:
    """Return what is the same in all packages of a product, whatever the words are."""
    server = product.server
    assert server is not None  # see `rendered`
    contents = {DEPLOY: (ASSETS / "deploy.sh").read_bytes()}
    for name in FOR_ALL:
        contents[f"{LIBRARY}/{name}"] = (ASSETS / "lib" / name).read_bytes()
    if server.conf is not None:
        rows = server.conf.settings.items()
        contents[SETTINGS] = tables.table(rows)
    if server.operate is None:
        return contents
    for name in OPERATED:
        contents[name] = (ASSETS / Path(name).name).read_bytes()
    for path in sorted((ASSETS / "lib").iterdir()):
        contents[f"{LIBRARY}/{path.name}"] = path.read_bytes()
    for part in TABLES:
        contents |= part(server.operate)
    if server.operate.metrics is not None:
        contents |= metrics.rendered(product, server.operate.metrics)
    return contents


def _words(server: Server) -> dict[str, str]:
    """Return the words of the units."""
    return {
        "COMMAND": " ".join(_in_unit(part) for part in server.command),
        "SIGNAL": f"SIG{server.stop.signal}",
        "SECONDS": f"{server.stop.within:g}",
        "START": str(server.operate.start_within) if server.operate is not None else "",
    }


def _in_unit(word: str) -> str:
    return word.replace("{conf}", "${CONF}").replace("{data}", "${DATA}").replace("{port}", "%i")
