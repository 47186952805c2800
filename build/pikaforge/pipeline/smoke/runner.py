"""The runner of smoke checks, natively or emulated: the version command, the shared server, multi-server checks.

If the product has no server, its checks run commands, all in one place.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from pikaforge.config.product import Stop
from pikaforge.config.smoke_checks import Check
from pikaforge.errors import HostError
from pikaforge.host.job import Job, RunningServer
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.smoke import allocator_in_use
from pikaforge.pipeline.smoke.endings import describe_end
from pikaforge.pipeline.smoke.expectations import run_check
from pikaforge.pipeline.smoke.multi_server import run_multi_server_check
from pikaforge.pipeline.smoke.record import CheckRecord
from pikaforge.pipeline.smoke.server import ServerPlace, TreePlace
from pikaforge.pipeline.smoke.session import Session

VERSION_TIMEOUT = 60.0
"""Seconds for the version command."""
DYING = 1.0
"""Seconds that a server gets to end after a check that failed."""


class SmokeRunner:
    """Runs all checks of one tree, natively or emulated."""

    def __init__(self, workspace: Workspace, place: TreePlace, checks: Sequence[Check]) -> None:
        self._workspace = workspace
        self._checks = checks
        self.place = place
        self.records: list[CheckRecord] = []
        """The checks that were made or skipped, in order."""
        self.at_rest: Mapping[str, int | str] = {}
        self.tails: list[str] = []
        """Last lines of the logs of servers whose multi-server check has failed."""
        self.own: set[str] = {check.check for check in checks if not check.shared}
        """Names of the multi-server checks."""

    def run(self) -> tuple[str, int | None]:
        """Run the checks.

        Returns:
            Why they could not all be run, and the exit status of the shared server; ("", None) if all could.
        """
        if not isinstance(self.place, ServerPlace):
            self._commands(self.place)
            return "", None
        self.records.append(self._version(self.place))
        problem, status = self._shared_server(self.place)
        if problem:
            return problem, status
        for check in self._checks:
            if check.shared:
                continue
            skipped = self._skipped(check)
            if skipped is not None:
                self.records.append(skipped)
                continue
            verdict = run_multi_server_check(check, self.place)
            self.records.append(verdict.record)
            self.tails += verdict.tail
        return "", None

    def _commands(self, place: TreePlace) -> None:
        """Run the checks of a product without a server. They share a folder."""
        if any(check.shared for check in self._checks):
            with place.hold() as holder:
                self._shared_checks(lambda: place.commands(holder))

    def _skipped(self, check: Check) -> CheckRecord | None:
        """Return the record of a check that is skipped because one that it needs has not passed; else None."""
        bad = [outcome.name for outcome in self.records if outcome.name in check.needs and not outcome.passed]
        if not bad:
            return None
        reason = f"it needs {', '.join(bad)}, which has not passed"
        return CheckRecord(name=check.check, passed=False, seconds=0.0, required=check.required, skipped=reason)

    def _version(self, place: ServerPlace) -> CheckRecord:
        """Run the version command in a container of its own."""
        start = time.monotonic()
        version = place.server.version
        with self._workspace.store.scratch() as scratch:
            # The log is written to a file of this run alone, because another run may write to the usual one.
            log = scratch / "version.log"
            job = Job(
                label=f"{place.stem}-version-{place.group}",
                image=place.image,
                argv=place.version_command(),
                env={},
                inputs=(place.tree, *place.inputs),
                log=log,
                timeout=VERSION_TIMEOUT,
                bounds=self._workspace.bounds,
            )
            done = self._workspace.engine.run(job, scratch)
            output = log.read_text(encoding="utf-8", errors="replace")
        place.log("version").write_text(output, encoding="utf-8")
        wanted = ""
        if done.timed_out:
            wanted = f"it still ran after {VERSION_TIMEOUT:g} s"
        elif done.status != version.status:
            got = f"exit status {done.status}: {done.exceeded}" if done.exceeded else describe_end(done.status)
            wanted = f"wanted exit status {version.status}, got {got}"
        elif version.match and not re.search(version.match, output):
            wanted = f"wanted a match of {version.match!r}"
        detail = f"{' '.join(version.command)}: {wanted}; it printed {output[-300:]!r}" if wanted else ""
        return CheckRecord(name="version", passed=not detail, seconds=time.monotonic() - start, detail=detail)

    def _shared_server(self, place: ServerPlace) -> tuple[str, int | None]:
        """Start the shared server, run the checks that share it, and stop it."""
        start = time.monotonic()
        ended: int | None = None
        with place.serve(log=place.log_path) as server:
            status, problem = place.ready(server)
            if not problem:
                self.records.append(CheckRecord(name="start", passed=True, seconds=time.monotonic() - start))
                self._shared_checks(lambda: place.session(server))
                # A server that failed a check may be about to end. Its exit status then says more than the check.
                ended = server.wait(DYING if any(o.failed for o in self.records) else 0.01)
                if ended is None:
                    if not place.emulator:
                        self.at_rest = _at_rest(server)
                        self.records.append(self._allocator(server))
                    self.records.append(_stop(server, place.server.stop))
        if problem:
            return problem, status
        return (f"the server died during the checks: {describe_end(ended)}", ended) if ended is not None else ("", None)

    def _shared_checks(self, connect: Callable[[], Session]) -> None:
        for check in self._checks:
            if not check.shared:
                continue
            skipped = self._skipped(check)
            if skipped is not None:
                self.records.append(skipped)
                continue
            try:
                session = connect()
            except OSError:  # its port is gone, so it died during the check before
                break
            self.records.append(run_check(check, session))

    def _allocator(self, server: RunningServer) -> CheckRecord:
        """Check which allocator the running server has mapped."""
        start = time.monotonic()
        try:
            detail = allocator_in_use.mapped_wrong(server.mapped_files(), kind=self.place.allocator, root=server.root)
        except (HostError, IndexError) as error:
            detail = f"what the server has mapped cannot be read: {error}"
        return CheckRecord(name="allocator", passed=not detail, seconds=time.monotonic() - start, detail=detail)


def _stop(server: RunningServer, stop: Stop) -> CheckRecord:
    start = time.monotonic()
    server.signal(stop.signal)
    status = server.wait(stop.within)
    if status is None:
        detail = f"sent SIG{stop.signal}; it still runs after {stop.within:g} s"
    elif status != stop.status:
        detail = f"sent SIG{stop.signal}; wanted exit status {stop.status}; {describe_end(status)}"
    else:
        detail = ""
    return CheckRecord(name="stop", passed=not detail, seconds=time.monotonic() - start, detail=detail)


def _at_rest(server: RunningServer) -> Mapping[str, int | str]:
    """Return what the server holds at rest: file descriptors, threads, memory."""
    try:
        return server.resources()
    except (HostError, IndexError, KeyError, ValueError) as error:  # a kernel without some file under /proc
        return {"unknown": str(error)}
