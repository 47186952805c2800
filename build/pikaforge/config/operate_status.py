"""Where the state of an instance is found in its replies, and when it is bad: `product.server.operate.status`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from pikaforge.config.operate_scalars import UNIT_PATTERN, ConfValue, InfoKey, Row
from pikaforge.config.scalars import Strict


class CheckLimit(Strict):
    """From where on a figure is bad; 0: never."""

    warning: int = Field(ge=0, le=1_000_000_000_000, description="From here on, a warning.")
    critical: int = Field(ge=0, le=1_000_000_000_000, description="From here on, critical.")

    @model_validator(mode="after")
    def _in_order(self) -> CheckLimit:
        if self.critical and self.warning > self.critical:
            raise ValueError("`warning` must not be above `critical`")
        return self


def _limit(*, warning: int, critical: int) -> CheckLimit:
    """Return a limit that is right. The check of it would be made at import."""
    return CheckLimit.model_construct(warning=warning, critical=critical)


class CheckLimits(Strict):
    """What `instance.sh PORT check` takes for bad, unless its options say otherwise."""

    lag: CheckLimit = Field(default=_limit(warning=0, critical=0), description="Of replication, in `lag_unit`.")
    memory: CheckLimit = Field(default=_limit(warning=90, critical=100), description="Percent of the planned memory.")
    disk: CheckLimit = Field(default=_limit(warning=80, critical=90), description="Percent of the file system.")
    snapshot: CheckLimit = Field(default=_limit(warning=48, critical=0), description="Hours since the last snapshot.")
    clients: CheckLimit = Field(default=_limit(warning=80, critical=95), description="Percent of the most clients.")
    files: CheckLimit = Field(
        default=_limit(warning=80, critical=95), description="Percent of the limit of open files."
    )


class Fault(Strict):
    """An entry of INFO that says that something is broken."""

    key: InfoKey = Field(description="The entry.")
    good: ConfValue = Field(description="Its value when all is well; an entry that is not there is well, too.")


class Status(Strict):
    """The entries of INFO that say how an instance is."""

    version: InfoKey = Field(description="The version that runs.")
    uptime: InfoKey = Field(default="uptime_in_seconds", description="Seconds since its start.")
    memory: InfoKey = Field(default="used_memory", description="Bytes that it says it uses.")
    clients: InfoKey = Field(default="connected_clients", description="Clients now.")
    role: InfoKey = Field(default="role", description="`master`, or `slave`.")
    link: InfoKey = Field(default="master_link_status", description="Of a replica: `up`, if all is well.")
    master_host: InfoKey = Field(default="master_host", description="Of a replica.")
    master_port: InfoKey = Field(default="master_port", description="Of a replica.")
    replicas: InfoKey = Field(default="connected_slaves", description="Of a master: how many follow it.")
    replica_lag: InfoKey | None = Field(default=None, description="Of a replica: how far it is behind; null: unknown.")
    lag_unit: str = Field(pattern=UNIT_PATTERN, max_length=16, description="Of `lag=` in the lines of replicas.")
    faults: tuple[Fault, ...] = Field(default=(), description="What makes an instance critical.")
    limits: CheckLimits = Field(default=CheckLimits.model_construct(), description="What is bad.")

    def rows(self) -> Iterator[Row]:
        """Yield the lines of utils/operate/status.tsv."""
        names = ("version", "uptime", "memory", "clients", "role", "link", "master_host", "master_port", "replicas")
        for name in names:
            yield ("info", name, str(getattr(self, name)))
        if self.replica_lag is not None:
            yield ("info", "replica_lag", self.replica_lag)
        yield ("unit", self.lag_unit)
        for fault in self.faults:
            yield ("fault", fault.key, fault.good)
        for name in CheckLimits.model_fields:
            limit: CheckLimit = getattr(self.limits, name)
            yield ("limit", name, str(limit.warning), str(limit.critical))
