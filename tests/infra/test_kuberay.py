"""The manifests of infra/kuberay, as kubectl renders them: what Kubernetes, KubeRay and we demand of them."""

from __future__ import annotations

import functools
import gzip
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.infra.manifests import (
    COMPONENTS,
    OVERLAYS,
    ROOT,
    Manifest,
    cluster_specs,
    composed,
    containers,
    job_specs,
    of_kind,
    overlay,
    pod_templates,
)

KUBERNETES = "1.33"
_CRDS = ROOT.parent / "shared" / "reference" / "kuberay"
_EXTRA = (
    "aws-role",
    "gcp-identity",
    "gcs-fault-tolerance",
    "kueue",
    "pod-monitor",
    "prometheus-rule",
    "sidecar-submitter",
    "spot",
)
_CUSTOM = ("ray.io/", "monitoring.coreos.com/")

# Every overlay, and every component that can be added to a run on GPUs, by itself.
_ALL = [("overlay", name) for name in OVERLAYS] + [("component", name) for name in _EXTRA]


def rendered(what: str, name: str) -> list[Manifest]:
    return overlay(name) if what == "overlay" else composed("gpu-workers", name)


everything = pytest.mark.parametrize(("what", "name"), _ALL)


def test_every_component_is_rendered_by_some_test() -> None:
    in_overlays = {
        Path(path).name
        for name in OVERLAYS
        for path in yaml.safe_load(
            (ROOT / "infra/kuberay/overlays" / name / "kustomization.yaml").read_text()
        )["components"]
    }
    assert set(COMPONENTS) == in_overlays | set(_EXTRA)


@everything
def test_kubernetes_own_kinds_are_valid(what: str, name: str) -> None:
    """Unknown fields included, which the API server would drop without a word."""
    manifests = rendered(what, name)
    own = [m for m in manifests if not m["apiVersion"].startswith(_CUSTOM)]
    assert {m["kind"] for m in own} >= {"Namespace", "ServiceAccount", "NetworkPolicy"}
    for manifest in own:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    templates = list(pod_templates(manifests))
    assert len(templates) >= 2
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@everything
def test_rays_kinds_are_those_of_its_operator(what: str, name: str) -> None:
    custom = [m for m in rendered(what, name) if m["apiVersion"] == "ray.io/v1"]
    assert custom
    for manifest in custom:
        _validator(manifest["kind"]).validate(manifest)


def test_the_operators_schemas_refuse_what_they_do_not_know() -> None:
    validator = _validator("RayJob")
    job = of_kind(overlay("gpu"), "RayJob")[0]
    wrong = [
        job | {"spec": job["spec"] | {"backOffLimit": 3}},
        job | {"spec": job["spec"] | {"backoffLimit": "3"}},
        job | {"spec": job["spec"] | {"deletionStrategy": {"deletionRules": [{"policy": "DeleteAll"}]}}},
    ]
    assert not any(validator.is_valid(each) for each in wrong)


def _validator(kind: str) -> jsonschema.Draft202012Validator:
    """Of one of Ray's kinds, made strict."""
    if not _CRDS.is_dir():
        pytest.skip("KubeRay's resource definitions are not beside the checkout")
    return _validators()[kind]


@functools.cache
def _validators() -> dict[str, jsonschema.Draft202012Validator]:
    validators = {}
    for path in sorted(_CRDS.glob("*.yaml.gz")):
        definition = yaml.load(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)["spec"]
        version = next(v for v in definition["versions"] if v["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        strict = _strict(schema | {"required": ["spec"]}, outermost=True)
        validators[definition["names"]["kind"]] = jsonschema.Draft202012Validator(strict)
    return validators


def _strict(schema: Any, *, outermost: bool = False) -> Any:
    """A structural schema as JSON schema that refuses unknown fields, where Kubernetes only drops them."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if "properties" in strict and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if strict.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    if outermost:
        strict["properties"]["metadata"] = {"type": "object"}
    return strict


@everything
def test_what_the_operator_refuses_beyond_its_schema(what: str, name: str) -> None:
    """Rules of KubeRay's own validation, and of the expressions in its resource definitions."""
    manifests = rendered(what, name)
    for job in job_specs(manifests):
        cluster, rules = job["rayClusterSpec"], job.get("deletionStrategy", {}).get("deletionRules", [])
        pairs = [(tuple(sorted(r["condition"].items() - {("ttlSeconds", r["condition"]["ttlSeconds"])})),
                  r["policy"]) for r in rules]  # fmt: skip
        assert len(set(pairs)) == len(pairs), "one rule for each end and policy"
        assert all(len({"jobStatus", "jobDeploymentStatus"} & r["condition"].keys()) == 1 for r in rules)
        if cluster["enableInTreeAutoscaling"]:
            assert "DeleteWorkers" not in {rule["policy"] for rule in rules}
        assert not (rules and job.get("shutdownAfterJobFinishes")), (
            "the two ways of deletion exclude each other"
        )
        if job.get("suspend"):
            assert job["shutdownAfterJobFinishes"] and not cluster["enableInTreeAutoscaling"]
        if job["submissionMode"] == "SidecarMode":
            assert not {"submitterPodTemplate", "submitterConfig"} & job.keys()
            assert cluster["headGroupSpec"]["template"]["spec"]["restartPolicy"] == "Never"
    for cluster in cluster_specs(manifests):
        assert cluster["authOptions"] == {"mode": "token"}
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for group in groups:
            assert group["template"]["spec"].get("restartPolicy", "Never") == "Never", "autoscaler v2"
        names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
        assert names and len(set(names)) == len(names)


@everything
def test_pods_run_without_root_and_under_one_identity(what: str, name: str) -> None:
    """What the namespace's pod security standard `restricted` demands."""
    manifests = rendered(what, name)
    for template in pod_templates(manifests):
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] and security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert template["spec"]["serviceAccountName"] == "ncbatch"
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            }, container["name"]  # fmt: skip
            assert {"requests", "limits"} <= container["resources"].keys()
            assert not any("KEY" in variable["name"] for variable in container.get("env", ())), "no secrets"
    (namespace,) = of_kind(manifests, "Namespace")
    injected = any(job["submissionMode"] == "SidecarMode" for job in job_specs(manifests))
    level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == ("baseline" if injected else "restricted")


@everything
def test_policies_and_budgets_select_the_pods_that_they_are_for(what: str, name: str) -> None:
    manifests = rendered(what, name)
    templates = list(pod_templates(manifests))
    (policy,) = of_kind(manifests, "NetworkPolicy")
    selected = policy["spec"]["podSelector"]["matchLabels"]
    for template in templates:
        assert selected.items() <= template["metadata"]["labels"].items(), "a pod that anybody may talk to"
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        labels = budget["spec"]["selector"]["matchLabels"].items()
        heads = [t for t in templates if labels <= t["metadata"]["labels"].items()]
        assert [head["spec"]["containers"][0]["name"] for head in heads] == ["ray-head"]


@everything
def test_everything_is_in_one_namespace_and_of_one_image(what: str, name: str) -> None:
    manifests = rendered(what, name)
    outside = [m for m in manifests if m["metadata"].get("namespace") != "ncbatch"]
    assert [m["kind"] for m in outside] == ["Namespace"]
    images = {c["image"] for template in pod_templates(manifests) for c in containers(template)}
    gpu = any("nvidia.com/gpu" in str(template) for template in pod_templates(manifests))
    assert images == {f"ncbatch:{_version()}-{'gpu' if gpu else 'cpu'}"}


def _version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_head_does_no_encoding_and_workers_come_from_nothing() -> None:
    for name in OVERLAYS:
        for cluster in cluster_specs(overlay(name)):
            assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
            assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
            assert all(group["minReplicas"] == 0 for group in cluster["workerGroupSpecs"])


def test_gpu_workers_ask_for_the_gpu_where_ray_looks_for_it() -> None:
    """KubeRay reads the limits of a pod's first container; an image's GPU workers want no CPU-only node."""
    for cluster in cluster_specs(overlay("spot")):
        (group,) = cluster["workerGroupSpecs"]
        pod = group["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["initContainers"][0]["command"] == ["ncbatch", "selftest", "--device", "cuda"]
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        keys = {e["key"] for term in terms["nodeSelectorTerms"] for e in term["matchExpressions"]}
        assert {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type"} <= keys


def test_the_monitor_scrapes_the_port_that_pods_have() -> None:
    manifests = overlay("spot")
    (monitor,) = of_kind(manifests, "PodMonitor")
    wanted = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    ray_pods = [
        t for t in pod_templates(manifests) if t["spec"]["containers"][0]["name"] != "ray-job-submitter"
    ]
    assert len(ray_pods) == 2
    for template in ray_pods:
        assert wanted <= {port["name"] for port in template["spec"]["containers"][0]["ports"]}
