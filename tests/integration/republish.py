"""Publishes many generations, one process each, and kills some of them at random moments.

A program of its own, because it forks: `python republish.py FOLDER COUNT SEED KEEP URL`, to a folder where the URL is
empty, else to a server as REPUBLISH_USER with REPUBLISH_PASSWORD. Each publication is a forked process, so that a kill
is a real one and imports are paid for once. One line on standard output for each.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "build")]

from publishing import FakeSigner, Root, Shelf, in_folder, spec  # noqa: E402

from pikaforge.formats.deb import apt  # noqa: E402
from pikaforge.formats.rpm import yum  # noqa: E402
from pikaforge.publish.sites.credentials import Credentials  # noqa: E402
from pikaforge.publish.sites.web import WebSite  # noqa: E402

HARMLESS = 3
"""One in so many is left alone."""


def root_of(folder: Path, url: str) -> Root:
    """Where it is published to."""
    if not url:
        return replace(in_folder(folder), signer=FakeSigner())
    who = Credentials(user=os.environ["REPUBLISH_USER"], password=os.environ["REPUBLISH_PASSWORD"])
    return Root(shelf=Shelf(folder / "shelf"), site=WebSite(url, who, pause=0.05, look=0.05), signer=FakeSigner())


def publish(folder: Path, url: str, number: int, keep: int) -> None:
    """One publication, of an RPM and a DEB, by turns a rollback."""
    root = root_of(folder, url)
    if number % 17 == 16:
        root.rollback()
        return
    root.publish(
        root.shelf.item(f"1.{number}"),
        root.shelf.item(f"1.{number}", format="deb"),
        root.shelf.item(f"1.{number}", format="tar"),
        keep=keep,
    )


def main(folder: Path, count: int, seed: int, keep: int, url: str) -> None:
    """Publish until `count` publications have come to their end, and about as many have been killed."""
    chance = random.Random(seed)
    yum.library()
    apt.library()
    spec()
    publish(folder, url, 0, keep)
    print("ready", flush=True)
    done, number, usual = 0, 0, 0.1
    while done < count:
        number += 1
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                publish(folder, url, number, keep)
                status = 0
            except Exception:  # noqa: BLE001  # the parent's loop is none of the child's business
                traceback.print_exc()
            finally:
                os._exit(status)
        if number % HARMLESS:
            # Somewhere in its life, mostly: what is waited for is the clock.
            time.sleep(chance.random() * usual * 1.2)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print("killed", flush=True)
            continue
        if status:
            print(f"failed {number}", flush=True)
            sys.exit(1)
        if number % HARMLESS == 0:
            usual = 0.7 * usual + 0.3 * (time.monotonic() - began)
        done += 1
        print("done", flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
