"""What infra/monitoring asks Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.infra.manifests import ROOT

FOLDER = ROOT / "infra" / "monitoring"
_METRIC = re.compile(r"\bray_ncbatch_[a-z_]+")


def dashboard() -> dict[str, Any]:
    """The dashboard for Grafana."""
    read: dict[str, Any] = json.loads((FOLDER / "grafana" / "dashboards" / "ncbatch.json").read_text())
    return read


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """The title of a panel and a query of it, as Grafana would send it for all runs."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$run", ".+")
            assert "$" not in expression, "a variable of Grafana's that the tests do not know"
            yield panel["title"], expression


def alerts() -> dict[str, dict[str, Any]]:
    """The alert rules by their names."""
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def metrics_in(text: str) -> set[str]:
    """The metrics of ours that an expression names."""
    return set(_METRIC.findall(text))
