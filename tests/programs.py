"""The programs of this machine that tests may start: what a minimal Debian has after `bash setup.sh tests`.

A developer's machine has many more, and a test that starts one of those runs there and nowhere else. So a test that
starts a program that is not listed here fails, whatever machine it runs on; and the test of a bare machine looks
there whether each one that is listed is there.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

# fmt: off
PROGRAMS = frozenset({
    # of each Debian
    "apt-get", "bash", "cat", "cp", "dash", "dpkg", "dpkg-deb", "dpkg-query", "env", "flock", "grep", "gzip",
    "ldconfig", "ldd", "mktemp", "mount", "nsenter", "printf", "prlimit", "sed", "setpriv", "sh", "sha256sum", "sleep",
    "sort", "tar", "true", "umount", "uname", "unshare",
    # of setup.sh
    "git", "gpg", "gpgconf", "gpg-connect-agent", "gpgv", "openssl", "python3", "zstd",
    # of setup.sh for tests
    "busybox", "c++", "c++filt", "cc", "ccache", "chromium", "cmake", "dpkg-source", "g++", "gcc", "jq", "lintian",
    "make", "man", "mandoc", "node",
    "objcopy", "objdump", "patchelf", "podman", "readelf", "rpmlint", "shellcheck", "strip", "xz", "zsh",
})
# fmt: on
OPTIONAL = {
    "diffoscope": "shows how packages differ where they must not",
    "chromium-browser": "a browser of another name than Debian's",
    "google-chrome": "a browser of another name than Debian's",
    "npm": "fetches what judges pages for people with a screen reader; GitHub's machines have it",
    "docker-registry": "is downloaded where it is not installed",
    "dockerd": "an engine of a test's own, which may get stuck; where only podman is, there is none",
    "gfortran": "one of the long tests; programs of C and C++ are judged in the same way",
    "iptables": "tidies up after podman as root, which cannot make networks without it",
    "rpmbuild": "one test, where the system is RPM's; the tools image has it for the others",
    "rpmkeys": "one test, where the system is RPM's; the tools image has it for the others",
    "systemd-analyze": "one test; a machine without systemd has no units either",
    "systemd-tmpfiles": "one test; a machine without systemd has no such rules either",
    "rpmsign": "one test, where the system is RPM's; the tools image has it for the others",
}
"""What setup.sh does not bring, and why that hides nothing."""
SYSTEM = tuple(f"{prefix}/{folder}/" for prefix in ("", "/usr", "/usr/local") for folder in ("bin", "sbin"))


def check(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise AssertionError if a program of the system is started that is not listed (an audit hook, PEP 578)."""
    if event != "subprocess.Popen":
        return
    program, _, _, env = arguments
    found = shutil.which(os.fsdecode(program), path=(env or os.environ).get("PATH"))
    if found is None or found == sys.executable or not found.startswith(SYSTEM):
        return  # it is not there, or a test has made it
    name = os.path.basename(found)  # noqa: PTH119  # no path object for each program that is started
    if name not in PROGRAMS and name not in OPTIONAL:
        raise AssertionError(f"does setup.sh bring {name!r}? see tests/programs.py")


def watch() -> None:
    """Check all that this process starts from now on; a hook cannot be taken away again."""
    sys.addaudithook(check)
