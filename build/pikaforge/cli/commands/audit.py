"""`audit`: check that programs, libraries, folders and packages run on the CPUs of a model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pikaforge.attest import signing, verify
from pikaforge.attest.claims import ClaimError, distribution, named_code, parse
from pikaforge.attest.contents import read_package
from pikaforge.attest.signatures import Verifier
from pikaforge.attest.verify import VerifyContext
from pikaforge.audit import audit_result, drafts
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult, Rules, TreeOrigin
from pikaforge.audit.distribution import Distribution
from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.config import load
from pikaforge.config.nearest import did_you_mean
from pikaforge.config.package_files import is_package
from pikaforge.cpu import microarch
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, ForgeError, FullDiskError, UsageError
from pikaforge.formats.manifest import Manifest
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.process import cwd
from pikaforge.host.text import one_line

SHOWN = 40
"""Lines of each kind that are printed without --all."""


def audit(context: Context) -> int:
    """Run `audit`; return the exit status, which is 4 if a path is refused.

    The waivers of matrix.yaml and of --waivers apply, but need not be used. The manifest of a package says which of its
    libraries are the distribution's, and where functions are that waivers name. It is believed if the package verifies.
    """
    arguments = context.arguments
    target = _target(context)
    waivers = [*context.spec.waivers, *(w for file in arguments.waivers for w in load.load_waivers(cwd() / file))]
    paths = [cwd() / path for path in arguments.paths]
    with temporary_folder("audit") as folder:
        scratch = Path(folder)
        origins = {
            str(path): origin
            for path in dict.fromkeys(paths)
            if (origin := _origin(path, scratch / "keys")) is not None
        }
        results = audit_paths(
            paths,
            scratch,
            target=target,
            rules=Rules(
                waivers=tuple(waivers), image=arguments.os, allocator=arguments.allocator, strict=arguments.strict
            ),
            today=audit_result.today(),
            origins=origins,
        )
        if arguments.draft_waivers:
            output.show(drafts.draft(results, today=audit_result.today()).rstrip("\n"))
        else:
            _show(results, limit=1 << 20 if arguments.all else SHOWN, plain=arguments.json)
    return EXIT_DONE if all(result.passed for result in results) else EXIT_STAGE


def _show(results: Sequence[AuditResult], *, limit: int, plain: bool) -> None:
    if plain:
        output.show_json(json.dumps([result.record().model_dump(mode="json") for result in results], indent=2))
    else:
        lines = [line for result in results for line in result.lines(limit=limit)]
        output.show("\n".join(map(one_line, audit_result.demangled(lines))))


def _origin(path: Path, keys: Path) -> TreeOrigin | None:
    """Return what a package's manifest says of where it comes from; None if it has no such manifest.

    The manifest is believed if `verify` would accept the package: digests, provenance and contents agree, and the
    signature is good if a key is configured. Otherwise the libraries that it calls the distribution's are returned as
    strangers, with the reason.
    """
    if not is_package(path):
        return None
    try:
        package = read_package(path)
        manifest = parse(Manifest, package.manifest or b"")
    except FullDiskError:
        raise
    except (ForgeError, ClaimError):
        return None  # not made by this tool; if it cannot be read at all, the audit says so
    files = signing.settings(os.environ, base=cwd()).public
    if files and not keys.is_dir():
        keys.mkdir(mode=0o700)
    verification = VerifyContext(
        audit=lambda *_: (), signatures=Verifier.of_files(files, keys) if files else None, unsigned=not files
    )
    refusals = verify.verify_file(path, verification).refusals
    claimed = distribution(manifest, below=package.top)
    if not refusals:
        return TreeOrigin(
            image=manifest.image.name,
            allocator=manifest.allocator.name,
            top=package.top,
            distribution=claimed,
            named=named_code(manifest, below=package.top),
        )
    if claimed is None:
        return None
    why = f"the package is not verified: {refusals[0].what}: {refusals[0].why}"
    strangers = Distribution(baseline=claimed.baseline, strangers=dict.fromkeys(claimed.libraries, why))
    return TreeOrigin(distribution=strangers)


def _target(context: Context) -> str:
    """Return the target that the arguments name.

    Raises:
        ConfigError: no such model or microarchitecture is known.
    """
    model, target = context.arguments.model, context.arguments.target
    if model:
        hardware = context.spec.hardware
        if model not in hardware:
            raise UsageError(
                f"there is no hardware model {model!r}",
                where="--model",
                hint=did_you_mean(model, hardware) or f"known: {', '.join(hardware)}",
            )
        return microarch.common_target(hardware[model].cpus)
    known = microarch.known()
    if target not in known:
        raise UsageError(
            f"{target!r} is no x86-64 microarchitecture that archspec knows",
            where="--target",
            hint=did_you_mean(target, known) or f"known: {', '.join(sorted(known))}",
        )
    return str(target)
