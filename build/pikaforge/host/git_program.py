"""The program git: the environment and settings with which it runs, and what its errors mean.

What the user has set for reaching servers is honoured: proxies, certificates, credential helpers, ssh commands and
insteadOf rules. What names a place, or decides how our own repositories are made and kept, is ours.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pikaforge.errors import GitError, HostError, UnreachableError
from pikaforge.host import offline, process
from pikaforge.host.git_urls import NETWORK, protocol, without_secrets
from pikaforge.host.http import local_path, redacted

TIMEOUT = 3600.0
"""Seconds for one fetch; large submodules over slow lines take many minutes."""
ROOT = Path("/")
"""Where git runs: in the caller's folder it would find the caller's repository, with its settings."""

_UNREACHABLE = re.compile(
    r"could not resolve|couldn't resolve|connection (refused|timed out|reset)|failed to connect|couldn't connect"
    r"|network is unreachable|no route to host|operation timed out|unable to access|proxy|ssl|tls"
    r"|temporary failure in name resolution|early eof|hung up",
    re.IGNORECASE,
)
HONOURED = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|PROXY_COMMAND|PROXY_SSL_\w+|SSL_\w+|HTTP_\w+|CURL_VERBOSE|EXEC_PATH"
    r"|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))"
)
"""Variables of git that reach it: ways to servers, and where settings are. All others are left out: those of
`git rev-parse --local-env-vars` (in a hook of git they name the caller's repository), tracing, pathspecs, namespaces,
quarantines and whatever a later git invents."""
OURS = {
    # git must not wait for a password, because nobody can type one.
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_DEFAULT_REF_FORMAT": "files",  # a repository is packed file by file for a job
    "GIT_DEFAULT_HASH": "sha1",
    # These print to standard error, where messages are looked for; the user may have switched them on in a file.
    **dict.fromkeys(("GIT_TRACE", "GIT_TRACE2", "GIT_TRACE2_EVENT", "GIT_TRACE2_PERF"), "0"),
}
SETTINGS = (
    "core.bare=true",
    "core.hooksPath=/dev/null",
    "core.logAllRefUpdates=false",
    "core.sharedRepository=false",
    "fetch.prune=false",
    "fetch.pruneTags=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",  # it goes on in the background, with locks
    "maintenance.auto=false",
    "submodule.recurse=false",
)
"""Settings for our own repositories, whatever the user has set for his."""


def environment() -> dict[str, str]:
    """Return the environment of git: the user's, without places and traces, and with nobody to ask."""
    kept = {k: v for k, v in process.environment().items() if not k.startswith("GIT_") or HONOURED.fullmatch(k)}
    return {**kept, **OURS}


def pristine(home: Path) -> dict[str, str]:
    """Return an environment without settings of the user and the machine: what git prints in it gets pinned."""
    kept = {name: value for name, value in environment().items() if not name.startswith("GIT_CONFIG")}
    files = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    folders = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "GIT_ATTR_NOSYSTEM": "1"}
    return {**kept, **files, **folders}


def _for_servers(env: Mapping[str, str], protocols: Sequence[str]) -> dict[str, str]:
    """Return the environment in which git reaches other repositories by these protocols, and by no others.

    The variable goes before all settings of the user (git(1), GIT_ALLOW_PROTOCOL).
    """
    limited = {**env, "GIT_ALLOW_PROTOCOL": ":".join(protocols)}
    if not protocols or {"GIT_SSH_COMMAND", "GIT_SSH"} & limited.keys():
        return limited
    if _run(["config", "--get", "core.sshCommand"], env=limited).status != 0:  # the variable would hide that
        limited["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
    return limited


def _run(arguments: Sequence[str], *, env: Mapping[str, str], stdin: bytes | None = None) -> process.Completed:
    git = process.require("git", hint="install the package `git`, or run `bash setup.sh`")
    return process.run([git, *arguments], cwd=ROOT, env=env, stdin=stdin, timeout=TIMEOUT)


def git(
    *arguments: str,
    repository: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    protocols: Sequence[str] = (),
) -> process.Completed:
    """Run git, outside of every repository but the one that is named.

    Args:
        arguments: subcommand, options and the rest.
        repository: one of our own bare repositories. It is named, because git may be set not to find bare ones.
        env: instead of `environment()`.
        stdin: standard input.
        protocols: by which it may reach other repositories.
    """
    named: list[str] = []
    if repository is not None:
        settings = [part for setting in SETTINGS for part in ("-c", setting)]
        named = [f"--git-dir={repository.absolute()}", *settings]
    limited = _for_servers(environment() if env is None else env, protocols)
    return _run([*named, *arguments], env=limited, stdin=stdin)


def resolved(url: str) -> str:
    """Return a URL as the user's insteadOf rules make it."""
    done = git("ls-remote", "--get-url", "--", url)
    return done.text().removesuffix("\n") if done.status == 0 else url


def refuse_offline(url: str, wanted: str) -> None:
    """Raise OfflineError in the offline mode, unless a repository is on this machine, also by a rule of the user.

    Args:
        url: of the repository.
        wanted: the ref or commit that is asked for.
    """
    if offline.active() and protocol(resolved(url)) != "file":
        offline.refuse(f"{wanted} of {redacted(url)}")


def failure(url: str, done: process.Completed, *, partial: bool = False) -> HostError:
    """Return the error of a git that failed at a URL.

    Args:
        url: of the repository.
        done: the run.
        partial: whether that is a partial clone, which lacks objects.
    """
    lines = [line for line in done.errors().splitlines() if line.strip()]
    said = next((x for x in lines if x.startswith(("fatal:", "error:"))), lines[-1] if lines else "no message")
    said = without_secrets(said)
    if "dubious ownership" in done.errors():
        place = str(local_path(url)) if url.startswith("file:") else url
        return GitError(
            f"git refuses {place}: it belongs to another user",
            hint=f"git config --global --add safe.directory {shlex.quote(place)}",
        )
    if partial:
        place = str(local_path(url))
        return GitError(
            f"{place} is a partial clone (git clone --filter), which lacks files: {said}",
            hint=f"fetch them: git -C {shlex.quote(place)} fetch --refetch --no-filter\n"
            "or give the URL of the repository that it was cloned from",
        )
    if _UNREACHABLE.search(done.errors()):
        return UnreachableError(f"cannot reach {redacted(url)}: {said}")
    if "transport" in said and "not allowed" in said:
        return GitError(
            f"git cannot read {redacted(url)}: {said}",
            hint=f"only {', '.join(NETWORK)} are used, and paths where you name one; is it a rule url.….insteadOf?",
        )
    return GitError(f"git cannot read {redacted(url)}: {said}")


def processes_with(*arguments: str) -> list[int]:
    """Return the processes of this user that were started with all of these arguments."""
    found = []
    wanted = {os.fsencode(argument) for argument in arguments}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == os.geteuid() and wanted <= {*(folder / "cmdline").read_bytes().split(b"\0")}:
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found
