"""A large run without images: its plan, commits and table are real, its bitstreams do not exist.

What reads tables at the size of a real corpus is measured on it; numbers are drawn with a fixed seed.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa

from ncbatch import __version__, layout
from ncbatch.codec.methods import Sga
from ncbatch.layout import unit_key
from ncbatch.metrics.compact import compact
from ncbatch.metrics.schema import SCHEMA, table_to_parquet
from ncbatch.plan.spec import RunFile, RunSpec, Variant
from ncbatch.plan.units import PlannedImage, Unit, make_units, write_plan
from ncbatch.store import Store

STARTED = datetime(2026, 3, 2, 8, 0, tzinfo=timezone.utc)
FAILURES = {
    "truncated": "The file ends after 51,200 of 80,412 bytes; copy the file again from its source.",
    "transparent": "Pixels are transparent; choose what lies behind with --alpha white or --alpha black.",
    "out_of_memory": "the image does not fit in memory: 412 megapixels",
}
"""Classes of error with a reason each; by default one image in 150 fails, of the first class most."""

_HOSTS = 4
_UNIT_IMAGES = 100


def make_synthetic_run(
    output: Store, corpus: str, images: int, *, compacted: bool = False, failed_share: float = 1 / 150
) -> RunSpec:
    """Writes a finished run of one SGA variant.

    Args:
        compacted: merge the commits into parts, as `ncbatch compact` does.
    """
    recipe = Sga(lmbda=0.01, steps=2000)
    variant = Variant(name="sga", model="base-0.010", model_digest="0" * 64, recipe=recipe)
    spec = RunSpec(corpus=corpus, variants=(variant,))
    planned = [
        PlannedImage(f"2026/{n // 1000:04d}/image-{n:07d}.jpg", f"{n:x}", 250_000 + n % 90_000, 768, 512)
        for n in range(images)
    ]
    units = make_units(planned, "sga", variant.digest, 0, _UNIT_IMAGES * 768 * 512)
    table = _rows(units, variant, failed_share)
    start = 0
    for unit in units:
        output.put(unit_key(unit.id), table_to_parquet(table.slice(start, len(unit.images))))
        start += len(unit.images)
    content = RunFile(
        spec=spec,
        digest=spec.digest,
        plan=write_plan(output, units, 0),
        ncbatch_version=__version__,
        torch_version="0",
        created_at=STARTED.isoformat(timespec="seconds"),
    )
    output.put(layout.RUN, content.model_dump_json(indent=1).encode())
    if compacted:
        compact(output)
    return spec


def _rows(units: list[Unit], variant: Variant, failed_share: float) -> pa.Table:
    images = [image for unit in units for image in unit.images]
    random = np.random.default_rng(0)
    count = len(images)
    detail = random.normal(size=count)
    failed = random.random(count) < failed_share
    classes = random.choice(list(FAILURES), count, p=(0.7, 0.2, 0.1))
    bpp = 0.5 * np.exp(0.35 * detail)
    psnr = 33.5 - 1.8 * detail + random.normal(0, 0.6, count)
    amortized = bpp * 1.02 + 0.01 * 65025 * 10 ** (-(psnr - 0.45) / 10)
    seconds = 18 * np.exp(random.normal(0, 0.15, count))
    host = np.arange(count) // _UNIT_IMAGES % _HOSTS
    finished = np.cumsum(seconds) / _HOSTS
    length = (bpp * 768 * 512 / 8).astype(int)
    ok = ~failed

    def where_ok(values: np.ndarray | list) -> pa.Array:
        return pa.array(values, mask=failed)

    at = [STARTED + timedelta(seconds=float(s)) for s in finished]
    columns = {
        "image_key": [image.key for image in images],
        "image_etag": [image.etag for image in images],
        "image_bytes": [image.bytes for image in images],
        "width": where_ok(np.full(count, 768)),
        "height": where_ok(np.full(count, 512)),
        "variant": ["sga"] * count,
        "variant_digest": [variant.digest] * count,
        "model": [variant.model] * count,
        "model_digest": [variant.model_digest] * count,
        "lmbda": np.full(count, 0.01),
        "method": ["sga"] * count,
        "steps": np.full(count, 2000),
        "seed": np.zeros(count, int),
        "status": np.where(ok, "ok", "failed").tolist(),
        "error_class": pa.array(classes.tolist(), mask=ok),
        "error": pa.array([FAILURES[name] for name in classes], mask=ok),
        "bpp": where_ok(bpp),
        "psnr": where_ok(psnr),
        "ms_ssim": where_ok(1 - 0.02 * np.exp(0.3 * detail)),
        "mse": where_ok(65025 * 10 ** (-psnr / 10)),
        "rd_loss": where_ok(bpp + 0.01 * 65025 * 10 ** (-psnr / 10)),
        "amortized_bpp": where_ok(bpp * 1.02),
        "amortized_psnr": where_ok(psnr - 0.45),
        "amortized_rd_loss": where_ok(amortized),
        "bitstream_key": where_ok([layout.bitstream_key("sga", image.key, 0) for image in images]),
        "offset": where_ok(np.zeros(count, int)),
        "length": where_ok(length),
        "sha256": where_ok([hashlib.sha256(image.key.encode()).hexdigest() for image in images]),
        "encode_seconds": where_ok(seconds * 4),
        "device_seconds": where_ok(seconds),
        "decode_seconds": where_ok(seconds / 100),
        "batch_size": where_ok(np.full(count, 4)),
        "device": ["cuda"] * count,
        "host": [f"gpu-{n}" for n in host],
        "unit": [unit.id for unit in units for _ in unit.images],
        "attempt": ["00000001-1"] * count,
        "generation": np.zeros(count, int),
        "adopted": np.zeros(count, bool),
        "started_at": where_ok(
            [end - timedelta(seconds=float(s)) for end, s in zip(at, seconds, strict=True)]
        ),
        "finished_at": at,
        "ncbatch_version": [__version__] * count,
    }
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
