"""`audit`: judge programs, libraries, folders and packages, whoever has built them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pikaforge import audit as library
from pikaforge import report, targets
from pikaforge.audit import Rules
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, ConfigError
from pikaforge.selection import closest
from pikaforge.setting import Setting, cwd

SHOWN = 40
"""Lines of each kind, unless all are asked for."""


def audit(setting: Setting) -> int:
    """`audit`: the verdict on each path; status 4 if one of them says no.

    The waivers of matrix.yaml hold here, too, but need not be used.
    """
    given = setting.arguments
    target = _target(setting)
    limit = 1 << 20 if given.all else SHOWN
    with tempfile.TemporaryDirectory(prefix="pikaforge-audit-") as scratch:
        found = library.audit_paths(
            [cwd() / path for path in given.paths],
            Path(scratch),
            target=target,
            rules=Rules(waivers=setting.spec.waivers),
            today=library.today(),
        )
    if given.json:
        report.show(json.dumps([result.facts() for result in found], indent=2))
    else:
        lines = [line for result in found for line in result.lines(limit=limit)]
        report.show("\n".join(library.demangled(lines)))
    return EXIT_DONE if all(result.passed for result in found) else EXIT_STAGE


def _target(setting: Setting) -> str:
    """The target that was asked for.

    Raises:
        ConfigError: no such model or microarchitecture is known.
    """
    model, target = setting.arguments.model, setting.arguments.target
    if model:
        hardware = setting.spec.hardware
        if model not in hardware:
            raise ConfigError(
                f"there is no hardware model {model!r}",
                where="--model",
                hint=closest(model, hardware) or f"known: {', '.join(hardware)}",
            )
        return targets.common_target(hardware[model].cpus)
    known = targets.known()
    if target not in known:
        raise ConfigError(
            f"{target!r} is no x86-64 microarchitecture that archspec knows",
            where="--target",
            hint=closest(target, known) or f"known: {', '.join(sorted(known))}",
        )
    return str(target)
