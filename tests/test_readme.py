"""What the README and the docs tell people to type exists: commands, flags, files, links and pictures.

Flags are looked up in what `--help` prints, so it does not matter how the command line is built.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import figures
from ncbatch.models import catalog
from tools import reference_pages

ROOT = Path(__file__).resolve().parents[1]
GENERATED = set(reference_pages.PAGES)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_OTHERS = {
    "--index-url", "--torch-backend", "--shm-size", "--head", "--address", "--working-dir", "--keep-memory",
    "--size", "--longest", "--images", "--seconds",
}  # fmt: skip
"""Flags of pip, uv, Docker, Ray and the benchmarks that stand alone in a text."""

_FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^ {4}(?=ncbatch )(.*(?:\\\n.*)*)$", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
_PLACEHOLDER = "COMMAND"


def typed(text: str) -> Iterator[list[str]]:
    """The words of every `ncbatch ...` command in a page's code."""
    blocks = _FENCE.findall(text)
    prose = _FENCE.sub("", text)
    spans = [" ".join(span.split()) for span in _SPAN.findall(prose)]
    lines = "\n".join([*blocks, *_INDENTED.findall(prose), *spans]).replace("\\\n", " ").splitlines()
    for line in lines:
        for command in re.split(r" && | \| ", line.strip().removeprefix("$ ")):
            if re.match(r"(\S*/)?ncbatch\s", command):
                yield shlex.split(command, comments=True)[1:]


def flags_of(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_every_flag_of_a_page_exists(page: Path) -> None:
    known = reference_pages.helps()
    every = frozenset().union(*map(reference_pages.flags, known))
    text = page.read_text()
    for words in typed(text):
        given = [word for word in words if not word.startswith("-")]
        command = given[0] if given and given[0] != _PLACEHOLDER and not words[0].startswith("-") else ""
        assert command in known, words
        assert flags_of(words) <= reference_pages.flags(command), words
    for span in _SPAN.findall(_FENCE.sub("", text)):
        words = span.split()
        if len(words) > 1 and words[0] in known and words[1].startswith("--"):
            assert flags_of(words) <= reference_pages.flags(words[0]), span
        elif span.startswith("--"):
            assert flags_of(words) <= every | OF_OTHERS, span


def test_the_commands_are_found_in_the_help() -> None:
    found = set(reference_pages.helps())
    assert {"encode", "decode", "train", "info", "job"} <= found
    assert not {"print", "help", "examples", "exit", "messages"} & found
    assert "--retry-failed" in reference_pages.flags("encode")
    assert "--retry-failed" not in reference_pages.flags("decode")
    assert len(list(typed((ROOT / "README.md").read_text()))) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for match in _LINK.findall(_FENCE.sub("", page.read_text())):
        target = (match[0] or match[1]).partition("#")[0]
        if not target or target.startswith("http"):
            continue
        place = (page.parent / target).resolve()
        assert place.exists() or str(place.relative_to(ROOT / "docs")) in GENERATED, target


@pytest.mark.parametrize("page", reference_pages.PAGES)
def test_a_reference_page_has_what_the_code_has(page: str) -> None:
    text = reference_pages.PAGES[page]()
    for word in {
        "reference/commands.md": ("## ncbatch encode", "--lmbda", "## ncbatch info"),
        "reference/columns.md": ("| `image_key` | string | never |", "| `rd_loss` | double | may be null |"),
        "reference/outcomes.md": ("| 143 |", "| `truncated` | the file |"),
        "reference/metrics.md": ("| `ray_ncbatch_images_total` | counter | `variant`, `status`",),
        "reference/python.md": (
            "## ncbatch.load_model",
            "### Run.table",
            "lmbda: float | None",
            "### RunDataset.set_epoch",
            "## ncbatch.ray_data.read_run",
            "num_gpus: float | None",
        ),
    }[page]:
        assert word in text


def test_the_figures_are_drawn_from_what_was_measured(tmp_path: Path) -> None:
    drawn = figures.write(tmp_path)
    committed = {path.name for path in figures.FIGURES.glob("rd-curves*.svg")}
    assert {path.name for path in drawn} == committed
    for path in [*drawn, *figures.FIGURES.glob("*.svg")]:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    facts = catalog.builtin_facts()
    assert len(figures.ladder()) == sum(name.startswith("base-") for name in facts)
    assert all(len(points) >= 5 for points in figures.published().values())
    refined = figures.methods(figures.METHODS.read_text())
    assert {label: len(points) for label, points in refined.items()} == {"amortized": 3, "MAP": 3, "SGA": 3}
    for (bpp, _), point in zip(refined["amortized"], refined["SGA"], strict=True):
        assert abs(point[0] - bpp) < 0.05
