"""The images of infra/docker: what can be said of them without building them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.manifests import OVERLAYS, ROOT, cluster_specs, overlay

FOLDER = ROOT / "infra" / "docker"


@dataclass
class Stage:
    """One stage of a Dockerfile: its base image, and its instructions without continuation lines."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.steps if word == instruction]


def _stages() -> list[Stage]:
    text = "\n".join(
        line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    stages: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = rest.split(" AS ")
            stages.append(Stage(base, name))
        elif word and stages:
            stages[-1].steps.append((word, rest.strip()))
    return stages


STAGES = {stage.name: stage for stage in _stages()}
_IMAGES = pytest.mark.parametrize("name", ["cpu", "gpu", "slim"])


def _locked() -> dict[str, str]:
    lines = (FOLDER / "requirements.lock").read_text().split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_ray_has_one_version() -> None:
    argument = re.search(r"^ARG RAY_VERSION=(.+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert argument is not None
    wanted = re.search(r"^ray\[default\]==(.+)$", (FOLDER / "requirements.in").read_text(), re.MULTILINE)
    assert wanted is not None
    versions = {cluster["rayVersion"] for name in OVERLAYS for cluster in cluster_specs(overlay(name))}
    assert versions | {argument[1], wanted[1]} == {_locked()["ray"]}


def test_what_is_locked_is_what_the_package_asks_for() -> None:
    locked = _locked()
    asked = [Requirement(text) for text in metadata.requires("ncbatch") or ()]
    needed = [requirement for requirement in asked if requirement.marker is None]  # the others are of extras
    assert len(needed) > 10
    for requirement in needed:
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, (
            f"`make lock`: {requirement}"
        )


@_IMAGES
def test_images_run_without_root_and_test_themselves(name: str) -> None:
    stage = STAGES[name]
    assert stage.all("USER")[-1] == "1000"
    after = [rest for word, rest in stage.steps[stage.steps.index(("USER", "1000")) :] if word == "RUN"]
    assert after == ["ncbatch selftest --device cpu"], "the built package is tried, as the user that runs it"
    assert len(stage.all("HEALTHCHECK")) == 1
    assert "--constraint /tmp/requirements.lock" in stage.all("RUN")[0]


@_IMAGES
def test_images_have_pinned_bases_and_no_secrets(name: str) -> None:
    stage = STAGES[name]
    bases = {"cpu": "rayproject/ray:${RAY_VERSION}-py311", "gpu": "rayproject/ray:${RAY_VERSION}-py311-gpu"}
    assert stage.base == bases.get(name, "python:3.11-slim")
    said = " ".join(f"{word} {rest}" for word, rest in stage.steps if word in ("ARG", "ENV", "ADD"))
    assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD|http", said)


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    allowed = [
        line.removeprefix("!")
        for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = {
        source
        for stage in STAGES.values()
        for rest in stage.all("COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == set(allowed)
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_without_a_target_is_the_one_for_clusters() -> None:
    assert list(STAGES)[-1] == "cpu"
