import math
from typing import Any

import pytest

from ncbatch.report.bd_rate import Curve, bd_rate, savings
from ncbatch.report.errors import NoOverlapError, ReportError
from ncbatch.report.published import curves, parse_points, published_points


def straight(name: str, factor: float = 1.0, low: float = 28.0) -> Curve:
    """Twice the rate every three decibels."""
    quality = [low + 3 * i for i in range(5)]
    return Curve(name, [factor * 0.1 * 2 ** ((q - 28) / 3) for q in quality], quality)


@pytest.mark.parametrize("fit", ["pchip", "cubic"])
@pytest.mark.parametrize("low", [28.0, 31.5])
def test_a_constant_factor_is_found_whatever_the_overlap(fit: Any, low: float) -> None:
    assert bd_rate(straight("a"), straight("b", 0.85, low), fit) == pytest.approx(-0.15, abs=1e-9)
    assert bd_rate(straight("b", 0.85, low), straight("a"), fit) == pytest.approx(1 / 0.85 - 1, abs=1e-9)


@pytest.mark.parametrize(
    ("dataset", "method", "percent"),
    [
        ("kodak", "sga", -15),
        ("kodak", "sga+bits-back", -17),
        ("tecnick", "sga", -19),
        ("tecnick", "sga+bits-back", -20),
    ],
)
@pytest.mark.parametrize("fit", ["pchip", "cubic"])
def test_it_reproduces_the_supplements_figures(dataset: str, method: str, percent: int, fit: Any) -> None:
    found = curves(published_points(), dataset)
    assert round(100 * bd_rate(found["base-hyperprior"], found[method], fit)) == percent


def test_savings_go_against_quality() -> None:
    found = savings(straight("a"), straight("b", 0.5, low=31.0))
    assert found.quality[0] == 31.0 and found.quality[-1] == 40.0
    assert all(math.isclose(value, -0.5, abs_tol=1e-9) for value in found.relative)


def test_points_in_any_order_and_double_ones() -> None:
    curve = straight("b", 0.85)
    rate, quality = list(curve.rate)[::-1], list(curve.quality)[::-1]
    shuffled = Curve("b", [rate[0] * 2, *rate], [quality[0], *quality])  # the dearer twin does not count
    assert bd_rate(straight("a"), shuffled) == pytest.approx(-0.15)


def test_curves_that_cannot_be_compared_say_why() -> None:
    with pytest.raises(NoOverlapError, match="no quality in common"):
        bd_rate(straight("a"), straight("b", low=60.0))
    with pytest.raises(NoOverlapError, match="b has 1 R-D points"):
        bd_rate(straight("a"), Curve("b", [1.0], [30.0]))
    with pytest.raises(NoOverlapError, match="needs 4"):
        bd_rate(straight("a"), Curve("b", [0.5, 1.0], [30.0, 33.0]), "cubic")


def test_a_point_that_is_exact_is_no_point_of_a_curve() -> None:
    plain = Curve("a", [1.0, 2.0, 3.0, 4.0], [30.0, 32.0, 34.0, 36.0])
    exact = Curve("b", [0.5, 1.0, 1.5, 2.0, 9.0], [30.0, 32.0, 34.0, 36.0, math.inf])
    assert bd_rate(plain, exact) == pytest.approx(-0.5)
    assert savings(plain, exact).quality.max() == 36.0


def test_published_points() -> None:
    points = published_points()
    assert {p.dataset for p in points} == {"kodak", "tecnick"}
    assert {"jpeg", "webp", "bpg-4:4:4", "base-hyperprior"} <= curves(points, "kodak").keys()
    assert all(p.bpp > 0 and 20 < p.psnr < 60 for p in points)


def test_a_reference_table_with_missing_columns_or_words_for_numbers() -> None:
    with pytest.raises(ReportError, match="lacks the columns lambda, bpp"):
        parse_points("dataset,method,source,psnr_rgb_db\n", "mine.csv")
    with pytest.raises(ReportError, match=r"line 2 of mine\.csv"):
        parse_points("dataset,method,source,lambda,bpp,psnr_rgb_db\nkodak,x,me,,much,30\n", "mine.csv")
