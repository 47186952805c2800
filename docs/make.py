"""Build the site of these pages. `nox -s docs -- --help` shows the options.

The site is in English, and in each language that has a folder below `locale`, as far as that translates it. Warnings
are errors, so a link that leads nowhere ends the build.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LOCALE = DOCS / "locale"
TRANSLATED = ("index", "first-build", "operating")
"""Pages that are translated; the others are English in every language."""


def languages() -> list[str]:
    """Return the languages besides English."""
    return sorted(path.parent.name for path in LOCALE.glob("*/LC_MESSAGES"))


def sphinx(builder: str, to: Path, out: Path, *more: str) -> None:
    """Run Sphinx, and end with its exit status if it has found something."""
    doctrees = out / "doctrees" / (to.name if builder == "html" else builder)
    words = ("-b", builder, "-W", "--keep-going", "-n", "-j", "2", "-q", "-d", str(doctrees), *more)
    run([sys.executable, "-m", "sphinx", *words, str(DOCS), str(to)])


def run(argv: Sequence[str]) -> None:
    """Run a program; end with its exit status if that is not 0."""
    status = subprocess.run(argv, check=False, cwd=ROOT).returncode
    if status:
        sys.exit(status)


def translations(out: Path) -> None:
    """Bring the catalogues of messages up to date with the pages: new texts come in without a translation."""
    sphinx("gettext", out / "gettext", out)
    chosen = out / "pot"
    shutil.rmtree(chosen, ignore_errors=True)
    chosen.mkdir(parents=True)
    for page in TRANSLATED:
        shutil.copy(out / "gettext" / f"{page}.pot", chosen)
    names = [word for name in languages() or ["zh_CN"] for word in ("-l", name)]
    run([sys.executable, "-m", "sphinx_intl", "update", "-p", str(chosen), "-d", str(LOCALE), *names])


def pictures(out: Path) -> None:
    """Draw the pictures of the pages again: each script in docs/pictures writes its own into its first argument.

    Those that a page shows are put beside the scripts; the others, for people who change what is drawn, stay in `out`.
    """
    folder, drawn = DOCS / "pictures", out / "pictures"
    drawn.mkdir(parents=True, exist_ok=True)
    for script in sorted(folder.glob("*.py")):
        run([sys.executable, str(script), str(drawn)])
    pages = "".join(path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *DOCS.glob("*.md")))
    for picture in sorted(drawn.iterdir()):
        if f"pictures/{picture.name}" in pages:
            shutil.copyfile(picture, folder / picture.name)


def main(argv: Sequence[str]) -> None:
    """Build what the arguments say."""
    page = argparse.ArgumentParser(prog="nox -s docs --", description="Build the site of docs/, in all its languages.")
    page.add_argument("--out", type=Path, default=ROOT / "out" / "docs", metavar="DIR", help="instead of out/docs")
    page.add_argument("--english", action="store_true", help="leave the other languages out")
    page.add_argument("--links", action="store_true", help="also ask each address outside; this needs the network")
    page.add_argument(
        "--translations", action="store_true", help="only bring docs/locale up to date with the pages, for translators"
    )
    page.add_argument(
        "--pictures", action="store_true", help="first draw the pictures again; PNGs need a Chromium on this machine"
    )
    chosen = page.parse_args(argv)
    out: Path = chosen.out.resolve()
    if chosen.translations:
        translations(out)
        return
    if chosen.pictures:
        pictures(out)
    site = out / "site"
    sphinx("html", site, out, *(("-A", "alone=1") if chosen.english else ()))
    for language in () if chosen.english else languages():
        sphinx("html", site / language, out, "-D", f"language={language}")
    if chosen.links:
        sphinx("linkcheck", out / "links", out)
    print(f"the site is {site / 'index.html'}")


if __name__ == "__main__":
    main(sys.argv[1:])
