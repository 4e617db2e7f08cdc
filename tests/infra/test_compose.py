"""The containers of infra/compose: what can be said of them without starting them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import ROOT
from tests.infra.test_docker import STAGES

FOLDER = ROOT / "infra" / "compose"


def _services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return services


def _versions() -> dict[str, str]:
    lines = [line for line in (FOLDER / ".env").read_text().splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=") for line in lines)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs Debian's package docker-compose")
def test_compose_takes_the_file_with_a_token_and_not_without() -> None:
    command = ["docker-compose", "-f", str(FOLDER / "compose.yaml"), "config"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    done = subprocess.run(command, env=env | {"RAY_AUTH_TOKEN": "x"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = {name: service["image"] for name, service in yaml.safe_load(done.stdout)["services"].items()}
    assert set(images) == set(_services()) and not any(image.endswith(":") for image in images.values())
    without = subprocess.run(command, env=env, capture_output=True, text=True)
    assert without.returncode and "RAY_AUTH_TOKEN" in without.stderr


def test_images_are_pinned_and_ours_is_the_packages_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None and _versions()["NCBATCH_VERSION"] == version[1]
    for name, service in _services().items():
        variable = re.search(r":\$\{(\w+)\}", service["image"])
        assert variable is not None and re.search(r"\d+\.\d+\.\d+", _versions()[variable[1]]), name
        if service["image"].startswith("ncbatch:"):
            assert service["build"]["target"] in STAGES and service["image"].endswith("-cpu")


def test_ports_are_open_to_this_machine_only_and_ray_asks_for_a_token() -> None:
    for name, service in _services().items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        if service["image"].startswith("ncbatch:"):
            assert service["environment"]["RAY_AUTH_MODE"] == "token"
            assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_what_is_mounted_is_there_and_what_prometheus_reads_is_shared() -> None:
    services = _services()
    volumes = [v.split(":") for service in services.values() for v in service.get("volumes", ())]
    files = [source for source, *_ in volumes if source.startswith(".")]
    assert len(files) == 3
    for source in files:
        assert (FOLDER / source).resolve().exists(), source
    (discovery,) = yaml.safe_load((ROOT / "infra/monitoring/prometheus.yml").read_text())["scrape_configs"]
    folder = Path(discovery["file_sd_configs"][0]["files"][0]).parent
    shared = {target for source, target, *_ in volumes if source == "ray"}
    assert shared == {"/tmp/ray", f"/etc/prometheus/{folder}"}
    for name in ("head", "worker"):
        assert "--metrics-export-port=8080" in services[name]["command"]
