"""Machines that packages are installed on: a container with dnf and rpm, and what is asked of the server in it.

Debian's dnf stands in for that of EL, whose images no registry here has. What Debian's own packages provide is told to
rpm by a stub package, with the names that elfdeps finds in the libraries that are there. The container has no systemd:
deploy.sh prepares the instance, and `Host.start` runs the commands of the installed unit as the unit's user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from execs import run_in

from pikaforge.host.job import files

if TYPE_CHECKING:
    from docker.models.containers import Container


TOP = "/opt/pika"
UNIT = "/usr/lib/systemd/system/pika@.service"
PORT = 9221
DATA = f"/data/pika_{PORT}"

HOST = """\
FROM {base}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \\
 && apt-get install -y --no-install-recommends createrepo-c curl dnf gnupg rpm \\
 && rm -rf /var/lib/apt/lists/*
"""

STUB = r"""
set -eu
mkdir -p /etc/yum.repos.d
cd /srv
{
    printf '%s\n' 'Name: base-system' 'Version: 1' 'Release: 1' 'Summary: What Debian provides' 'License: MIT' \
        'BuildArch: x86_64' 'Provides: /bin/sh coreutils shadow-utils rsync'
    ldconfig -p | sed -n 's|.*x86-64.* => ||p' | /usr/lib/rpm/elfdeps --provides |
        grep -E '^(ld-linux-x86-64|lib(c|m|gcc_s|stdc\+\+|pthread|dl|rt))[.]so' | sort -u | sed 's/^/Provides: /'
    printf '%s\n' '%description' 'For tests.' '%files'
} >base.spec
rpmbuild --quiet -bb --define '_rpmdir /srv' --define '_rpmfilename base.rpm' base.spec
rpm -i base.rpm
for program in /bin/sh mktemp useradd rsync; do
    command -v "$program" >/dev/null
done
"""
"""Tells rpm what the system provides. The stub speaks for libraries and programs that are there."""

RUN = r"""
rm -f /srv/status
setpriv --reuid "$1" --regid "$1" --init-groups $2 >>/srv/server.log 2>&1 &
echo $! >/srv/server.pid
wait $!
echo $? >/srv/status
"""
"""Runs a unit: user, ExecStart; the server's exit status is left in /srv/status."""

TALK = r"""
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
shift
printf '*%d\r\n' $# >&3
for word; do printf '$%d\r\n%s\r\n' ${#word} "$word" >&3; done
IFS= read -r -t 10 line <&3 || exit 1
case $line in
'$-1'*) ;;
'$'*) IFS= read -r -t 10 line <&3 || exit 1 ;;
esac
printf '%s' "${line%$'\r'}"
"""
"""For bash: sends one request, and prints the line of the answer."""


def full(release: str) -> str:
    """The package as rpm names it."""
    return f"pika-3.4.0-{release}.R620.debian12.x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A container with dnf and rpm; most of this serves one with apt alike."""

    container: Container
    until: Callable[..., None]

    def run(self, *argv: str) -> tuple[int, str]:
        """Run a program; exit status and both outputs, without what Debian's rpm says to newcomers."""
        status, output = run_in(self.container, argv, workdir="/", env={"LC_ALL": "C.UTF-8"})
        lines = output.decode("utf-8", "replace").splitlines(keepends=True)
        return status, "".join(line for line in lines if not line.startswith(("rpm: RPM should", "rpm: However")))

    def ok(self, *argv: str) -> str:
        """Run a program that must succeed; its output."""
        status, output = self.run(*argv)
        assert status == 0, output
        return output

    def sh(self, script: str) -> str:
        """Run a script that must succeed; its output."""
        return self.ok("sh", "-c", script)

    def put(self, contents: Mapping[str, bytes | Path]) -> None:
        """Write files below /srv."""
        self.container.put_archive("/srv", files(contents))

    # dnf

    def dnf(self, *args: str) -> tuple[int, str]:
        """Run dnf as a script does."""
        return self.run("dnf", "--assumeyes", "--releasever=12", "--refresh", *args)

    def dnf_ok(self, *args: str) -> str:
        """Run dnf, which must succeed; its output."""
        status, output = self.dnf(*args)
        assert status == 0, output
        assert "Complete!" in output
        return output

    def installed(self) -> str:
        """Which release of the product is there."""
        return self.ok("rpm", "-q", "pika").strip()

    # the instance

    def deploy(self) -> None:
        """Prepare the instance."""
        self.ok("sh", f"{TOP}/utils/deploy.sh", str(PORT), "/data", "--no-start")
        # Fewer clients than by default, because containers have a low limit of open files.
        self.sh(f"sed -i 's/^maxclients.*/maxclients : 1000/' {DATA}/conf/pika.conf")

    def start(self) -> None:
        """Do what the installed unit says, and wait until the server answers."""
        unit = dict(re.findall(r"^(User|ExecStart)=(.+)$", self.ok("cat", UNIT), re.MULTILINE))
        script = ["sh", "-c", RUN, "run", unit["User"], unit["ExecStart"].replace("%i", str(PORT))]
        assert self.talk("PING") == "", "a server is there already"
        self.sh("rm -f /srv/status")
        self.container.exec_run(script, detach=True)
        self.until(lambda: self.talk("PING") == "+PONG" or self.ended(), "the server answers", 30)
        assert not self.ended(), self.ok("tail", "/srv/server.log")
        look = f"setpriv --reuid {unit['User']} --regid {unit['User']} --clear-groups readlink /proc/{self.process}/exe"
        assert self.sh(look) == f"{TOP}/bin/pika\n"

    def stop(self) -> None:
        """End the server as the unit does."""
        self.sh(f"kill -TERM {self.process}")
        self.until(self.ended, "the server ends", 30)
        assert self.ok("cat", "/srv/status") == "0\n"

    def restart(self) -> None:
        """Take up the program that is there now."""
        self.stop()
        self.start()

    def ended(self) -> bool:
        """Whether the server has ended."""
        return self.run("test", "-s", "/srv/status")[0] == 0

    @property
    def process(self) -> str:
        """The server's."""
        return self.ok("cat", "/srv/server.pid").strip()

    def talk(self, *words: str) -> str:
        """Send a request; the answer, or "" if nobody answers."""
        status, output = self.run("bash", "-c", TALK, "talk", str(PORT), *words)
        return output if status == 0 else ""
