"""Dashboard, alerts and configuration of Prometheus: what can be said of them without a cluster."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ncbatch.telemetry.instruments import INSTRUMENTS
from ncbatch.telemetry.recorder import Histogram
from tests.infra.manifests import composed, of_kind
from tests.infra.monitoring import FOLDER, alerts, dashboard, dashboard_queries, metrics_in

KNOWN = {
    f"ray_{instrument.name}{suffix}"
    for instrument in INSTRUMENTS
    for suffix in (("_bucket", "_sum", "_count") if isinstance(instrument, Histogram) else ("",))
}
_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")


def _check(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@_promtool
def test_prometheus_takes_its_configuration_and_the_alerts(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "prom_metrics_service_discovery.json").write_text('[{"targets": ["127.0.0.1:1"]}]')
    _check("check", "config", tmp_path / "prometheus.yml")


@_promtool
def test_alerts_fire_when_they_should_and_not_before() -> None:
    _check("test", "rules", FOLDER / "alerts_test.yml")
    tested = {
        case["alertname"]
        for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tested == set(alerts())


@_promtool
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": query} for n, (_, query) in enumerate(dashboard_queries())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _check("check", "rules", tmp_path / "rules.yml")


def test_what_is_asked_for_is_what_is_told() -> None:
    asked = {name for _, query in dashboard_queries() for name in metrics_in(query)}
    asked |= {name for rule in alerts().values() for name in metrics_in(rule["expr"])}
    assert asked <= KNOWN
    shown = {name.removesuffix("_bucket") for name in asked}
    assert shown >= {f"ray_{instrument.name}" for instrument in INSTRUMENTS}, "metrics that nobody looks at"


def test_the_dashboard_can_be_provisioned() -> None:
    found = dashboard()
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert found["uid"] == "ncbatch" and "id" not in found
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["description"].endswith(".")
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
    taken = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(taken)) == len(taken), "panels lie on each other"
    for file in (FOLDER / "grafana" / "provisioning").glob("*/*.yaml"):
        assert yaml.safe_load(file.read_text())["apiVersion"] == 1


def test_kubernetes_gets_the_same_alerts() -> None:
    (rule,) = of_kind(composed("gpu-workers", "prometheus-rule"), "PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == yaml.safe_load((FOLDER / "alerts.yml").read_text())
