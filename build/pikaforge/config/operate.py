"""How instances of a server are operated on hosts: the section `product.server.operate`.

All values end in shell scripts between single quotes, or in tables with tabs. So the patterns leave quotes, backslashes
and control characters out.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from pikaforge.config.operate_logs import Logs
from pikaforge.config.operate_memory import Memory
from pikaforge.config.operate_metrics import Metrics
from pikaforge.config.operate_scalars import ConfKey, ConfValue
from pikaforge.config.operate_snapshot import Snapshot
from pikaforge.config.operate_status import Status
from pikaforge.config.scalars import Name, RelativePath, Strict

COMMAND_PATTERN = r"^[A-Za-z0-9_./{}=:,@+-]+$"
"""A word of the command that starts the server; scripts split the command at its blanks."""
CLIENTS_LIMIT = 1_000_000


class Clients(Strict):
    """How many clients an instance may have, and the files that it needs for them."""

    key: ConfKey = Field(description="The setting with the number of clients.")
    default: int = Field(gt=0, le=CLIENTS_LIMIT, description="How many there are if it is not set.")
    reserve: int = Field(
        ge=0, le=CLIENTS_LIMIT, description="Open files beyond those of clients, for data and for the server itself."
    )


class Passwords(Strict):
    """The settings that hold passwords. They are never given on a command line, and are not shown."""

    admin: ConfKey | None = Field(default=None, description="Of who may do everything.")
    user: ConfKey | None = Field(default=None, description="Of users with fewer rights.")
    master: ConfKey | None = Field(default=None, description="What a replica sends to its master.")


class StalePid(Strict):
    """A pid file that a killed server leaves behind, and that keeps the next one from its work."""

    path: RelativePath = Field(description="Below the data folder of the instance.")
    program: Name = Field(description="The name of the process. The file is kept while its process has that name.")


class Operate(Strict):
    """How instances are operated: only for a server that speaks RESP, and has a configuration file."""

    settings: dict[ConfKey, ConfValue] = Field(
        default_factory=dict,
        description="Recommended settings of a new instance, with {port} and {data}; `deploy.sh --set` goes before.",
    )
    clients: Clients | None = Field(default=None, description="How the limit of open files is found; null: no limit.")
    address: ConfKey | None = Field(
        default=None, description="The setting with the addresses that it listens on; null: it listens on all."
    )
    passwords: Passwords = Field(default=Passwords.model_construct(), description="Which settings hold passwords.")
    host_name: bool = Field(
        default=False, description="Whether the name of its host must resolve there, e.g. for replication."
    )
    programs: tuple[Name, ...] = Field(default=(), description="Programs of the system that it calls.")
    stale_pids: tuple[StalePid, ...] = Field(default=(), description="Removed before a start if their process is gone.")
    memory: Memory | None = Field(default=None, description="What it takes of memory; null: it cannot be planned.")
    status: Status | None = Field(default=None, description="Where its state is found; null: only whether it answers.")
    snapshot: Snapshot | None = Field(default=None, description="Its snapshots; null: there is no backup, no restore.")
    logs: Logs | None = Field(default=None, description="Its log files; null: it writes none, or removes them itself.")
    start_within: int = Field(
        default=1800, gt=0, le=86400, description="Seconds until a start with all its data must have succeeded."
    )
    metrics: Metrics | None = Field(default=None, description="What Prometheus gets of its INFO; null: no metrics.")

    @field_validator("settings")
    @classmethod
    def _no_other_placeholders(cls, settings: dict[str, str]) -> dict[str, str]:
        for key, value in settings.items():
            rest = value.replace("{port}", "").replace("{data}", "")
            if "{" in rest or "}" in rest:
                raise ValueError(f"the value of {key} may hold {{port}} and {{data}}, and no other braces")
        return settings
