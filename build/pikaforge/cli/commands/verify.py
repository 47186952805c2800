"""`verify`: check digests, signatures, provenance and contents of packages, and audit their code again."""

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
from pikaforge.attest.check_result import CheckResult
from pikaforge.attest.claims import distribution, named_code
from pikaforge.attest.contents import PackageContents
from pikaforge.attest.describe import SIGNATURE_SUFFIX, SUMS
from pikaforge.attest.signatures import Verifier
from pikaforge.attest.verify import (
    COMPANIONS,
    Audit,
    VerifyContext,
    VerifyResult,
    artifact_of,
    read_sums,
    verify_file,
    verify_folder,
)
from pikaforge.audit import audit_result
from pikaforge.audit.allowed_features import from_gcc
from pikaforge.audit.audit import audit_foreign
from pikaforge.audit.audit_result import Rules, TreeOrigin
from pikaforge.audit.inputs import ElfTree, open_package
from pikaforge.audit.judge_linkage import LinkageRules
from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, HostError, KeyFileError, UnreachableError, UsageError
from pikaforge.formats.manifest import Manifest
from pikaforge.host import git_urls, http
from pikaforge.host.download import NAME, Downloads, PinnedFile
from pikaforge.host.durable import write_atomically
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.process import cwd

UNSIGNED = (
    "nothing here is signed, so nobody vouches for it: signatures may have been taken away; --unsigned accepts that, "
    "and checks everything else"
)
SUMS_LIMIT, SIGNATURE_LIMIT = 4 << 20, 1 << 20
"""Bytes at most of files that are fetched without a known digest."""


def verify(context: Context) -> int:
    """Run `verify`; return the exit status, which is 4 if a path is refused."""
    arguments = context.arguments
    unsigned = bool(arguments.unsigned)
    bare = not unsigned and _nothing_signed(arguments.key, arguments.paths)
    with temporary_folder("verify") as folder:
        scratch = Path(folder)
        with _signatures(arguments.key, scratch, needed=not (unsigned or bare)) as verifier:
            verification = VerifyContext(audit=_auditor(context.spec, scratch), signatures=verifier, unsigned=unsigned)
            results = [
                result
                for number, path in enumerate(arguments.paths)
                for result in _verify(path, verification, scratch / str(number))
            ]
    if arguments.json:
        output.show_json(json.dumps([result.facts() for result in results], indent=2))
    else:
        if bare:
            output.note(UNSIGNED)
        output.show("\n".join(line for result in results for line in result.lines()))
    return EXIT_DONE if all(result.passed for result in results) else EXIT_STAGE


def _nothing_signed(keys: Sequence[str], paths: Sequence[str]) -> bool:
    """Return whether there is neither a key nor a signature, as after a build without a key. No key is needed then.

    It is false for a URL: what comes from another machine must be signed, or accepted with --unsigned.
    """
    if keys or signing.settings(os.environ, base=cwd()).public or any("://" in path for path in paths):
        return False
    for path in (cwd() / path for path in paths):
        glob = f"*{SIGNATURE_SUFFIX}"
        if any(path.rglob(glob) if path.is_dir() else path.parent.glob(glob)):
            return False
    return True


@contextmanager
def _signatures(files: Sequence[str], scratch: Path, *, needed: bool) -> Iterator[Verifier | None]:
    """Return what checks signatures; None without a key.

    Raises:
        ConfigError: there is no key, and one is needed.
    """
    paths = [cwd() / path for path in files] or list(signing.settings(os.environ, base=cwd()).public)
    if not paths:
        if needed:
            raise KeyFileError(
                "there is no key to check signatures with",
                where="--key",
                hint=f"give the public key with --key FILE or {signing.PUBLIC}=FILE; --unsigned checks everything else",
            )
        yield None
        return
    folder = scratch / "keys"
    folder.mkdir(mode=0o700)
    yield Verifier.of_files(paths, folder)


def _auditor(spec: Spec, scratch: Path) -> Audit:
    """Return a function that audits the files of a package as the audit stage did with the tree, by today's waivers.

    The manifest says which libraries are the distribution's; their code is judged again. Paths are relative to the
    folder of the manifest, as in waivers. What only the stage knows is left out: the symbol versions of the image, and
    which files were compiled here.
    """

    def audit(path: Path, manifest: Manifest, package: PackageContents) -> list[str]:
        if manifest.target not in microarch.known():
            return [f"{manifest.target!r} is no microarchitecture that archspec knows"]
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            result = audit_foreign(
                _below(open_package(path, Path(folder)), package.top),
                from_gcc(manifest.target),
                Rules(linkage=LinkageRules(base_libraries=spec.defaults.base_libraries), waivers=spec.waivers),
                TreeOrigin(
                    image=manifest.image.name,
                    allocator=manifest.allocator.name,
                    top="",
                    distribution=distribution(manifest),
                    named=named_code(manifest),
                ),
                Path(folder) / "symbols",
                today=audit_result.today(),
            )
        return audit_result.demangled([f"{v.where}: {v.what}" for v in result.violations])

    return audit


def _below(tree: ElfTree, top: str) -> ElfTree:
    """Return a package's tree with paths relative to one of its folders; other paths stay as they are."""
    start = f"{top}/" if top else ""
    return replace(
        tree,
        elves={name.removeprefix(start): path for name, path in tree.elves.items()},
        links={name.removeprefix(start): target.removeprefix(start) for name, target in tree.links.items()},
    )


def _verify(path: str, verification: VerifyContext, scratch: Path) -> Iterable[VerifyResult]:
    """Verify a file, a folder, the folders in a folder, or a URL.

    Raises:
        ConfigError: there is no such path.
        HostError: a server cannot be reached.
    """
    if "://" in path:
        return [_verify_url(path, verification, scratch)]
    local = cwd() / path
    if local.name == SUMS:
        local = local.parent
    if local.is_dir():
        below = sorted(local.glob(f"*/{SUMS}"))
        if below and not (local / SUMS).exists():
            return [verify_folder(file.parent, verification) for file in below]
        return [verify_folder(local, verification, title=path)]
    if not local.is_file():
        raise UsageError(f"{path} does not exist", where="verify", hint="name a package, its folder, or a URL")
    return [verify_file(local, verification, title=path)]


def _verify_url(url: str, verification: VerifyContext, folder: Path) -> VerifyResult:
    """Fetch a package with the files that describe it, or all files that SHA256SUMS lists, and verify them."""
    title = http.redacted(url)
    if secret := git_urls.credentials(url):
        raise UsageError(f"there is {secret} in {git_urls.masked(url)}", where="verify", hint=git_urls.CREDENTIALS_HINT)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{title} is not a URL", where="verify", hint="such as https://HOST/PATH") from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(
            f"{title} is no URL of http or https", where="verify", hint="name local files by their path, without file:"
        )
    top, _, last = parts.path.rpartition("/")
    name = artifact_of(unquote(last))
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
    sums, _ = read_sums(text.decode("utf-8", "replace"))
    wanted = sorted(sums) if whole else [n for n in (name, *(name + s for s in COMPANIONS)) if n in sums]
    checks = []
    downloads = Downloads(folder)
    for file in wanted:
        problem = _download(downloads, file, at(file), sums[file])
        if problem:
            checks.append(CheckResult(file=file, what="download", verdict="no", why=problem))
    for file in (SUMS, *(n for n in wanted if artifact_of(n) == n)):
        _signature(at(file + SIGNATURE_SUFFIX), folder / (file + SIGNATURE_SUFFIX))
    if not whole and name not in sums:
        return VerifyResult(
            title=title,
            checks=(CheckResult(file=name, what=f"digest in {SUMS}", verdict="no", why="it is not listed"),),
        )
    result = verify_folder(folder, verification) if whole else verify_file(folder / name, verification)
    missing = {check.file for check in checks}
    return replace(
        result,
        title=title,
        checks=(*checks, *(c for c in result.checks if c.file not in missing or c.verdict != "no")),
    )


def _download(downloads: Downloads, name: str, url: str, digest: str) -> str:
    """Fetch a file with a known digest; return why that failed, in one line, or an empty text."""
    if not NAME.fullmatch(name):
        return "its name is not allowed for a download"
    try:
        downloads.get(PinnedFile(name=name, url=url, sha256=digest))
    except HostError as error:
        return " ".join(error.message.split())
    return ""


def _signature(url: str, path: Path) -> None:
    """Fetch a signature if there is one.

    Raises:
        UnreachableError: the server does not answer.
    """
    try:
        write_atomically(path, http.get(url, limit=SIGNATURE_LIMIT))
    except UnreachableError:
        raise
    except HostError:
        return
