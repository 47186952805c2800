"""Parts of a specification that a product need not have, for tests of one that has them."""

from __future__ import annotations

from pikaforge.config.operate import Operate
from pikaforge.config.product import Conf, Product, Server


def server_of(product: Product) -> Server:
    """The server that the product is."""
    assert product.server is not None
    return product.server


def conf_of(product: Product) -> Conf:
    """The configuration file of its server."""
    conf = server_of(product).conf
    assert conf is not None
    return conf


def operate_of(product: Product) -> Operate:
    """How its instances are operated."""
    operate = server_of(product).operate
    assert operate is not None
    return operate
