"""The options that only the verb `bundle` has."""

from __future__ import annotations

import argparse

EXTRAS = ("bench", "publish")
"""Verbs whose libraries a bundle has if they are asked for."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add them."""
    group = verb.add_argument_group("bundle")
    group.add_argument(
        "--output", default="", metavar="FILE", help="NAME.tar.zst (default, in out/), NAME.tar.gz or NAME.tar"
    )
    group.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="VERSION",
        help="wheels for this Python, as 3.11; may be repeated; default: the one that runs here",
    )
    group.add_argument("--extra", action="append", default=[], choices=EXTRAS, help="also what this verb needs")
    group.add_argument(
        "--key", action="append", default=[], metavar="FILE", help="a file with public keys, to verify with there"
    )
