"""`verify`: whether artifacts are what was built: digests, signatures, provenance, contents, and the audit again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pikaforge.attest import signing
from pikaforge.attest import verify as library
from pikaforge.attest.claims import Claims
from pikaforge.attest.contents import PackageContents
from pikaforge.attest.describe import SIGNATURE_SUFFIX, SUMS
from pikaforge.attest.signatures import Verifier
from pikaforge.attest.verify import CheckResult, VerifyContext, VerifyResult
from pikaforge.audit import audit as auditing
from pikaforge.audit import audit_result
from pikaforge.audit.allowed_features import from_gcc
from pikaforge.audit.audit_result import Rules
from pikaforge.audit.inputs import ElfTree, open_package
from pikaforge.audit.judge_linkage import LinkageRules
from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, ConfigError, HostError, UnreachableError
from pikaforge.host import http
from pikaforge.host.download import NAME, Downloads, PinnedFile
from pikaforge.host.process import cwd
from pikaforge.host.store import write_atomically

UNSIGNED = (
    "nothing here is signed and no key is configured, so who has made it is not checked; with --key FILE what is not "
    "signed is refused"
)
SUMS_LIMIT, SIGNATURE_LIMIT = 4 << 20, 1 << 20
"""Bytes of what is fetched without a digest."""


def verify(context: Context) -> int:
    """`verify`: the verdict on each path; status 4 if one of them says no."""
    given = context.arguments
    unsigned = given.unsigned or _nothing_signed(given.key, given.paths)
    with tempfile.TemporaryDirectory(prefix="pikaforge-verify-") as folder:
        scratch = Path(folder)
        with _signatures(given.key, scratch, unsigned=unsigned) as verifier:
            means = VerifyContext(audit=_auditor(context.spec, scratch), signatures=verifier, unsigned=unsigned)
            found = [o for number, path in enumerate(given.paths) for o in _verify(path, means, scratch / str(number))]
    if given.json:
        output.show(json.dumps([outcome.facts() for outcome in found], indent=2))
    else:
        if unsigned and not given.unsigned:
            output.show(f"note: {UNSIGNED}")
        output.show("\n".join(line for outcome in found for line in outcome.lines()))
    return EXIT_DONE if all(outcome.passed for outcome in found) else EXIT_STAGE


def _nothing_signed(keys: Sequence[str], paths: Sequence[str]) -> bool:
    """Whether there is neither a key nor anything signed: as a build leaves it that was given no key.

    Never so for a URL: what is fetched from elsewhere is signed, or was looked at and accepted.
    """
    if keys or signing.settings(os.environ, base=cwd()).public or any("://" in path for path in paths):
        return False
    for path in (cwd() / path for path in paths):
        glob = f"*{SIGNATURE_SUFFIX}"
        if any(path.rglob(glob) if path.is_dir() else path.parent.glob(glob)):
            return False
    return True


@contextmanager
def _signatures(files: Sequence[str], scratch: Path, *, unsigned: bool) -> Iterator[Verifier | None]:
    """What judges signatures; None without a key.

    Raises:
        ConfigError: there is no key, and unsigned files are not accepted.
    """
    paths = [cwd() / path for path in files] or list(signing.settings(os.environ, base=cwd()).public)
    if not paths:
        if not unsigned:
            raise ConfigError(
                "there is no key to check signatures by",
                where="--key",
                hint=f"--key FILE with the public key, or {signing.PUBLIC}=FILE; --unsigned verifies without",
            )
        yield None
        return
    folder = scratch / "keys"
    folder.mkdir(mode=0o700)
    yield Verifier.of_files(paths, folder)


def _auditor(spec: Spec, scratch: Path) -> library.Audit:
    """Audits what is in an artifact as the audit stage did with the tree, by today's waivers.

    Which libraries are the distribution's, the manifest says; what they do is found out anew. Paths are those below
    the manifest's folder, as waivers name them. What only the stage knows is left out: the image's symbol versions, and
    which files are our own build.
    """

    def audit(path: Path, claims: Claims, package: PackageContents) -> list[str]:
        if claims.target not in microarch.known():
            return [f"{claims.target!r} is no microarchitecture that archspec knows"]
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            result = auditing.audit_tree(
                _below(open_package(path, Path(folder)), package.top),
                from_gcc(claims.target),
                Rules(
                    linkage=LinkageRules(base_libraries=spec.defaults.base_libraries),
                    waivers=spec.waivers,
                    distribution=claims.distribution(),
                    image=claims.image.name,
                    allocator=claims.allocator.name,
                ),
                today=audit_result.today(),
            )
        return audit_result.demangled([f"{v.where}: {v.what}" for v in result.violations])

    return audit


def _below(tree: ElfTree, top: str) -> ElfTree:
    """A package's tree with paths relative to a folder of it; those elsewhere stay as they are."""
    start = f"{top}/" if top else ""
    return replace(
        tree,
        elves={name.removeprefix(start): path for name, path in tree.elves.items()},
        links={name.removeprefix(start): target.removeprefix(start) for name, target in tree.links.items()},
    )


def _verify(path: str, means: VerifyContext, scratch: Path) -> Iterable[VerifyResult]:
    """Verify a file, a folder, the folders of a folder, or what is behind a URL.

    Raises:
        ConfigError: there is no such path.
        HostError: a server is out of reach.
    """
    if "://" in path:
        return [_verify_url(path, means, scratch)]
    local = cwd() / path
    if local.name == SUMS:
        local = local.parent
    if local.is_dir():
        below = sorted(local.glob(f"*/{SUMS}"))
        if below and not (local / SUMS).exists():
            return [library.verify_folder(file.parent, means) for file in below]
        return [library.verify_folder(local, means, title=path)]
    if not local.is_file():
        raise ConfigError(f"{path} does not exist", where="verify", hint="name an artifact, its folder, or a URL")
    return [library.verify_file(local, means, title=path)]


def _verify_url(url: str, means: VerifyContext, folder: Path) -> VerifyResult:
    """Fetch an artifact with what lies beside it, or a folder by its SHA256SUMS, and verify that."""
    title = http.redacted(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"{title} is no URL of http or https", where="verify", hint="name a local path without file:")
    top, _, last = parts.path.rpartition("/")
    name = library.artifact_of(unquote(last))
    whole = name in ("", SUMS)

    def at(file: str) -> str:
        return parts._replace(path=f"{top}/{quote(file)}", fragment="").geturl()

    folder.mkdir()
    try:
        text = http.get(at(SUMS), limit=SUMS_LIMIT)
    except UnreachableError:
        raise
    except HostError as error:
        return VerifyResult(
            title=title, checks=(CheckResult(file=SUMS, what="digests", verdict="no", why=error.message),)
        )
    write_atomically(folder / SUMS, text)
    sums, _ = library.read_sums(text.decode("utf-8", "replace"))
    wanted = sorted(sums) if whole else [n for n in (name, *(name + s for s in library.COMPANIONS)) if n in sums]
    checks = []
    downloads = Downloads(folder)
    for file in wanted:
        problem = _download(downloads, file, at(file), sums[file])
        if problem:
            checks.append(CheckResult(file=file, what="download", verdict="no", why=problem))
    for file in (SUMS, *(n for n in wanted if library.artifact_of(n) == n)):
        _signature(at(file + SIGNATURE_SUFFIX), folder / (file + SIGNATURE_SUFFIX))
    if not whole and name not in sums:
        return VerifyResult(
            title=title,
            checks=(CheckResult(file=name, what=f"digest in {SUMS}", verdict="no", why="it is not listed"),),
        )
    outcome = library.verify_folder(folder, means) if whole else library.verify_file(folder / name, means)
    missing = {check.file for check in checks}
    return replace(
        outcome,
        title=title,
        checks=(*checks, *(c for c in outcome.checks if c.file not in missing or c.verdict != "no")),
    )


def _download(downloads: Downloads, name: str, url: str, digest: str) -> str:
    """Fetch a file of a known digest; why there is none, in one line."""
    if not NAME.fullmatch(name):
        return "its name cannot be that of a download"
    try:
        downloads.get(PinnedFile(name=name, url=url, sha256=digest))
    except HostError as error:
        return " ".join(error.message.split())
    return ""


def _signature(url: str, path: Path) -> None:
    """Fetch a signature if there is one.

    Raises:
        UnreachableError: the server does not answer any more.
    """
    try:
        write_atomically(path, http.get(url, limit=SIGNATURE_LIMIT))
    except UnreachableError:
        raise
    except HostError:
        return
