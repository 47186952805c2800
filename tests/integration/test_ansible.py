"""The Ansible collection: its playbooks on three hosts that are folders, with stand-ins for a package's scripts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from types import MappingProxyType

import documented
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "ansible"
DEPLOY = """\
#!/bin/sh
set -eu
here=$(cd -- "$(dirname -- "$0")/../../.." && pwd)
printf '%s\\n' "$*" >>"$here/calls"
port=$1 base=$2 dry=no password=
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry=yes ;;
    --password-file) password=$2 ;;
    esac
    shift
done
[ -z "$password" ] || { stat -c %a "$password" && cat "$password"; } >"$here/password"
if [ "$dry" = yes ]; then
    [ ! -e "$here/state/$port" ] || { echo "would set up $port, which is there; would keep x" && exit 0; }
    echo "would set up instance $port" && exit 0
fi
[ ! -e "$here/state/$port" ] || { echo "deploy: instance $port answers" && exit 0; }
mkdir -p "$here/state"
cat "$(dirname -- "$0")/version" >"$here/state/$port"
echo "deploy: instance $port answers; it is new, in $base"
[ ! -e "$here/changed" ] || echo "deploy: its configuration was changed: instance.sh $port restart"
"""
INSTANCE = """\
#!/bin/sh
set -eu
here=$(cd -- "$(dirname -- "$0")/../../.." && pwd)
printf '%s\\n' "$*" >>"$here/calls"
port=$1 verb=$2 dry=no
case " $* " in *" --dry-run "*) dry=yes ;; esac
case $* in
*' --port '*)
    rest="${*##* --port }"
    sh "$0" "$port" "$verb" $(printf '%s\\n' "$*" | sed -e "s/^$1 $2//" -e 's/ --port [0-9]*//g')
    exec sh "$0" "${rest%% *}" "$verb" $(printf '%s\\n' "$*" | sed -e "s/^$1 $2//" -e 's/ --port [0-9]*//g')
    ;;
esac
running=$(cat "$here/state/$port" 2>/dev/null) || running=
case $verb in
check)
    [ -n "$running" ] && [ "$running" != "$(cat "$here/bad" 2>/dev/null)" ] || exit 2
    ;;
upgrade)
    new=$(cat "${3:-$(dirname -- "$0")/..}/utils/version")
    [ "$running" != "$new" ] || { echo "nothing to do" && exit 0; }
    [ "$dry" = no ] || { echo "would upgrade $running to $new" && exit 0; }
    [ "$new" != "$(cat "$here/bad" 2>/dev/null)" ] || { echo "error: $new does not answer" >&2 && exit 1; }
    echo "$running" >"$here/before"
    echo "$new" >"$here/state/$port"
    ;;
restart) [ ! -e "$here/stuck" ] || exit 1 ;;
rollback)
    [ -e "$here/before" ] || { echo "nothing to do" && exit 0; }
    [ "$dry" = no ] || { echo "would go back" && exit 0; }
    mv "$here/before" "$here/state/$port"
    ;;
esac
"""
METRICS = """\
#!/bin/sh
here=$(cd -- "$(dirname -- "$0")/../../.." && pwd)
printf 'metrics %s\\n' "$*" >>"$here/calls"
[ ! -e "$here/metrics" ] || { echo "nothing to do" && exit 0; }
case " $* " in *" --dry-run "*) exit 0 ;; esac
: >"$here/metrics"
"""
DETECT = '#!/bin/sh\n[ "$3" = --print ] || exit 9\necho R620\n'
HOSTS = ("one", "two", "three")
LOCAL: dict[str, object] = {
    "server_health_retries": 1,
    "server_health_delay": 0,
    "ansible_become": False,
    "ansible_python_interpreter": sys.executable,
    "ansible_connection": "local",
}
"""Variables of hosts that are folders."""


def program(name: str) -> str:
    """Return the path of one of Ansible's programs."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Hosts that are folders."""

    top: Path

    def tarball(self, version: str) -> Path:
        """Return a package of a version."""
        path = self.top / f"package-{version}-R620.tar.gz"
        folder = self.top / "made" / version / "demo-v1"
        for name, text in {"deploy.sh": DEPLOY, "instance.sh": INSTANCE, "metrics.sh": METRICS}.items():
            (folder / "utils").mkdir(parents=True, exist_ok=True)
            (folder / "utils" / name).write_text(text)
            (folder / "utils" / name).chmod(0o755)
        (folder / "utils/version").write_text(f"{version}\n")
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, "demo-v1")
        return path

    def host(self, name: str) -> Path:
        return self.top / "hosts" / name

    def calls(self, name: str) -> list[str]:
        path = self.host(name) / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def running(self) -> list[str]:
        """Return what runs on port 9221, host by host."""
        paths = [self.host(name) / "state/9221" for name in HOSTS]
        return [path.read_text().strip() if path.exists() else "" for path in paths]

    def state(self) -> dict[str, str]:
        """Return all files of all hosts, but for the record of calls."""
        files = (path for path in (self.top / "hosts").rglob("*") if path.name not in {"calls", "password"})
        return {
            str(path): (str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file() else "/")
            for path in files
        }

    def play(
        self, name: str, values: Mapping[str, object] = MappingProxyType({}), *words: str, version: str = "1"
    ) -> CompletedProcess[str]:
        """Run a playbook, with variables in place of the usual ones."""
        return self.play_on({host: {} for host in HOSTS}, name, values, *words, version=version)

    def play_on(
        self,
        hosts: Mapping[str, Mapping[str, object]],
        name: str,
        values: Mapping[str, object],
        *words: str,
        version: str = "1",
    ) -> CompletedProcess[str]:
        """Run a playbook on hosts, each with variables of its own."""
        variables = {
            "server_product": "demo",
            "server_source": "tarball",
            "server_version": version,
            "server_tarball": str(self.top / f"package-{version}-{{model}}.tar.gz"),
            "server_detect_model": str(self.top / "detect-model.sh"),
            "server_instances": [{"port": 9221, "base": "/data", "memory": "8G"}, {"port": 9321, "base": "/data"}],
            **LOCAL,
            **values,
        }
        inventory = {
            "servers": {
                "hosts": {host: {"server_tree": f"{self.host(host)}/opt/demo", **own} for host, own in hosts.items()},
                "vars": variables,
            }
        }
        (self.top / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
        return subprocess.run(
            [program("ansible-playbook"), "-i", str(self.top / "inventory.yml"), f"pikaforge.servers.{name}", *words],
            env=environment(self.top),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )


def environment(top: Path) -> Mapping[str, str]:
    return {
        "PATH": f"{Path(program('ansible-playbook')).parent}:{os.environ['PATH']}",
        "HOME": str(top),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(top / "collections"),
        "ANSIBLE_HOME": str(top / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "NO_COLOR": "1",
    }


WRONG: tuple[dict[str, object], ...] = (
    {"server_source": "nowhere"},
    {"server_source": "repository"},
    {"server_source": "repository", "server_site": "http://x/'; id", "server_key": "k"},
    {"server_version": "1; id"},
    {"server_version": "../../etc"},
    {"server_tarball": ""},
    {"server_detect_model": ""},
    {"server_product": "../x"},
    {"server_tree": "/"},
    {"server_instances": [{"port": "http", "base": "/data"}]},
    {"server_instances": [{"base": "/data"}]},
    {"server_instances": [{"port": 1, "base": "/data"}, {"port": 1, "base": "/srv"}]},
    {"server_instances": [{"port": 1, "base": "/data", "colour": "red"}]},
)
"""Variables that are refused."""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    program("ansible-playbook")
    shutil.copytree(COLLECTION, tmp_path / "collections/ansible_collections/pikaforge/servers")
    (tmp_path / "detect-model.sh").write_text(DETECT)
    fleet = Fleet(top=tmp_path)
    for name in HOSTS:
        (fleet.host(name) / "opt").mkdir(parents=True)
    for version in ("1", "2"):
        fleet.tarball(version)
    return fleet


def changed(done: CompletedProcess[str]) -> list[int]:
    """Return the counts of changes, host by host."""
    assert done.returncode == 0, done.stdout + done.stderr
    recap = done.stdout[done.stdout.index("PLAY RECAP") :]
    return [int(word.split("=")[1]) for word in recap.split() if word.startswith("changed=")]


def counts(done: CompletedProcess[str], what: str) -> dict[str, int]:
    """Return the counts of the recap, by host; hosts that have not had their turn are not in it."""
    assert "PLAY RECAP" in done.stdout, done.stdout + done.stderr
    recap = done.stdout[done.stdout.index("PLAY RECAP") :]
    return {host: int(count) for host, count in re.findall(rf"^(\w+) .*{what}=(\d+)", recap, re.MULTILINE)}


def test_check_tells_the_truth_and_a_second_run_changes_nothing(fleet: Fleet) -> None:
    (fleet.top / "secret").write_text("open sesame\n")
    instances = [
        {"port": 9221, "base": "/data", "memory": "8G", "settings": {"maxclients": 9000, "slaveof": "one:9221"}},
        {"port": 9321, "base": "/srv", "password_file": str(fleet.top / "secret")},
    ]
    values = {"server_instances": instances, "server_metrics": True}
    before = fleet.state()
    foreseen = fleet.play("site", values, "--check", "--diff", "--limit", "one")
    assert min(changed(foreseen)) > 0
    assert fleet.state() == before
    done = fleet.play("site", values, "--diff", "--limit", "one")
    assert min(changed(done)) > 0
    assert fleet.running() == ["1", "", ""]
    calls = fleet.calls("one")
    assert "9221 /data --memory 8G --set maxclients=9000 --set slaveof=one:9221" in calls
    (private,) = [call.split()[-1] for call in calls if call.startswith("9321 /srv --password-file")]
    assert (fleet.host("one") / "password").read_text() == "600\nopen sesame\n"
    assert not Path(private).parent.exists()
    assert "sesame" not in foreseen.stdout + done.stdout + "".join(calls)
    after = fleet.state()
    for words in ((), ("--check", "--diff")):
        assert changed(fleet.play("site", values, *words, "--limit", "one")) == [0]
        assert fleet.state() == after


PAGE = "docs/operating.md"


def test_the_commands_of_the_page(fleet: Fleet) -> None:
    """With its inventory, and the variables that it has for a site without network; the hosts are folders."""
    shutil.rmtree(fleet.top / "collections")
    shutil.copytree(COLLECTION, fleet.top / "ansible")
    inventory = yaml.safe_load(documented.in_language(PAGE, "A fleet", "yaml"))
    offline = yaml.safe_load(documented.in_language(PAGE, "Offline sites", "yaml"))
    group = inventory["servers"]
    group["vars"] = {name: group["vars"][name] for name in group["vars"] if name not in {"server_site", "server_key"}}
    group["vars"] |= offline | LOCAL
    assert len(group["hosts"]) == len(HOSTS)
    group["hosts"] = {host: {"server_tree": f"{fleet.host(host)}/opt/pika", "server_image": "el9"} for host in HOSTS}
    version = group["vars"]["server_version"]
    package = fleet.top / "packages/el9/pika-v3.4.0-R620.tar.gz"
    for path, content in {
        fleet.top / "secrets/pika": b"open sesame\n",
        package: fleet.tarball(version).read_bytes(),
    }.items():
        path.parent.mkdir(parents=True)
        path.write_bytes(content)

    for line in documented.commands("docs/operating.md", "A fleet"):
        if line.endswith(".upgrade"):
            package.write_bytes(fleet.tarball("v3.4.0-2").read_bytes())
            group["vars"]["server_version"] = "v3.4.0-2"
        (fleet.top / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=fleet.top,
            env=environment(fleet.top),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if line.endswith(".upgrade"):
            assert fleet.running() == ["v3.4.0-2"] * 3
    assert fleet.running() == [version] * 3


def test_what_is_wrong_is_refused(fleet: Fleet) -> None:
    """Variables, a package that is cut off, an unknown machine; and restarts end at the first host that fails."""
    (fleet.top / "cut-R620.tar.gz").write_bytes(fleet.tarball("1").read_bytes()[:400])
    (fleet.top / "old.sh").write_text("echo 'detect-model: error: these CPUs run nothing' >&2; exit 1\n")
    hosts: dict[str, dict[str, object]] = {f"host{number}": dict(values) for number, values in enumerate(WRONG)}
    hosts["cut"] = {"server_tarball": str(fleet.top / "cut-{model}.tar.gz")}
    hosts["old"] = {"server_detect_model": str(fleet.top / "old.sh")}
    hosts["none"] = {"server_source": "none"}
    for name in ("cut", "old", "none"):
        (fleet.host(name) / "opt").mkdir(parents=True)
    for name in HOSTS:
        (fleet.host(name) / "changed").touch()
    (fleet.host("two") / "stuck").touch()
    done = fleet.play_on({**hosts, **{name: {"server_restart": True} for name in HOSTS}}, "site", {})
    assert counts(done, "failed") == {**dict.fromkeys(hosts, 1), "one": 0, "two": 1, "three": 0}, done.stdout
    unchanged = {name: count for name, count in counts(done, "changed").items() if name not in ("cut", *HOSTS)}
    assert unchanged == dict.fromkeys(unchanged, 0), done.stdout
    for says in ("cannot be unpacked; nothing was changed", "these CPUs run nothing", "there is no program in"):
        assert says in done.stdout
    for name in ("cut", "old", "none"):
        assert list((fleet.host(name) / "opt").iterdir()) == []
    # A host that answers late has its turn later. Those behind the one that fails have none, and `two` ends at once.
    restarts = {name: len([call for call in fleet.calls(name) if "restart" in call]) for name in HOSTS}
    assert restarts.pop("two") == 1
    assert set(restarts.values()) <= {0, 2}


def test_an_upgrade_goes_host_by_host_and_back(fleet: Fleet) -> None:
    assert fleet.play("site").returncode == 0
    assert min(changed(fleet.play("upgrade", {}, "--check", version="2"))) > 0
    assert fleet.running() == ["1", "1", "1"]
    # It ends at the first host that fails, and a host that is not well is not touched.
    (fleet.host("two") / "bad").write_text("2\n")
    done = fleet.play("upgrade", version="2")
    assert (done.returncode != 0, counts(done, "failed")) == (True, {"one": 0, "two": 1})
    assert fleet.running() == ["2", "1", "1"]
    assert not [call for call in fleet.calls("three") if "upgrade" in call and "--dry-run" not in call]
    (fleet.host("two") / "bad").write_text("1\n")
    before = fleet.state()
    done = fleet.play("upgrade", version="2")
    assert (done.returncode != 0, counts(done, "failed"), fleet.state()) == (True, {"one": 0, "two": 1}, before)
    (fleet.host("two") / "bad").unlink()
    done = fleet.play("upgrade", version="2")
    assert (done.returncode, counts(done, "changed")["one"], fleet.running()) == (0, 0, ["2", "2", "2"])
    assert min(changed(fleet.play("rollback", version="2"))) > 0
    assert fleet.running() == ["1", "1", "1"]


@pytest.mark.parametrize("tool", ["yamllint", "ansible-lint"])
def test_lint(fleet: Fleet, tool: str) -> None:
    folder = fleet.top / "collections/ansible_collections/pikaforge/servers"
    argv = {
        "yamllint": ["yamllint", "--strict", "."],
        "ansible-lint": ["ansible-lint", "--offline", "--strict", "-q"],
    }[tool]
    done = subprocess.run(
        [program(argv[0]), *argv[1:]],
        cwd=folder,
        env=environment(fleet.top),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
