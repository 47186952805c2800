"""Helpers for the tests of the scripts that run inside build containers.

They run the real scripts with the host's shell and, where a compiler is needed, with
the host's gcc. Nothing outside of ``tmp_path`` is written.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

GUEST = Path(__file__).resolve().parents[2] / "docker" / "guest"
TARGET_FLAGS = ("-march=sandybridge", "-mtune=sandybridge")
BASE_LIBS = (
    "ld-linux*.so.* libc.so.* libm.so.* libpthread.so.* libdl.so.* librt.so.* "
    "libresolv.so.* libutil.so.* libstdc++.so.* libgcc_s.so.*"
)

#: Stands in for the compiler: writes its arguments, each ended by a NUL byte, to
#: $SPY, and the bytes of each response file to $SPY.response.
SPY = """#!/bin/sh
for word do
    printf '%s\\0' "$word"
    case $word in @*) [ ! -f "${word#@}" ] || cat "${word#@}" >"$SPY.response" ;; esac
done >"$SPY"
exit "${SPY_STATUS:-0}"
"""


def need(*programs: str) -> None:
    """Skip the test when a program that it runs is not installed here."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def clean_env(**values: str) -> dict[str, str]:
    """The environment of a script under test: PATH and what is given, nothing else."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **values}


def sh(
    *arguments: str | Path,
    env: Mapping[str, str],
    cwd: Path | None = None,
    text: str = "",
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command with exactly ``env``; the caller judges its exit status."""
    return subprocess.run(
        [str(word) for word in arguments],
        env=dict(env),
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """A folder of wrapped compilers, and a spy behind it."""

    root: Path
    path: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def dropped(self) -> list[str]:
        log = self.root / "dropped"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def response(self) -> str:
        return (self.root / "spy.response").read_text()

    def env(self, **values: str) -> dict[str, str]:
        return clean_env(
            **{
                "PATH": self.path,
                "SPY": str(self.root / "spy"),
                "PIKAFORGE_TARGET_FLAGS": " ".join(TARGET_FLAGS),
                "PIKAFORGE_DROPPED": str(self.root / "dropped"),
                "PIKAFORGE_ROOT": str(self.root),
                "PIKAFORGE_PRODUCT": "sample",
                "PIKAFORGE_VERSION": "1.0",
                **self.extra,
                **values,
            }
        )

    def run(
        self,
        arguments: Sequence[str],
        values: Mapping[str, str],
        *,
        name: str = "gcc",
        cwd: Path | None = None,
        text: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Call a wrapped compiler with ``values`` added to its environment."""
        command: list[str | Path] = [self.root / "wrap" / name, *arguments]
        return sh(*command, env=self.env(**values), cwd=cwd or self.root, text=text)

    def call(
        self,
        *arguments: str,
        name: str = "gcc",
        cwd: Path | None = None,
        text: str = "",
        **values: str,
    ) -> subprocess.CompletedProcess[str]:
        return self.run(arguments, values, name=name, cwd=cwd, text=text)

    def seen(self, *arguments: str, name: str = "gcc", **values: str) -> list[str]:
        """The arguments with which the compiler behind the wrapper was called."""
        done = self.run(arguments, values, name=name)
        assert done.returncode == 0, done.stderr
        return (self.root / "spy").read_text().split("\0")[:-1]


#: Shells that may be a system's sh; "bash" is that of Enterprise Linux.
SHELLS = {"dash": ("dash",), "bash": ("bash", "--posix"), "busybox": ("busybox", "sh")}


def install_wrapper(
    root: Path, names: Sequence[str] = ("gcc", "g++", "cc", "c++"), *, shell: Sequence[str] = ()
) -> Path:
    """Install the wrapper as compile.sh does, for the system's sh or another shell, and return its folder."""
    wrap = root / "wrap"
    wrap.mkdir()
    text = (GUEST / "cc").read_text()
    if shell:
        need(shell[0])
        text = text.replace("#!/bin/sh\n", f"#!{' '.join([str(shutil.which(shell[0])), *shell[1:]])}\n", 1)
    (wrap / ".forge-wrapper").write_text(text)
    (wrap / ".forge-wrapper").chmod(0o755)
    for name in names:
        (wrap / name).symlink_to(".forge-wrapper")
    return wrap
