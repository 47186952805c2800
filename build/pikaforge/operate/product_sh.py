"""The file utils/lib/product.sh: what the scripts know of the product, as assignments."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pikaforge.config.product import Product, Server
from pikaforge.host.memo import for_last

HIGHEST_PORT = 65535
HEAD = "# shellcheck shell=sh disable=SC2034\n# Made from the product's entry in matrix.yaml.\n"
OF_THE_PACKAGE = ("model", "target", "image")
"""Variables that differ from package to package."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def highest_port(server: Server) -> int:
    """Return the last port that an instance may have: its further ports are above it."""
    return HIGHEST_PORT - max((0, *server.offsets))


def variables(server: Server) -> tuple[str, ...]:
    """Return the variables of an instance's environment file. The first one says where the instance is."""
    if server.operate is not None:
        return ("CONF", "DATA", "TREE")
    found = ("CONF",) if server.conf is not None else ()
    needs_data = server.conf is None or any("{data}" in part for part in server.command)
    return (*found, "DATA") if needs_data else found


def product_sh(product: Product, words: Mapping[str, str]) -> str:
    """Return the text of utils/lib/product.sh.

    Args:
        product: what is packed; it has a server.
        words: MODEL, TARGET and IMAGE of the package.

    Raises:
        ValueError: a value has a control character.
    """
    lines = dict(_lines(product))
    for name in OF_THE_PACKAGE:
        lines[name] = _line(name, words[name.upper()])
    return HEAD + "".join(lines.values())


@for_last
def _lines(product: Product) -> Mapping[str, str]:
    """Return the lines by their variables; those of the package are empty."""
    server = product.server
    assert server is not None  # see `product_sh`
    operate, conf = server.operate, server.conf
    clients, passwords = (operate.clients, operate.passwords) if operate is not None else (None, None)
    values = {
        "product": product.name,
        "version": product.version,
        "release": product.release,
        **dict.fromkeys(OF_THE_PACKAGE, ""),
        "shipped": conf.path if conf is not None else "",
        "separator": conf.separator if conf is not None else "",
        "offsets": " ".join(map(str, sorted({0, *server.offsets}))),
        "highest": str(highest_port(server)),
        "default_port": str(server.port),
        "variables": " ".join(variables(server)),
        "protocol": server.ready.kind if operate is not None else "",
        "command": " ".join(server.command) if operate is not None else "",
        "stop_signal": server.stop.signal,
        "stop_seconds": f"{server.stop.within:.0f}",
        "start_seconds": str(operate.start_within) if operate is not None else "",
        "host_name": "yes" if operate is not None and operate.host_name else "",
        "programs": " ".join(operate.programs) if operate is not None else "",
        "key_clients": clients.key if clients is not None else "",
        "default_clients": str(clients.default) if clients is not None else "",
        "reserve_files": str(clients.reserve) if clients is not None else "",
        "key_address": (operate.address or "") if operate is not None else "",
        "key_admin": (passwords.admin or "") if passwords is not None else "",
        "key_user": (passwords.user or "") if passwords is not None else "",
        "key_master": (passwords.master or "") if passwords is not None else "",
    }
    return {name: _line(name, value) for name, value in values.items()}


def _line(name: str, value: str) -> str:
    return f"{name}={quoted(value)}\n"


def quoted(value: str) -> str:
    """Return a value as one word of the shell.

    Raises:
        ValueError: there is a control character in it.
    """
    if CONTROL.search(value):
        raise ValueError(f"a control character in {value!r}")
    return "'" + value.replace("'", r"'\''") + "'"
