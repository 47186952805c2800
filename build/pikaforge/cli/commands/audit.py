"""`audit`: judge programs, libraries, folders and packages, whoever has built them."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from pikaforge.attest import signing, verify
from pikaforge.attest.claims import ClaimError, Claims, parse
from pikaforge.attest.contents import read_package
from pikaforge.attest.signatures import Verifier
from pikaforge.attest.verify import VerifyContext
from pikaforge.audit import audit as library
from pikaforge.audit import audit_result
from pikaforge.audit.audit_result import Rules
from pikaforge.audit.distribution import Distribution
from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.config.nearest import did_you_mean
from pikaforge.cpu import microarch
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, ConfigError, ForgeError
from pikaforge.host.archives import is_package
from pikaforge.host.process import cwd

SHOWN = 40
"""Lines of each kind, unless all are asked for."""


def audit(context: Context) -> int:
    """`audit`: the verdict on each path; status 4 if one of them says no.

    The waivers of matrix.yaml hold here, too, but need not be used. A package that was built here, and is verified by
    what lies beside it, tells by its manifest which of its libraries are the distribution's.
    """
    given = context.arguments
    target = _target(context)
    limit = 1 << 20 if given.all else SHOWN
    paths = [cwd() / path for path in given.paths]
    with tempfile.TemporaryDirectory(prefix="pikaforge-audit-") as folder:
        scratch = Path(folder)
        known = {
            str(path): told
            for path in dict.fromkeys(paths)
            if (told := _distribution(path, scratch / "keys")) is not None
        }
        found = library.audit_paths(
            paths,
            scratch,
            target=target,
            rules=Rules(waivers=context.spec.waivers),
            today=audit_result.today(),
            distributions=known,
        )
    if given.json:
        output.show(json.dumps([result.facts() for result in found], indent=2))
    else:
        lines = [line for result in found for line in result.lines(limit=limit)]
        output.show("\n".join(audit_result.demangled(lines)))
    return EXIT_DONE if all(result.passed for result in found) else EXIT_STAGE


def _distribution(path: Path, keys: Path) -> Distribution | None:
    """What a package's manifest says of the distribution's libraries in it, and why that is not taken, if it is not.

    It is taken as `verify` takes it: digests, provenance and contents must agree, and the signature must be good where
    a key is configured.
    """
    if not is_package(path):
        return None
    try:
        package = read_package(path)
        claims = parse(Claims, package.manifest or b"")
    except (ForgeError, ClaimError):
        return None  # no package of ours; whether it can be read at all, the audit tells
    claimed = claims.distribution(below=package.top)
    if claimed is None:
        return None
    files = signing.settings(os.environ, base=cwd()).public
    if files and not keys.is_dir():
        keys.mkdir(mode=0o700)
    means = VerifyContext(
        audit=lambda *_: (), signatures=Verifier.of_files(files, keys) if files else None, unsigned=not files
    )
    refusals = verify.verify_file(path, means).refusals
    if not refusals:
        return claimed
    why = f"the package is not verified: {refusals[0].what}: {refusals[0].why}"
    return Distribution(baseline=claimed.baseline, strangers=dict.fromkeys(claimed.libraries, why))


def _target(context: Context) -> str:
    """The target that was asked for.

    Raises:
        ConfigError: no such model or microarchitecture is known.
    """
    model, target = context.arguments.model, context.arguments.target
    if model:
        hardware = context.spec.hardware
        if model not in hardware:
            raise ConfigError(
                f"there is no hardware model {model!r}",
                where="--model",
                hint=did_you_mean(model, hardware) or f"known: {', '.join(hardware)}",
            )
        return microarch.common_target(hardware[model].cpus)
    known = microarch.known()
    if target not in known:
        raise ConfigError(
            f"{target!r} is no x86-64 microarchitecture that archspec knows",
            where="--target",
            hint=did_you_mean(target, known) or f"known: {', '.join(sorted(known))}",
        )
    return str(target)
