"""What is rendered for an operated server: scripts that name no product, its values, and tables."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from unit.helpers import ROOT, make_matrix, make_spec

from pikaforge.config import load
from pikaforge.errors import ForgeError
from pikaforge.formats import payload
from pikaforge.operate import scripts
from pikaforge.operate.product_sh import quoted
from pikaforge.operate.tables import table

OPERATE: dict[str, Any] = {
    "settings": {"prefix": "demo{port}_"},
    "clients": {"key": "maxclients", "default": 1000, "reserve": 24},
    "stale_pids": [{"path": "dbsync/rsync.pid", "program": "rsync"}],
}


def _rendered(**changes: Any) -> dict[str, str]:
    made = payload.render(make_spec(product__server__operate=OPERATE, **changes).product, model="R620")
    assert {name for name in made.contents if name.endswith(".sh") and "/lib/" not in name} == set(made.executable)
    return {name: data.decode() for name, data in made.contents.items()}


def test_what_is_particular_is_in_one_script_and_in_tables() -> None:
    first = _rendered()
    second = _rendered(product__server__port=7001, product__server__stop={"signal": "INT"})
    differing = {name for name in first if first[name] != second[name]}
    assert differing <= {"utils/lib/product.sh", "systemd/demo@.service", "utils/deploy.sh"}
    values = dict(line.split("=", 1) for line in shlex.split(first["utils/lib/product.sh"], comments=True))
    assert values["product"] == "demo"
    assert values["command"] == "bin/demo -c {conf}"
    assert (values["key_clients"], values["default_clients"], values["reserve_files"]) == ("maxclients", "1000", "24")
    assert (values["separator"], values["protocol"], values["highest"]) == (" : ", "resp", "65535")
    assert first["utils/operate/recommended.tsv"] == "prefix\tdemo{port}_\n"
    assert first["utils/operate/stale.tsv"] == "dbsync/rsync.pid\trsync\n"


def test_a_server_that_is_not_operated_is_only_set_up() -> None:
    names = set(payload.render(make_spec().product).contents)
    assert not {"utils/instance.sh", "utils/run.sh"} & names


def test_the_files_of_the_real_products_are_rendered() -> None:
    for path in (ROOT / "matrix.yaml", ROOT / "tests/products/redis/matrix.yaml"):
        product = load.load(path).product
        contents = payload.render(product, model="R620", target="x", image="y").contents
        assert {"utils/instance.sh", "utils/run.sh", "utils/lib/common.sh"} <= set(contents)
        assert [name for name, text in contents.items() if not text] == [], "rpmlint refuses empty files"
        assert set(scripts.EXECUTABLE) & set(contents) >= {"utils/deploy.sh", "utils/instance.sh", "utils/run.sh"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"product__server__ready": {"kind": "tcp"}}, "servers that speak RESP"),
        ({"product__server__conf": None, "product__server__command": ["bin/demo"]}, "a configuration file"),
        ({"product__server__command": ["bin/demo", "a b"]}, "cannot be used by the scripts"),
        ({"product__server__operate": {"settings": {"a b": "x"}}}, "begins with a letter"),
        ({"product__server__operate": {"settings": {"a": "x'y"}}}, "without quotes"),
        ({"product__server__operate": {"settings": {"a": "x\\y"}}}, "without quotes"),
        ({"product__server__operate": {"settings": {"a": "x\ny"}}}, "without quotes"),
        ({"product__server__operate": {"settings": {"a": "{home}"}}}, "no other braces"),
        ({"product__server__operate": {"stale_pids": [{"path": "../x", "program": "y"}]}}, "may not leave its folder"),
        ({"product__server__operate": {"stale_pids": [{"path": "/x", "program": "y"}]}}, "below its folder"),
        ({"product__server__operate": {"clients": {"key": "a", "default": 0, "reserve": 1}}}, "greater than 0"),
        ({"product__server__operate": {"start_within": 0}}, "greater than 0"),
        ({"product__server__operate": {"unknown": 1}}, "unknown"),
    ],
)
def test_what_cannot_be_operated_is_refused(changes: dict[str, Any], words: str) -> None:
    changes = {"product__server__operate": OPERATE, **changes}
    with pytest.raises(ForgeError) as error:
        load.parse(make_matrix(**changes), file="matrix.yaml")
    assert words in str(error.value), str(error.value)


def test_values_are_quoted() -> None:
    assert shlex.split(quoted("it's $(x) `y` \\")) == ["it's $(x) `y` \\"]
    with pytest.raises(ValueError, match="control character"):
        quoted("a\nb")
    with pytest.raises(ValueError, match="a tab"):
        table([("a\tb", "c")])
