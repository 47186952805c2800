"""Whether the servers are in reach that this project's configuration names."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from http import HTTPStatus

from pikaforge.doctor.facts import BaseSeen, Facts, ServerSeen
from pikaforge.doctor.finding import Diagnosis, State
from pikaforge.host import http, questions

PROXY = "is a proxy needed? http_proxy, https_proxy and no_proxy count"
STOPS = {
    "patch": "the source stage: a patch cannot be fetched",
    "tarball": "the allocator stage: a tarball cannot be fetched",
    "mirror": "nothing by itself: the files' own URLs are asked next",
    "packages": "the image stage: a base image cannot be made of packages",
    "publish": "`publish` to this destination",
    "store": "nothing by itself: what other machines have made is made here",
}


class SourceCheck:
    """The repository of the product, as git reaches it."""

    name = "source"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield whether it answers, and has the wanted tag."""
        seen = facts.source
        if seen is None:
            return
        if not seen.problem:
            yield Diagnosis(check=self.name, subject=seen.url, state="ok", says=f"has {seen.ref}")
            return
        held = "; the pinned commit is in out/git" if seen.held else ""
        yield Diagnosis(
            check=self.name,
            subject=seen.url,
            state="warning" if seen.held else "lacking",
            says=f"{seen.problem}{held}",
            stops="`invoke lock`, and builds of another version"
            if seen.held
            else "the source stage, and so every build",
            mend=seen.mend,
        )


class RegistryCheck:
    """Base images: from a registry, or made of packages."""

    name = "registry"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield for each wanted image where its base can come from."""
        bootstraps = facts.programs.get("mmdebstrap") is not None
        for base in facts.bases:
            yield self._of(base, bootstraps=bootstraps)

    def _of(self, base: BaseSeen, *, bootstraps: bool) -> Diagnosis:
        subject = f"{base.image}: {base.reference}"
        if base.held:
            return Diagnosis(check=self.name, subject=subject, state="ok", says="the engine has the base image")
        if base.registry == "":
            return Diagnosis(check=self.name, subject=subject, state="ok", says="the registry has it")
        said = base.registry if base.registry is not None else "this engine does not tell whether its registry answers"
        if base.registry is None:
            return Diagnosis(
                check=self.name,
                subject=subject,
                state="warning",
                says=said,
                stops=f"perhaps the image stage of {base.image}",
                mend=(f"podman pull {base.reference} tells it",),
            )
        if base.bootstrap and bootstraps:
            says = f"{said}; it is made of the packages of {base.bootstrap}"
            return Diagnosis(
                check=self.name,
                subject=subject,
                state="warning",
                says=says,
                stops="nothing here; elsewhere the same pin needs the same way",
                mend=("give the engine a registry-mirrors setting, or a proxy",),
            )
        also = ("or install mmdebstrap: the image can be made of packages then",) if base.bootstrap else ()
        return Diagnosis(
            check=self.name,
            subject=subject,
            state="lacking",
            says=said,
            stops=f"the image stage: every cell of {base.image}",
            mend=("give the engine a registry-mirrors setting, or a proxy; or load the image: docker load", *also),
        )


class ServersCheck:
    """All other URLs of the configuration: patches, tarballs, mirrors, packages, destinations, store."""

    name = "servers"

    def judge(self, facts: Facts) -> Iterator[Diagnosis]:
        """Yield a finding for each server, and for each thing that is wrong with it."""
        alike: dict[tuple[str, str, State], list[ServerSeen]] = {}
        for server in facts.servers:
            problem = _problem(server)
            alike.setdefault((questions.shown(server.url), problem, _state(server, problem)), []).append(server)
        for (where, problem, state), those in alike.items():
            whats = ", ".join(dict.fromkeys(server.purpose.what for server in those))
            held = all(server.purpose.held for server in those)
            yield Diagnosis(
                check=self.name,
                subject=where,
                state=state,
                says=f"{problem or 'answers'}: {whats}" + (" (in out/ already)" if problem and held else ""),
                stops="; ".join(dict.fromkeys(STOPS[server.purpose.kind] for server in those)) if problem else "",
                mend=_mend(those[0]) if problem else (),
            )


def _problem(server: ServerSeen) -> str:
    """Return what is wrong with an answer; "" if nothing is."""
    status = server.answer.status
    if not status:
        return server.answer.reason or "it does not answer"
    # The first page of a destination or store may be anything: it shows that the server is there.
    fine = status < HTTPStatus.INTERNAL_SERVER_ERROR if server.purpose.kind in ("publish", "store") else status < 400
    return "" if fine and status != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else f"it answers {http.phrase(status)}"


def _state(server: ServerSeen, problem: str) -> State:
    if not problem:
        return "ok"
    return "lacking" if server.purpose.needed and not server.purpose.held else "warning"


def _mend(server: ServerSeen) -> tuple[str, ...]:
    if server.answer.status:
        return (f"open it in a browser: {http.redacted(server.url)}",)
    return (f"curl -I {shlex.quote(questions.shown(server.url))} shows more; {PROXY}",)
