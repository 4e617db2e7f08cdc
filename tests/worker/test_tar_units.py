"""Units whose bitstreams become one tar: committed, adopted, read back and tidied up as files are."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncbatch import layout
from ncbatch.cli.encode_command import encode_command
from ncbatch.codec import codecs
from ncbatch.codec.decode import decode
from ncbatch.codec.encode import find_latents
from ncbatch.codec.methods import Classical, Jpeg
from ncbatch.decoding.run_reader import RunReader
from ncbatch.errors import SpecMismatchError
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.schema import Row
from ncbatch.models.loading import keep_model
from ncbatch.plan.garbage import SUPERSEDED, find_garbage
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.plan.units import Unit
from ncbatch.store import LocalStore
from ncbatch.worker.beats import GiveBack
from ncbatch.worker.unit import open_attempt, probe_image, run_unit
from tests.workbench import ATTEMPTS, CHECKPOINT, MODEL, Workbench, make_image, make_variant, sga

PICTURES = {f"2024/{name}": make_image(seed=n) for n, name in enumerate(("a.png", "b.v2.png", "c.png"))}
NAMES = ["2024/a.ncb", "2024/b%2Ev2.ncb", "2024/c.ncb"]


def planned(bench: Workbench, *, steps: int = 0) -> tuple[RunSpec, Unit]:
    bench.add({key: pixels for key, pixels in PICTURES.items() if bench.corpus.head(key) is None})
    keep_model(bench.output, CHECKPOINT)
    spec = bench.spec(make_variant(sga(steps)) if steps else make_variant(), output_format="tar")
    return spec, bench.unit(spec)


def check(bench: Workbench, rows: dict[str, Row]) -> None:
    """Rows describe bytes that are in the tar, whatever reads it, and decode to their numbers."""
    keys = {str(row.bitstream_key) for row in rows.values() if row.status == "ok"}
    members = {}
    for key in keys:
        with tarfile.open(fileobj=io.BytesIO(bench.output.get(key))) as tar:
            members[key] = {info.offset_data: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    for key, row in rows.items():
        if row.status == "ok":
            assert row.offset is not None and row.length is not None
            data = bench.output.get_range(str(row.bitstream_key), row.offset, row.length)
            assert data == members[str(row.bitstream_key)][row.offset]
            assert row.sha256 == hashlib.sha256(data).hexdigest()
            error = np.square(decode(MODEL, data).astype(float) - PICTURES[key]).mean()
            assert row.mse == pytest.approx(error)


def test_a_unit_becomes_one_tar(bench: Workbench) -> None:
    spec, unit = planned(bench)
    run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    rows = bench.rows()
    check(bench, rows)
    (key,) = bench.keys("tars/")
    tar = bench.output.get(key)
    assert key == layout.tar_key("v", unit.id, hashlib.sha256(tar).hexdigest())
    assert bench.keys("bitstreams/") == bench.keys("wip/") == []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == NAMES
    assert [found.problem for found in RunReader(bench.output).verify()] == [None] * 3
    image = RunReader(bench.output).image("2024/c.png", "v")
    assert np.square(image.astype(float) - PICTURES["2024/c.png"]).mean() == pytest.approx(
        rows["2024/c.png"].mse
    )


def test_webdataset_reads_the_tar_as_it_is(local: Workbench, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    spec, unit = planned(local)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    (key,) = local.keys("tars/")
    path = tmp_path / "bitstreams.tar"
    path.write_bytes(local.output.get(key))
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] + ".ncb" for sample in samples] == NAMES
    assert [hashlib.sha256(sample["ncb"]).hexdigest() for sample in samples] == [
        row.sha256 for _, row in sorted(local.rows().items())
    ]


def test_failed_images_are_not_in_the_tar(local: Workbench) -> None:
    local.add({"2024/a.png": b"no image"})
    spec, unit = planned(local)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {"2024/c.png": Failure("process_killed", "see")})
    rows = local.rows()
    assert [rows[key].error_class for key in PICTURES] == ["unreadable", None, "process_killed"]
    check(local, rows)


def test_a_unit_of_failures_has_no_tar(local: Workbench) -> None:
    spec, unit = planned(local)
    failures = {key: Failure("process_killed", "see its log") for key in PICTURES}
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], failures)
    assert len(local.commit(unit)) == 3 and local.keys("tars/") == []


class Refined:
    """Counts the images that are refined."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(codecs, "find_latents", self._find)

    def _find(self, model: Any, images: Any, recipe: Any, **options: Any) -> Any:
        self.count += len(images) * recipe.refines
        return find_latents(model, images, recipe, **options)


def test_what_was_kept_now_and_then_is_adopted(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed leaves what it kept in the work in progress."""
    spec, unit = planned(bench, steps=2)
    refined = Refined(monkeypatch)
    dying = open_attempt(bench.workspace(spec, wip_seconds=0.0), unit, ATTEMPTS[0])
    assert len(list(dying.rows(unit.images[:2], {}))) == 2
    assert bench.keys("wip/") and bench.keys("tars/") == []
    run_unit(bench.workspace(spec), unit, ATTEMPTS[1], {})
    rows = bench.rows()
    assert refined.count == 3, "only the third was left to encode"
    assert [rows[key].adopted for key in PICTURES] == [True, True, False]
    check(bench, rows)
    assert bench.keys("wip/") == [], "and nothing is left of it"


def test_a_tar_without_a_commit_is_adopted(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died between its last two puts."""
    spec, unit = planned(bench, steps=2)
    refined = Refined(monkeypatch)
    dying = open_attempt(bench.workspace(spec), unit, ATTEMPTS[0])
    dying.complete(list(dying.rows(unit.images, {})))
    standing = bench.keys("tars/")
    assert (len(standing), refined.count) == (1, 3)
    assert find_garbage(bench.output, 0.0) == [], "it is still to be adopted"
    run_unit(bench.workspace(spec), unit, ATTEMPTS[1], {})
    rows = bench.rows()
    assert refined.count == 3 and all(row.adopted for row in rows.values())
    assert bench.keys("tars/") == standing, "the same files make the same tar"
    check(bench, rows)


def test_damaged_leftovers_are_neither_adopted_nor_in_the_way(local: Workbench) -> None:
    spec, unit = planned(local)
    local.output.put(layout.tar_key("v", unit.id, "0" * 64), b"no tar" * 300)
    local.output.put(layout.kept_tar_key(unit.id, "x-1"), b"")
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    rows = local.rows()
    assert not any(row.adopted for row in rows.values())
    check(local, rows)


def test_a_worker_that_leaves_keeps_what_is_done(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told to go when it begins with the second image."""
    spec, unit = planned(local, steps=2)
    workspace = local.workspace(spec)

    def told(model: Any, images: Any, recipe: Any, **options: Any) -> Any:
        if np.array_equal(images[0], PICTURES["2024/b.v2.png"]):
            workspace.leaving.set()
        return find_latents(model, images, recipe, **options)

    monkeypatch.setattr(codecs, "find_latents", told)
    with pytest.raises(GiveBack):
        run_unit(workspace, unit, ATTEMPTS[0], {})
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    rows = local.rows()
    assert [rows[key].adopted for key in PICTURES] == [True, False, False]
    check(local, rows)
    assert local.keys("wip/") == []


def test_a_probe_is_adopted(local: Workbench) -> None:
    spec, unit = planned(local)
    probe_image(local.workspace(spec), unit, ATTEMPTS[0], "2024/b.v2.png")
    assert local.keys("tars/") == local.keys("units/") == []
    run_unit(local.workspace(spec), unit, ATTEMPTS[1], {})
    assert [row.adopted for _, row in sorted(local.rows().items())] == [False, True, False]


def test_nothing_is_asked_of_the_store_for_single_images(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, unit = planned(local)
    asked: list[str] = []
    for name in ("get", "get_range", "head", "put", "put_if_absent", "list", "delete"):
        real = getattr(LocalStore, name)

        def told(self: LocalStore, *args: Any, _real: Any = real, **more: Any) -> Any:
            if self == local.output:
                asked.append(str(args[0]))
            return _real(self, *args, **more)

        monkeypatch.setattr(LocalStore, name, told)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    assert not [key for key in asked if any(name in key for name in PICTURES)]
    assert sum(key.startswith("tars/") for key in asked) <= 3, "a listing, and a put with what it looks at"


def test_tars_of_rows_that_newer_ones_replace_are_found(local: Workbench) -> None:
    spec, unit = planned(local)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    (old,) = local.keys("tars/")
    local.add({key: make_image(seed=n + 9) for n, key in enumerate(PICTURES)})
    later = local.open(spec)
    (pending,) = later.pending
    run_unit(local.workspace(spec), pending, ATTEMPTS[1], {})
    assert [(found.kind, found.key) for found in find_garbage(local.output, 0.0)] == [(SUPERSEDED, old)]


def test_damage_to_one_member_is_told_of_that_image_only(local: Workbench) -> None:
    spec, unit = planned(local)
    run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    row = local.rows()["2024/c.png"]
    data = bytearray(local.output.get(str(row.bitstream_key)))
    data[(row.offset or 0) + 9] ^= 1
    local.output.put(str(row.bitstream_key), bytes(data))
    found = {finding.image_key: finding for finding in RunReader(local.output).verify()}
    assert [key for key, finding in found.items() if finding.problem] == ["2024/c.png"]
    assert "hash differs" in str(found["2024/c.png"].problem) and found["2024/c.png"].damaged is not None
    local.output.delete(str(row.bitstream_key))
    problems = [finding.problem for finding in RunReader(local.output).verify()]
    assert len(problems) == 3 and all("is missing" in str(problem) for problem in problems)


def test_files_of_a_classical_codec_keep_their_suffix(local: Workbench) -> None:
    local.add(PICTURES)
    recipe: Classical = Jpeg(quality=80)
    spec = local.spec(Variant(name="jpeg", recipe=recipe), output_format="tar")
    rows = local.encode(spec)
    (key,) = {row.bitstream_key for row in rows.values()}
    with tarfile.open(fileobj=io.BytesIO(local.output.get(str(key)))) as tar:
        assert tar.getnames() == [name.replace(".ncb", ".jpg") for name in NAMES]
        file = tar.extractfile(NAMES[0].replace(".ncb", ".jpg"))
        assert file is not None and Image.open(file).size == (64, 64)


def test_the_form_of_outputs_belongs_to_a_run(local: Workbench) -> None:
    spec, _ = planned(local)
    with pytest.raises(SpecMismatchError, match="output_format: tar there, files asked for"):
        local.open(local.spec())
    assert local.spec(output_format="files").digest == local.spec().digest != spec.digest
    assert "--output-format=tar" in encode_command(spec, local.output.uri)
