"""Servers that do not speak RESP, servers without a configuration file, products without a server: as YAML has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from described import server_of
from unit.helpers import WITHOUT_SERVER, make_matrix, make_spec, refusal

from pikaforge.cli import main
from pikaforge.config.schema import Spec, matrix_schema
from pikaforge.config.smoke_checks import Probe
from pikaforge.errors import ConfigError


def _check(*steps: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"check": "it", "steps": list(steps), **more}]


TCP = {"kind": "tcp", "send": "version\r\n", "match": "^VERSION"}
TOOL = {"kind": "command", "argv": ["bin/demo", "{data}/x"]}


def _spec(**changes: Any) -> Spec:
    """A specification of a server that is asked by raw bytes."""
    return make_spec(**{"product__server__ready": TCP, "product__smoke": _check({"probe": TCP}), **changes})


def test_a_server_speaks_resp_unless_it_is_said() -> None:
    """The control."""
    server = server_of(make_spec().product)
    assert server.ready == Probe(kind="resp")
    assert make_spec().product.speaks_resp


@pytest.mark.parametrize(
    ("ready", "probe"),
    [
        ("resp", {"kind": "resp"}),
        ("tcp", {"kind": "tcp"}),
        (TCP, TCP),
        ({"kind": "http", "path": "/health"}, {"kind": "http", "path": "/health"}),
        ({"kind": "command", "argv": ["bin/ask"]}, {"kind": "command", "argv": ("bin/ask",)}),
    ],
)
def test_ready_is_a_probe_or_its_kind(ready: object, probe: dict[str, Any]) -> None:
    smoke = _check({"probe": TCP})
    assert server_of(make_spec(product__server__ready=ready, product__smoke=smoke).product).ready == Probe(**probe)


def test_bytes_are_written_as_characters() -> None:
    made = _spec(product__smoke=_check({"probe": {"kind": "tcp", "send": "\x00\x80\xff\r\n"}}))
    probe = made.product.smoke[0].steps[0].probe
    assert probe is not None
    assert probe.send == "\x00\x80\xff\r\n"


def test_no_configuration_file_and_no_server() -> None:
    assert server_of(_spec(product__server__conf=None, product__server__command=["bin/demo"]).product).conf is None
    assert make_spec(**WITHOUT_SERVER).product.server is None


def test_the_schema_lists_the_kinds_and_takes_ready_in_both_forms() -> None:
    schema = matrix_schema()["$defs"]
    assert schema["Probe"]["properties"]["kind"]["enum"] == ["resp", "tcp", "http", "command"]
    assert all(f"`{kind}` " in schema["Probe"]["description"] for kind in ("resp", "tcp", "http", "command"))
    assert {"$ref": "#/$defs/Probe"} in schema["Server"]["properties"]["ready"]["anyOf"]
    assert {"ready", "conf"} & set(schema["Server"]["required"]) == set()
    assert "server" not in schema["Product"]["required"]


PATH = "`path` must be the path of a URL: / and then ASCII characters without spaces"
NO_SERVER = {**WITHOUT_SERVER, "product__smoke": _check({"probe": TOOL})}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown kind": (
        {"product__server__ready": "rsp"},
        "`ready` must be 'resp', 'tcp', 'http' or 'command', got the string 'rsp'",
        "product.server.ready",
    ),
    "a field of another kind": (
        {"product__server__ready": {**TCP, "path": "/"}},
        "kind tcp takes no `path`",
        "product.server.ready",
    ),
    "a field that is missing": (
        {"product__server__ready": "http"},
        "kind http needs `path`",
        "product.server.ready",
    ),
    "two expectations": (
        {"product__server__ready": {**TCP, "expect": "x"}},
        "kind tcp takes one of `expect` and `match`",
        "product.server.ready",
    ),
    "what is no byte": (
        {"product__server__ready": {"kind": "tcp", "send": "5 \N{EURO SIGN}"}},
        "each character stands for one byte, and '€' is none: write its bytes as \\xNN",
        "product.server.ready.send",
    ),
    "a path that is none": (
        {"product__server__ready": {"kind": "http", "path": "health"}},
        f"{PATH}, got the string 'health'",
        "product.server.ready.path",
    ),
    "a request within a path": (
        {"product__server__ready": {"kind": "http", "path": "/ HTTP/1.1\r\nX: y"}},
        f"{PATH}, got the string '/ HTTP/1.1\\r\\nX: y'",
        "product.server.ready.path",
    ),
    "an expression": (
        {"product__server__ready": {**TCP, "match": "("}},
        "not a regular expression: missing ), unterminated subpattern at position 0",
        "product.server.ready.match",
    ),
    "a placeholder": (
        {"product__smoke": _check({"probe": {"kind": "command", "argv": ["bin/demo", "{prt}"]}})},
        "there is no placeholder '{prt}'",
        "product.smoke[0].steps[0].probe.argv[1]",
    ),
    "RESP for a server that does not speak it": (
        {"product__smoke": _check({"send": ["PING"], "expect": "PONG"})},
        "`send` asks a server that speaks RESP: its `ready` is tcp",
        "product.smoke[0].steps[0].send",
    ),
    "bulk writes for a server that does not speak RESP": (
        {
            "product__smoke": _check(
                {"start": "main"}, {"write": {"send": ["SET", "{n}"], "count": 1}}, instances={"main": {}}
            )
        },
        "`write` asks a server that speaks RESP: its `ready` is tcp",
        "product.smoke[0].steps[1].write",
    ),
    "the configuration file of a server that has none": (
        {"product__server__conf": None},
        "there is no placeholder '{conf}'",
        "product.server.command[2]",
    ),
    "settings without a configuration file": (
        {
            "product__server__conf": None,
            "product__server__command": ["bin/demo"],
            "product__smoke": _check({"start": "main"}, instances={"main": {"settings": {"a": "b"}}}),
        },
        "`settings` change a configuration file, and the server has none",
        "product.smoke[0].instances.main.settings",
    ),
    "RESP without a server": (
        {**NO_SERVER, "product__smoke": _check({"send": ["PING"], "expect": "PONG"})},
        "`send` asks a server that speaks RESP: there is none",
        "product.smoke[0].steps[0].send",
    ),
    "a probe of a server without one": (
        {**NO_SERVER, "product__smoke": _check({"probe": TCP}, {"probe": TOOL})},
        "a probe of the kind tcp asks a server, and the product has none",
        "product.smoke[0].steps[0].probe.kind",
    ),
    "instances without a server": (
        {**NO_SERVER, "product__smoke": _check({"start": "main"}, instances={"main": {}})},
        "`instances` are servers, and the product has none",
        "product.smoke[0].instances",
    ),
    "the port of no server": (
        {**NO_SERVER, "product__smoke": _check({"probe": {"kind": "command", "argv": ["bin/demo", "{port}"]}})},
        "there is no placeholder '{port}'",
        "product.smoke[0].steps[0].probe.argv[1]",
    ),
    "no server and no check": (
        {**NO_SERVER, "product__smoke": []},
        "a product without `server` has no smoke check that is required, so nothing shows that it runs",
        "product",
    ),
    "no server and advice only": (
        {**NO_SERVER, "product__smoke": _check({"probe": TOOL}, required=False)},
        "a product without `server` has no smoke check that is required, so nothing shows that it runs",
        "product",
    ),
}


@pytest.mark.parametrize(("changes", "message", "place"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_with_its_place(changes: dict[str, Any], message: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _spec(**changes)
    found, where, _ = refusal(caught)
    assert found == message
    assert where.split(", ")[1] == place


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"product__server__ready": TCP, "product__smoke": _check({"probe": TCP})},
            "a load is requests in RESP, and demo is asked by tcp",
        ),
        (NO_SERVER, "demo has no server that could be measured"),
    ],
)
def test_what_cannot_be_benched_is_refused_with_the_reason(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.sh").write_text("make\n")
    (tmp_path / "matrix.yaml").write_text(make_matrix(**changes), encoding="utf-8")
    assert main.main(["bench", "R620", "--matrix", str(tmp_path / "matrix.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
