"""A machine with an operated server: all scripts of its package, with the system's folders moved below `top`."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from guest.helpers import sh
from guest.stubbed_host import StubbedHost
from unit.helpers import make_spec

from pikaforge.formats import payload

OPERATE: dict[str, Any] = {
    "settings": {"maxclients": "500", "prefix": "demo{port}_"},
    "clients": {"key": "maxclients", "default": 1000, "reserve": 24},
    "passwords": {"admin": "requirepass", "user": "userpass", "master": "masterauth"},
    "host_name": True,
    "stale_pids": [{"path": "dbsync/rsync.pid", "program": "sleep"}],
    "start_within": 5,
}
"""The section of the demo."""
PLACES = re.compile(r"^(etc|units|init|tmpfiles|packaged_units|runtime|logs)=(.*)$", re.MULTILINE)
"""Where common.sh says what is where on a host."""
MOVED = ("utils/lib/common.sh", "utils/boot.sh")


def moved(text: str, top: Path) -> str:
    """The text of common.sh with the places of a host below a folder."""
    return PLACES.sub(lambda found: re.sub(r"(?<![\w}])/(?=[a-z])", f"{top}/", found.group()), text)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatedHost(StubbedHost):
    """A machine on which the scripts of an operated server run, by a shell of choice."""

    def unpack(self, where: str = "opt/demo", **changes: Any) -> Path:
        """Put a package on the machine. Return its top."""
        spec = make_spec(product__server__operate=OPERATE, product__server__offsets=[0, 1000, 2000], **changes)
        rendered = payload.render(spec.product, model="R620", target="sandybridge", image="el9", features=("lm",))
        tree = self.folder(where)
        files = {name: content.decode() for name, content in rendered.contents.items()}
        files["conf/demo.conf"] = "# a comment\nport : 1\nmaxclients : 77\nrequirepass :\n"
        files["bin/demo"] = "#!/bin/sh\nexec sleep 1000\n"
        for name, text in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(moved(text, self.top) if name in MOVED else text)
            path.chmod(0o755 if name in (*rendered.executable, "bin/demo") else 0o644)
        return tree

    def add_instance(self, port: int = 7000, conf: str = "port : 7000\n") -> Path:
        """Write the files of an instance, as deploy.sh does. Return its data folder."""
        data = self.folder(f"data/demo_{port}/conf").parent
        (data / "conf/demo.conf").write_text(conf)
        self.folder("etc/demo").joinpath(f"{port}.env").write_text(
            f"CONF={data}/conf/demo.conf\nDATA={data}\nTREE={self.top}/opt/demo\n"
        )
        return data

    def run(self, script: str, *argv: str, text: str = "", **env: str) -> CompletedProcess[str]:
        """Run a script of the package."""
        path = script if "/" in script else f"opt/demo/utils/{script}"
        return sh(*self.words, self.top / path, *argv, env=self.env(**env), cwd=self.top, text=text)

    def lib(self, code: str, **env: str) -> CompletedProcess[str]:
        """Run lines of shell after the libraries."""
        libraries = "".join(f'. "$utils/lib/{name}.sh"\n' for name in ("common", "service", "resp"))
        script = self.top / "lines.sh"
        script.write_text(f"utils={self.top}/opt/demo/utils\n{libraries}{code}\n")
        return sh(*self.words, script, env=self.env(**env), cwd=self.top)

    def env(self, **env: str) -> dict[str, str]:
        """The environment of the scripts: stand-ins first, then the system's programs."""
        return {"PATH": f"{self.top}/bin:/usr/bin:/bin:/usr/sbin:/sbin", "SPY": str(self.top / "calls"), **env}

    @property
    def calls(self) -> list[str]:
        path = self.top / "calls"
        return path.read_text().splitlines() if path.exists() else []


def operated_host(top: Path, shell: tuple[str, ...]) -> OperatedHost:
    """A machine with the demo's package, its user and no systemd; programs of the system but for those stood in for."""
    host = OperatedHost(top=top, words=(str(shutil.which(shell[0])), *shell[1:]))
    for name in ("bin", "run", "etc/systemd/system", "etc/init.d", "var/log", "data"):
        host.folder(name)
    host.stub("useradd")
    host.stub("chown")
    host.stub("update-rc.d")
    host.stub("getent", "echo 192.0.2.1 here")
    # Nobody else may be there to become: the same user goes on.
    host.stub("setpriv", 'while [ "$1" != -- ]; do shift; done; shift; FAKE_UID=1000 exec "$@"')
    host.stub(
        "id", f'case $* in -u) echo "${{FAKE_UID:-0}}" ;; "-u demo") echo {os.geteuid()} ;; -un) echo demo ;; esac'
    )
    host.unpack()
    return host
