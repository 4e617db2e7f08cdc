from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from ncbatch.cli.main import main
from ncbatch.errors import RunError
from ncbatch.metrics.table import read_table
from ncbatch.report.bd_rate import Curve
from ncbatch.report.errors import ReportError
from ncbatch.report.evaluation import _comparable, evaluate
from ncbatch.report.page import Report, build
from ncbatch.report.rows import Rows
from ncbatch.report.series import _average
from ncbatch.store import Store, open_store
from tests.report.conftest import REQUESTS, make_run

SGA = REQUESTS[:1]


def built(output: Store, published: Sequence[Curve] = ()) -> Report:
    rows = Rows.of(output)
    return build(evaluate(output, rows), rows, output, published)


def test_means_are_over_the_rows(run: Store) -> None:
    found = {m.variant: m for m in evaluate(run).means}
    rows = [r for r in read_table(run).to_pylist() if r["variant"] == "sga-0.02"]
    mean = found["sga-0.02"]
    assert mean.images == len(rows) == 3
    for name in ("bpp", "psnr", "rd_loss", "amortized_rd_loss", "encode_seconds"):
        assert getattr(mean, name) == pytest.approx(sum(r[name] for r in rows) / 3), name
    assert mean.saved_percent is not None and mean.saved_percent > 0


def test_images_too_small_for_ms_ssim_have_none(run: Store) -> None:
    """All images of this run are under 161 pixels a side."""
    evaluation = evaluate(run)
    assert {m.ms_ssim_db for m in evaluation.means} == {None}
    assert not any(evaluation.ms_ssim_curve(label) for label in evaluation.series)
    report = built(run)
    assert "rd_ms_ssim" not in report.figures
    assert {row["ms_ssim_db"] for row in report.tables["variants"].dictionaries()} == {None}


def with_columns(rows: Rows, **columns: Sequence[float | None]) -> Rows:
    """Other values in some columns, by the place of the row."""
    table = rows.table.query("from metrics order by image_key, variant")
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    return Rows.held(table)


def test_ms_ssim_is_over_the_images_that_have_one_and_at_their_rate(tmp_path: Path) -> None:
    output = make_run(tmp_path, REQUESTS[-1:])
    rows = with_columns(Rows.of(output), ms_ssim=[None, 0.9, 0.99], bpp=[9.0, 1.0, 2.0])
    found = evaluate(output, rows)
    (mean,) = found.means
    assert mean.ms_ssim_db == pytest.approx(15.0)
    assert mean.ms_ssim_bpp == pytest.approx(1.5) and mean.bpp == pytest.approx(4.0)
    (curve,) = filter(None, map(found.ms_ssim_curve, found.series))
    assert (curve.rate, curve.quality) == ([pytest.approx(1.5)], [pytest.approx(15.0)])
    assert "MS-SSIM is over 2 of 3 images; the others are too small for it." in found.notes


def test_exact_images_do_not_hide_the_others_before_refinement_either(tmp_path: Path) -> None:
    output = make_run(tmp_path, SGA)
    rows = with_columns(Rows.of(output), psnr=[math.inf, 30, 32], amortized_psnr=[math.inf, 29, 31])
    (mean,) = evaluate(output, rows).means
    assert (mean.psnr, mean.amortized_psnr) == (31, 30)


def test_variants_that_differ_in_rate_make_a_series(run: Store) -> None:
    series = evaluate(run).series
    assert {label: len(points) for label, points in series.items()} == {
        "sga": 2, "map": 2, "jpeg": 4, "amortized": 2,
    }  # fmt: skip
    for points in series.values():
        assert [p.bpp for p in points] == sorted(p.bpp for p in points)


def test_one_model_at_several_lmbdas_is_a_curve_beside_the_ladders(tmp_path: Path) -> None:
    """As in benchmarks/methods.yaml: the points of the sweep are none of the ladder."""
    requests = [
        {"method": method, "lmbda": lmbda, "steps": steps, "name": f"{method}-{lmbda}"}
        for method, steps in (("amortized", 0), ("sga", 4)) for lmbda in (0.005, 0.01, 0.02)
    ]  # fmt: skip
    requests += [
        {"method": "sga", "model": "base-0.010", "lmbda": lmbda, "steps": 4, "name": f"at-{lmbda}"}
        for lmbda in (0.005, 0.02)
    ]
    series = evaluate(make_run(tmp_path, requests, count=1)).series
    assert {label: {p.variant for p in points} for label, points in series.items()} == {
        "amortized": {"amortized-0.005", "amortized-0.01", "amortized-0.02"},
        "sga": {"sga-0.005", "sga-0.01", "sga-0.02"},
        "sga, model base-0.010": {"at-0.005", "sga-0.01", "at-0.02"},
    }


def test_seeds_are_averaged_into_one_point(tmp_path: Path) -> None:
    requests = [
        {"method": "sga", "lmbda": lmbda, "seed": seed, "steps": 4, "name": f"{lmbda}-{seed}"}
        for lmbda in (0.005, 0.01) for seed in (0, 1, 2)
    ]  # fmt: skip
    found = evaluate(make_run(tmp_path, requests, count=1))
    low, high = found.series["sga"]
    assert (low.lmbda, high.lmbda) == (0.005, 0.01) and low.variant == "0.005-0 and 2 other seeds"
    average = _average([replace(low, rd_loss=loss, ms_ssim_db=None) for loss in (1.0, 2.0, 6.0)])
    assert (average.rd_loss, average.ms_ssim_db) == (3.0, None) and average.psnr == pytest.approx(low.psnr)


def test_models_beside_each_other_are_curves_of_their_own(tmp_path: Path) -> None:
    requests = [
        {"method": "sga", "model": model, "lmbda": lmbda, "steps": 4, "name": f"{model}-{lmbda}"}
        for model in ("base-0.005", "base-0.010") for lmbda in (0.005, 0.01)
    ]  # fmt: skip
    labels = set(evaluate(make_run(tmp_path, requests, count=1)).series)
    assert labels == {"sga, model base-0.005", "sga, model base-0.010", "amortized"}


def test_labels_say_what_differs_and_no_more(tmp_path: Path) -> None:
    requests = [
        {"method": "sga", "steps": 10, "name": "a"},
        {"method": "sga", "steps": 20, "name": "b"},
        {"method": "sga", "steps": 20, "rounding": "ssl", "name": "c"},
        {"method": "map", "steps": 20, "name": "d"},
    ]
    labels = set(evaluate(make_run(tmp_path, requests, count=1)).series)
    assert labels == {
        "sga, 10 steps", "sga, 20 steps, rounding atanh", "sga, 20 steps, rounding ssl", "map", "amortized",
    }  # fmt: skip


def test_an_unfinished_run_says_so_and_reports_what_is_there(tmp_path: Path) -> None:
    output = make_run(tmp_path, REQUESTS, units=3)
    found = evaluate(output)
    assert any("15 of 24 encodings are pending" in note for note in found.notes)
    assert any("Nothing is ok yet of" in note and "jpeg-20" in note for note in found.notes)
    assert {m.variant for m in found.means} < {request["name"] for request in REQUESTS[:4]}
    assert built(output).overview.ok == 9


def test_variants_without_an_image_in_common_are_left_out_and_named() -> None:
    shared = [(frozenset("a"), 1), (frozenset("ac"), 2), (frozenset("b"), 1)]
    assert _comparable(shared) == (["a", "c"], ["b"])
    assert _comparable([]) == ([], [])


def test_a_run_whose_variants_share_no_image_yet_is_reported(tmp_path: Path) -> None:
    requests = [{"method": "jpeg", "quality": quality} for quality in (20, 50)]
    output = make_run(tmp_path, requests, count=2, pixels_per_unit=1, units=[0, 3])
    found = evaluate(output)
    assert {m.variant for m in found.means} == {"jpeg-20"}
    assert any("no image in common" in note and "jpeg-50" in note for note in found.notes)
    assert built(output).overview.ok == 2


def test_one_variant_has_no_bd_rate_unless_asked_and_then_the_reason(tmp_path: Path) -> None:
    output = make_run(tmp_path, SGA)
    assert not {"bd_rates"} & built(output).tables.keys()
    published = Curve("published", [0.2, 0.4], [30.0, 33.0])
    rows = built(output, [published]).tables["bd_rates"].rows
    assert ("sga", "published", None, None, "sga has 1 R-D points; a pchip BD-rate needs 2") in rows


def test_curves_without_overlap_say_so(run: Store) -> None:
    far = Curve("far", [5.0, 6.0, 7.0, 8.0], [70.0, 71.0, 72.0, 73.0])
    rows = built(run, [far]).tables["bd_rates"].rows
    reasons = {row[0]: row[4] for row in rows if row[1] == "far"}
    assert all("no quality in common" in reasons[label] for label in ("sga", "map", "jpeg"))


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no encoded image yet"):
        evaluate(make_run(tmp_path, SGA, units=0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no run"):
        evaluate(open_store(str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--reference", "sgb"), "the run has no series 'sgb'; it has 'sga'"),
        (("--dataset", "clic"), "there is no 'clic'; the choices are kodak, tecnick, none"),
        (("--images", "x.png"), "no encoded image 'x.png'"),
        (("--images", "0.png,x.png", "--thumbnails", "0"), "no encoded image 'x.png'"),
        (("--images", "0.png", "--no-images"), "leave it out, or --images"),
        (("--thumbnails", "3", "--no-images"), "leave it out, or --thumbnails"),
    ],
)
def test_wrong_words_are_named(
    run: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["report", run.uri, "--out", str(tmp_path), *words]) == 1
    assert message in capsys.readouterr().err


def test_a_reference_table_without_columns_is_named(
    run: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "points.csv").write_text("method,bpp\nx,1\n")
    words = ["--published", str(tmp_path / "points.csv")]
    assert main(["report", run.uri, "--out", str(tmp_path), *words]) == 1
    assert "lacks the columns dataset, source" in capsys.readouterr().err


def test_curves_and_tables_need_no_torch() -> None:
    code = "import sys, ncbatch.report.rendering; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
