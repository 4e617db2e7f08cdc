"""What contributors and CI rely on beside the code."""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.command_line import ROOT

TARGET = re.compile(r"^([a-z]+):.*## ", re.MULTILINE)


def targets() -> set[str]:
    return set(TARGET.findall((ROOT / "Makefile").read_text()))


def test_ci_and_the_hooks_call_targets_that_there_are() -> None:
    loop = re.search(r"for target in (.*); do", (ROOT / ".ci" / "run").read_text())
    assert loop is not None
    hooks = re.findall(r"entry: make (\w+)", (ROOT / ".pre-commit-config.yaml").read_text())
    called = {*loop[1].split(), *hooks}
    assert called >= {"lint", "types", "doctest", "docs", "test", "slow"}
    assert called <= targets()


def test_the_guide_for_contributors_knows_every_room_and_every_target() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {path.name for path in (ROOT / "ncbatch").iterdir() if (path / "__init__.py").exists()}
    table = guide[guide.index("## Where things go") : guide.index("### How to add a method")]
    assert rooms <= set(re.findall(r"`(\w+)`", table))
    assert {f"make {target}" for target in targets() - {"help"}} <= set(re.findall(r"`(make \w+)`", guide))


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "README.md", "ncbatch/py.typed"])
def test_what_a_public_project_has(name: str) -> None:
    assert (ROOT / name).is_file()


def test_the_package_says_under_which_licence_it_is() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert 'license = "Apache-2.0"' in project and 'license-files = ["LICENSE"]' in project
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
