"""The headline of the page: the handful of numbers for somebody who reads nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ncbatch.report.page import Report
from ncbatch.report.throughput import idle_percent
from ncbatch.words import cost, counted, duration, money, size


@dataclass(frozen=True)
class Card:
    """One number of the headline.

    Attributes:
        title: what the number is of.
        value: the number, with its unit.
        note: one line below it.
        target: the section of the page that tells more, or none.
        tone: "bad" draws attention to it.
    """

    title: str
    value: str
    note: str = ""
    target: str = ""
    tone: str = ""


def cards(report: Report) -> list[Card]:
    """The headline of a report: sizes, quality, effort."""
    return [*_amounts(report), *_quality(report), *_effort(report)]


def _amounts(report: Report) -> Iterator[Card]:
    found, several = report.overview, len(report.overview.variants) > 1
    encodings = f"{found.ok + found.failed:,} encodings by {len(found.variants)} variants"
    yield Card("Images", f"{found.images:,}", encodings if several else _pixels(found.megapixels))
    share = 100 * found.failed / max(found.ok + found.failed, 1)
    if found.failed:
        kinds = len(report.failures)
        note = f"{_percent(share)}, {kinds} {'kind' if kinds == 1 else 'kinds'} of error"
        yield Card("Failed", f"{found.failed:,}", note, "failures", "bad")
    else:
        yield Card("Failed", "0", "every image was encoded, decoded and compared")
    if not found.ok:
        return
    yield Card("Originals", size(found.original_bytes), "of the encoded images")
    if several:
        yield Card("Encoded", size(found.amount.bytes_out), "all variants together", "variants")
        return
    amount = found.amount
    yield Card("Encoded", size(amount.bytes_out), f"{size(amount.bytes_out / found.ok)} an image")
    if (saved := amount.saved_percent) is not None:
        less = amount.bytes_in - amount.bytes_out
        note = (
            f"{size(less)} fewer than the originals"
            if less >= 0
            else f"{size(-less)} more than the originals"
        )
        yield Card("Saved", _percent(saved), note, tone="" if less >= 0 else "bad")
        if report.storage_price is not None:
            yield _storage(report, less / 1e9 * report.storage_price)


def _storage(report: Report, saved: float) -> Card:
    """What smaller files save, and when that has paid for making them."""
    note = f"at {report.storage_price:g} per GB and month"
    if (paid := _cost(report)) and saved > 0:
        note += f"; pays for the encoding in {paid / saved:,.3g} months"
    if saved < 0:
        return Card("Storage costs more", f"{-saved:,.2f} a month", note, tone="bad")
    return Card("Storage saved", f"{money(saved)} a month", note)


def _cost(report: Report) -> float | None:
    """What the run cost; None without a price. Where its driver has not said for how long there were workers,
    what their devices computed is all that is known.
    """
    seconds = report.worker_seconds or report.overview.device_seconds
    return None if report.price_per_hour is None or seconds is None else cost(seconds, report.price_per_hour)


def _quality(report: Report) -> Iterator[Card]:
    found = report.overview
    if len(found.variants) > 1 or not found.ok:
        return
    yield Card("Rate", f"{found.bpp:.3f} bpp", "mean over the images", _spread(report, "bpp"))
    if found.psnr is not None:
        ms_ssim = f"MS-SSIM {found.ms_ssim:.4f}, means" if found.ms_ssim is not None else "mean"
        exact = f"; {found.exact:,} came back exactly" if found.exact else ""
        yield Card("PSNR", f"{found.psnr:.2f} dB", ms_ssim + exact, _spread(report, "psnr"))
    elif found.exact:
        yield Card("PSNR", "exact", "every image came back as it was")
    saved = [mean.saved_percent for mean in report.evaluation.means if mean.is_refined]
    if saved and saved[0] is not None:
        yield Card(
            "Refinement", _percent(saved[0]), "lower R-D loss than amortized", _spread(report, "saved")
        )


def _effort(report: Report) -> Iterator[Card]:
    found, price = report.overview, report.price_per_hour
    target = "throughput_section" if report.throughput is not None else ""
    if found.wall_seconds:
        hosts = f"on {found.hosts} {'host' if found.hosts == 1 else 'hosts'}"
        yield Card("From start to end", _time(found.wall_seconds), hosts, target)
    if found.device_seconds is None:
        return
    each = f"{found.device_seconds / max(found.ok, 1):.3g} s an encoding"
    yield Card("Device time", _time(found.device_seconds), each, _spread(report, "seconds"))
    if report.throughput is not None and (idle := idle_percent(report.throughput.hosts)) is not None:
        count = sum(host.workers for host in report.throughput.hosts)
        note = f"of the time of {counted(count, 'workers')}, their devices did not compute"
        yield Card("Idle", _percent(idle), note, target)
    if (paid := _cost(report)) is not None:
        what = "hour of a worker" if report.worker_seconds else "hour of device time"
        note = f"at {price:g} per {what}; {1000 * paid / max(found.ok, 1):.3g} for 1,000"
        yield Card("Cost", money(paid), note)


def _spread(report: Report, quantity: str) -> str:
    name = f"spread_{quantity}"
    return name if name in report.figures else ""


def _time(seconds: float) -> str:
    """Seconds in words; of many hours, nobody asks for the minutes."""
    return f"{seconds / 3600:,.0f} h" if seconds >= 48 * 3600 else duration(seconds)


def _pixels(megapixels: float) -> str:
    """Megapixels in words; as pixels where the images are few and small."""
    if megapixels < 0.1:
        return f"{megapixels * 1e6:,.0f} pixels"
    return f"{megapixels:,.{0 if megapixels >= 10 else 1}f} megapixels"


def _percent(value: float) -> str:
    return f"{value:.1f} %" if abs(value) >= 0.1 or value == 0 else f"{value:.2g} %"
