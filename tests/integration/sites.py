"""A host whose server came as a tarball, with an instance that is upgraded and goes back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hosts import Host
from integration.trees import Tree

from pikaforge.pipeline.smoke.resp import Connection, Reply

PORT = 9221
FIRST = "/opt/pika-v3.4.0-1-R620"
SECOND = "/opt/pika-v3.4.0-2-R620"
INSTANCE = "/opt/pika/utils/instance.sh"
PACKAGES = "/root/packages"
SHORT = ("--within", "4", "--settle", "3")
"""For a version that does not serve."""
SOON = ("--within", "120", "--settle", "3")
"""For one that does, on a busy machine, too."""
KEYS = 300


def released(tree: Tree, release: str) -> Tree:
    """The tree under another release."""
    facts, times = re.subn(r"(?m)^release='.*'$", f"release='{release}'", tree.content("utils/lib/product.sh").decode())
    assert times == 1
    return tree.changed({"utils/lib/product.sh": facts.encode()})


def name_of(tree: Tree) -> str:
    """What tells trees apart: version, release and model."""
    facts = tree.content("utils/lib/product.sh").decode()
    return "-".join(re.findall(r"(?m)^(?:version|release|model)='(.*)'$", facts))


@dataclass(slots=True, kw_only=True)
class Site:
    """A host whose first version came as a tarball, with one instance."""

    host: Host
    first: Tree
    second: Tree
    port: int = PORT
    password: str = ""
    sums: dict[str, str] = field(default_factory=dict)

    # ---- where things are

    def folder(self, tree: Tree) -> str:
        """The folder of a tree that lies beside."""
        return f"{self.link}-{name_of(tree)}"

    @property
    def link(self) -> str:
        """It leads to the tree that is in use."""
        return f"/opt/{self.first.top}"

    @property
    def instance(self) -> str:
        return f"{self.link}/utils/instance.sh"

    @property
    def etc(self) -> str:
        return f"/etc/{self.first.top}"

    def data(self, port: int = 0) -> str:
        return f"/data/{self.first.top}_{port or self.port}"

    # ---- packages

    def install(self) -> None:
        """Unpack the first version, with a link to it."""
        self.host.unpack(self.first.tar(), "/opt/new")
        folder = self.folder(self.first)
        self.host.sh(f"mv /opt/new/{self.first.top} {folder}; rmdir /opt/new; ln -s {folder} {self.link}")

    def package(self, tree: Tree, name: str, sums: bool = True) -> str:
        """Put a package on the host, with its sum beside; return its path."""
        data = tree.tar()
        self.host.put(PACKAGES, {f"{name}.tar": data})
        if sums:
            self.sums[f"{name}.tar"] = hashlib.sha256(data).hexdigest()
        lines = "".join(f"{digest}  tarballs/{file}\n" for file, digest in self.sums.items())
        self.host.put(PACKAGES, {"SHA256SUMS": lines.encode()})
        return f"{PACKAGES}/{name}.tar"

    # ---- the instance

    def verb(self, *words: str, port: int = 0) -> tuple[int, str]:
        return self.host.run(self.instance, str(port or self.port), *words)

    def ok(self, *words: str, port: int = 0) -> str:
        status, said = self.verb(*words, port=port)
        assert status == 0, said
        return said

    def deploy(self, port: int = 0, *words: str) -> None:
        """Set an instance up. With a password, others on the network can use it as well."""
        if self.password:
            self.host.sh('umask 077; printf "%s\\n" "$1" >/root/password', self.password)
            words = (*words, "--password-file", "/root/password")
        self.host.ok("sh", f"{self.link}/utils/deploy.sh", str(port or self.port), "/data", *words)

    def tree(self, port: int = 0) -> str:
        """What the instance is set to run; the process must be of it."""
        line = self.host.sh(f"grep ^TREE= {self.etc}/{port or self.port}.env").strip()
        path = line.removeprefix("TREE=")
        process = self.process(port)
        code = f"tr '\\0' ' ' </proc/{process}/cmdline; readlink /proc/{process}/exe"
        assert path in self.host.sh(code, user=self.first.top), path
        return path

    def process(self, port: int = 0) -> str:
        utils = f"{self.link}/utils"
        code = f"utils={utils}; for f in common service; do . $utils/lib/$f.sh; done; service_pid {port or self.port}"
        return self.host.sh(code).strip()

    def conf(self, port: int = 0) -> str:
        return self.host.read(f"{self.data(port)}/conf/{self.first.top}.conf")

    def setting(self, key: str) -> str:
        """What the configuration of the instance sets a key to."""
        (found,) = re.findall(rf"(?m)^{key} *:? +(\S+)$", self.conf())
        return str(found)

    # ---- its server

    def connect(self, port: int = 0) -> Connection:
        return self.host.connect(port or self.port, password=self.password)

    def ask(self, *words: str | int) -> Reply:
        return self.host.ask(self.port, *words, password=self.password)

    def write(self, port: int = 0) -> None:
        with self.connect(port) as connection:
            replies = connection.exchange([["SET", f"key:{n}", f"value {n}"] for n in range(KEYS)])
        assert replies == ["OK"] * KEYS

    def whole(self, port: int = 0) -> bool:
        with self.connect(port) as connection:
            replies = connection.exchange([["GET", f"key:{n}"] for n in range(KEYS)])
        return replies == [f"value {n}" for n in range(KEYS)]

    # ---- the end

    def remove(self) -> None:
        """Remove all instances and trees but the first."""
        first = self.folder(self.first)
        self.host.sh(
            f"for env in {self.etc}/[0-9]*.env; do [ -f $env ] || continue; port=$(basename $env .env); "
            f"sh {first}/utils/instance.sh $port remove --purge $port; done; "
            f"mv {first} /opt/kept; rm -rf {self.link} {self.link}-*; mv /opt/kept {first}; ln -s {first} {self.link}"
        )


def site_of(site: Site) -> Iterator[Site]:
    """A site with its instance, which has keys; at the end it is as before."""
    site.deploy()
    site.write()
    yield site
    site.remove()
