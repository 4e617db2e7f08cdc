"""Renders the overlays of infra/kuberay, and finds what is in them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "infra" / "kuberay"
OVERLAYS = tuple(sorted(folder.name for folder in (KUBERAY / "overlays").iterdir()))
COMPONENTS = tuple(sorted(folder.name for folder in (KUBERAY / "components").iterdir()))

Manifest = dict[str, Any]


@functools.cache
def _rendered(folder: Path) -> list[Manifest]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders the overlays, is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def overlay(name: str) -> list[Manifest]:
    """The manifests that `kubectl apply -k infra/kuberay/overlays/NAME` would apply."""
    return _rendered(KUBERAY / "overlays" / name)


def composed(*components: str) -> list[Manifest]:
    """The manifests of an overlay of the base and these components."""
    # Resolved: kustomize follows links, and relative paths are those of the real folders.
    folder = Path(tempfile.mkdtemp()).resolve()
    try:
        kustomization = {
            "resources": [os.path.relpath(KUBERAY / "base", folder)],
            "components": [os.path.relpath(KUBERAY / "components" / name, folder) for name in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _rendered(folder)
    finally:
        shutil.rmtree(folder)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def job_specs(manifests: list[Manifest]) -> list[Manifest]:
    """The specs of RayJobs, alone and within RayCronJobs."""
    jobs = [manifest["spec"] for manifest in of_kind(manifests, "RayJob")]
    return jobs + [manifest["spec"]["jobTemplate"] for manifest in of_kind(manifests, "RayCronJob")]


def cluster_specs(manifests: list[Manifest]) -> list[Manifest]:
    """The specs of Ray clusters, alone and within jobs."""
    clusters = [manifest["spec"] for manifest in of_kind(manifests, "RayCluster")]
    return clusters + [job["rayClusterSpec"] for job in job_specs(manifests)]


def pod_templates(manifests: list[Manifest]) -> Iterator[Manifest]:
    """The templates of all pods: submitters, heads and workers."""
    for job in job_specs(manifests):
        if "submitterPodTemplate" in job:
            yield job["submitterPodTemplate"]
    for cluster in cluster_specs(manifests):
        yield cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["template"]


def containers(template: Manifest) -> list[Manifest]:
    """All containers of a pod."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]
