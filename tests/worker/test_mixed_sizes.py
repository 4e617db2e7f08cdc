"""Images of several sizes in one batch, which shares tensors on a GPU, and here on the CPU."""

from __future__ import annotations

import pytest

from ncbatch.codec.encode import encode
from ncbatch.codec.refinement import batch as refinement_module
from ncbatch.codec.refinement.canvas import canvas
from ncbatch.codec.refinement.loop import JointRefinement
from ncbatch.plan.units import PlannedImage
from ncbatch.worker import workspace as workspace_module
from ncbatch.worker.batches import Batches
from ncbatch.worker.batching import FixedBatches
from ncbatch.worker.fetch import FetchedImage
from ncbatch.worker.unit import run_unit
from ncbatch.worker.waiting import by_shape
from tests.workbench import ATTEMPTS, MODEL, Workbench, make_image, make_variant, sga
from tests.worker.test_refill import CPU, OneByOne, _job
from tests.worker.test_work_in_progress import DeadlyStore, Killed

SIZES = ((64, 64), (100, 70), (64, 190), (130, 64), (60, 128))
PICTURES = {f"{n}.png": make_image(*size, seed=n) for n, size in enumerate(SIZES)}
RECIPE = sga(40, check_every=10)


def _batches(size: int, jobs: list[FetchedImage]) -> list[list[str]]:
    """Those that go on at each look, of a coder that is done with one image each time."""
    coder = OneByOne()
    batches: Batches[str] = Batches(FixedBatches(size), CPU, coder, canvas=canvas)
    assert len(list(batches.done(iter(jobs)))) == len(jobs)
    return coder.batches


def test_images_of_one_canvas_go_together_and_others_by_themselves() -> None:
    jobs = [_job("a"), _job("b", 128), _job("L", 200), _job("c", 192), _job("M", 1000)]
    assert _batches(3, jobs) == [["a", "b", "c"], ["b", "c"], ["c"], ["L"], ["M"]]


def test_enough_images_of_one_shape_take_no_larger_tensors() -> None:
    """Others of the canvas wait for them, up to twice as many as go together."""
    jobs = [_job("a", 64), _job("b", 128), _job("c", 64), _job("d", 192), _job("e", 64), _job("f", 192)]
    assert [batch for batch in _batches(3, jobs) if len(batch) == 3] == [["a", "c", "e"], ["b", "d", "f"]]
    others = [_job("a", 64), _job("b", 128), _job("c", 192), _job("d", 128), _job("e", 64)]
    assert [batch for batch in _batches(2, others) if len(batch) == 2] == [["b", "d"], ["d", "a"], ["a", "e"]]


def test_a_place_goes_to_an_image_that_fits_in_the_tensors() -> None:
    """A batch of 64 x 128 has no place for one of 64 x 192, which shares its canvas."""
    jobs = [_job("a", 128), _job("b", 128), _job("c", 192), _job("d"), _job("e", 128)]
    assert _batches(2, jobs) == [["a", "b"], ["b", "d"], ["d", "e"], ["e"], ["c"]]


def test_images_are_fetched_by_canvas_and_then_by_shape() -> None:
    sizes = {
        "a": (500, 700),
        "b": (190, 180),
        "c": (570, 750),
        "d": (64, 64),
        "e": (510, 690),
        "f": (9, 190),
    }
    planned = [PlannedImage(key, "e", 1, width, height) for key, (height, width) in sizes.items()]
    assert [image.key for image in by_shape(planned, canvas)] == ["d", "f", "b", "a", "e", "c"]


def _mixing(monkeypatch: pytest.MonkeyPatch, *, sharing: bool) -> list[tuple[int, int]]:
    """Lets a worker on the CPU mix sizes; the sizes of tensors, each time that images begin."""
    found: list[tuple[int, int]] = []
    begin = JointRefinement.__init__

    def noted(self: JointRefinement, *args: object) -> None:
        begin(self, *args)  # type: ignore[arg-type]
        found.append(self.whole)

    monkeypatch.setattr(JointRefinement, "__init__", noted)
    monkeypatch.setattr(workspace_module, "shares_tensors", lambda device: True)
    if sharing:
        monkeypatch.setattr(refinement_module, "shares_tensors", lambda device: True)
    return found


def test_on_a_cpu_the_bytes_are_the_same_alone_mixed_killed_and_resumed(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {key: encode(MODEL, [pixels], RECIPE)[0].outcome.data for key, pixels in PICTURES.items()}
    _mixing(monkeypatch, sharing=False)
    local.add(PICTURES)
    spec = local.spec(make_variant(RECIPE))
    unit = local.unit(spec)
    for saves in (1, 2):
        workspace = local.workspace(spec, wip_seconds=0.0, batch_size=4)
        workspace.output = DeadlyStore(local.output, saves)
        with pytest.raises(Killed):
            run_unit(workspace, unit, ATTEMPTS[0], {})
    run_unit(local.workspace(spec, batch_size=4), unit, ATTEMPTS[1], {})
    rows = local.rows()
    assert {key: local.bitstream(row) for key, row in rows.items()} == alone
    assert max(row.batch_size or 0 for row in rows.values()) == 4


def test_in_shared_tensors_a_unit_is_as_good_as_images_alone(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file has passed the worker's decode check, whose latents have the image's own size."""
    alone = {key: encode(MODEL, [pixels], RECIPE)[0] for key, pixels in PICTURES.items()}
    tensors = _mixing(monkeypatch, sharing=True)
    local.add(PICTURES)
    rows = local.encode(local.spec(make_variant(RECIPE)), batch_size=3)
    assert set(tensors) == {(192, 192)} and rows.keys() == PICTURES.keys()
    for key, row in rows.items():
        assert row.status == "ok" and row.method == "sga"
        assert row.rd_loss == pytest.approx(alone[key].outcome.loss, rel=5e-3)
        assert row.amortized_rd_loss == pytest.approx(alone[key].amortized.rd_loss, rel=1e-6)  # type: ignore[union-attr]
