"""Metrics of real instances, from metrics.sh over node-exporter to Prometheus, and what is asked there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import documented
import hosts
import pytest
from described import operate_of
from integration.trees import Tree
from standins.prometheus import NoPrometheus, programs

from pikaforge.config import load
from pikaforge.operate import metrics as rendering
from pikaforge.operate.dashboard import queries

if TYPE_CHECKING:
    from conftest import Engine

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("metrics"), pytest.mark.long(60)]
ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = "/var/lib/prometheus/node-exporter"
PROMETHEUS = """\
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [/opt/pika/monitoring/pika-alerts.yml]
scrape_configs:
  - job_name: node
    static_configs: [{targets: ["127.0.0.1:9100"]}]
"""
PORTS = (9221, 9321)
OPTIONS = "--memory 2G --set maxclients=1000 --password-file /root/password"


@pytest.fixture(scope="module")
def host(engine: Engine, sample_tree: Tree) -> Iterator[hosts.Host]:
    """A host with a master and its replica, Prometheus and node-exporter."""
    try:
        found = programs(Path(os.environ.get("PIKAFORGE_TEST_OUT") or ROOT / "out") / "debian" / "prometheus")
    except NoPrometheus as error:
        pytest.skip(str(error))
    with hosts.together(engine) as group:
        host = group.start("one")
        host.unpack(sample_tree.tar())
        host.put("/opt/prometheus", {path.name: (path.read_bytes(), 0o755) for path in found.folder.iterdir()})
        host.put("/etc/prometheus", {"prometheus.yml": PROMETHEUS.encode()})
        host.put("/root", {"password": (b"opensesame\n", 0o600)})
        for port in PORTS:
            host.sh(f"sh /opt/pika/utils/deploy.sh {port} /data {OPTIONS}")
            host.ok("sh", "/opt/pika/utils/instance.sh", str(port), "backup")
        assert host.ask(9321, "SLAVEOF", "127.0.0.1", "9221", password="opensesame") == "OK"
        hosts.wait(
            lambda: host.info(9321, "replication", password="opensesame").get("master_link_status") == "up",
            "the replica is connected",
            within=60,
        )
        yield host


def serve(host: hosts.Host) -> None:
    """Start node-exporter and Prometheus."""
    flags = f"--collector.textfile.directory={COLLECTOR}"
    host.ok("systemd-run", "--unit=exporter", "/opt/prometheus/prometheus-node-exporter", flags)
    argv = ("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/var/lib/tsdb")
    host.ok("systemd-run", "--unit=prometheus", "/opt/prometheus/prometheus", *argv)


def query(host: hosts.Host, text: str) -> list[dict[str, object]]:
    """Return what Prometheus says of a query; nothing while it does not answer."""
    argv = ("/opt/prometheus/promtool", "query", "instant", "-o", "json", "http://127.0.0.1:9090", text)
    status, output = host.run(*argv)
    assert "parse error" not in output, output
    found: list[dict[str, object]] = json.loads(output) if status == 0 else []
    return found


def test_metrics_reach_prometheus_and_all_queries_find_some(host: hosts.Host) -> None:
    status, output = host.run("sh", "/opt/pika/utils/metrics.sh", "--enable")
    assert (status, "no folder for node-exporter" in output) == (1, True), output
    host.ok("mkdir", "-p", COLLECTOR)
    host.ok("/opt/pika/utils/metrics.sh", "--enable")
    assert host.ok("/opt/pika/utils/metrics.sh", "--enable").startswith("nothing to do")
    assert host.ok("systemctl", "is-active", "pika-metrics.timer") == "active\n"
    host.ok("systemctl", "start", "pika-metrics.service")
    text = host.read(f"{COLLECTOR}/pika.prom")
    assert "sesame" not in text
    assert re.findall(r"^pika_up\{.*\} (\d)$", text, re.MULTILINE) == ["1", "1"]
    serve(host)
    hosts.wait(lambda: query(host, "pika_up == 1"), "Prometheus has the metrics", within=60)
    assert not query(host, "node_textfile_scrape_error != 0")
    product = load.load(ROOT / "matrix.yaml").product
    metrics = operate_of(product).metrics
    assert metrics is not None
    for line in documented.commands("docs/operating.md", "Alerts"):
        host.sh(f"PATH=/opt/prometheus:$PATH; {line}")
    dashboard = rendering.monitoring(product, metrics)["pika-dashboard.json"].decode()
    # A rate needs two samples.
    hosts.wait(lambda: query(host, "rate(pika_total_commands_processed[5m])"), "there are rates", within=60)
    asked = [re.sub(r"^label_values\((.*), \w+\)$", r"\1", each) for each in queries(dashboard)]
    asked = [re.sub(r'"\$\w+"', '".+"', each) for each in asked]
    # The sample does not say all that the server says; each of these is in the table by that name (tests/unit/operate).
    info = str(host.ask(9221, "INFO", "ALL", password="opensesame"))
    unsaid = {f"pika_{name}" for name, each in metrics.fields.items() if f"{each.value or name}:" not in info}
    asked = [each for each in asked if re.split(r"[{(]", each)[0] not in unsaid]
    # systemd may have been too busy to name the process; the timer asks again.
    hosts.wait(lambda: all(query(host, each) for each in asked), f"each of these finds something: {asked}", within=120)


def test_units_are_confined(host: hosts.Host) -> None:
    output = host.ok("systemd-analyze", "security", "--no-pager", "pika-metrics.service")
    level = re.search(r"Overall exposure level for .*: ([0-9.]+)", output)
    assert level and float(level[1]) <= 4.0, output


def test_an_instance_that_ends_is_told(host: hosts.Host) -> None:
    host.ok("systemctl", "kill", "-s", "STOP", "pika@9321")
    host.ok("systemctl", "start", "pika-metrics.service")
    assert 'reason="timeout"' in host.read(f"{COLLECTOR}/pika.prom")
    host.ok("systemctl", "kill", "-s", "CONT", "pika@9321")
    host.ok("systemctl", "stop", "pika@9321")
    host.ok("systemctl", "start", "pika-metrics.service")
    text = host.read(f"{COLLECTOR}/pika.prom")
    assert sorted(re.findall(r'^pika_up\{.*alias="(\w+)"\} (\d)$', text, re.MULTILINE)) == [
        *(("pika_9221", "1"), ("pika_9321", "0"))
    ]
    assert 'reason="connection"' in text
    hosts.wait(
        lambda: query(host, 'ALERTS{alertname="PikaDown", alias="pika_9321"}'), "the alert is pending", within=60
    )
    assert not query(host, 'ALERTS{alertname="PikaDown", alias="pika_9221"}')
