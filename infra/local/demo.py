"""A run on the local cluster from its images to what Prometheus knows of it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import stack as local

_SCALE, _STEPS = 4, 60
_RUN = "s3://encoded/demo/"
_QUERIES = {
    "images": 'sum(ray_ncbatch_images_total{{run="{run}", status="ok"}})',
    "steps of refinement": 'sum(ray_ncbatch_refinement_steps_total{{run="{run}"}})',
    "median bits per pixel": "histogram_quantile(0.5, sum by (le) "
    '(ray_ncbatch_image_bits_per_pixel_bucket{{run="{run}"}}))',
    "median PSNR in dB": "histogram_quantile(0.5, sum by (le) "
    '(ray_ncbatch_image_psnr_decibels_bucket{{run="{run}"}}))',
    "requests to the store": 'sum(ray_ncbatch_store_requests_total{{run="{run}"}})',
    "alerts that fire": 'count(ALERTS{{alertstate="firing"}}) or vector(0)',
}
_HANG_SECONDS = 120.0


def demonstrate(stack: local.Stack) -> None:
    """Encodes quarter-size copies of the images that scikit-image ships, and shows the run's metrics.

    Raises:
        StackError: the run fails, or Prometheus does not hear of it.
    """
    from ncbatch.cli.demonstration import IMAGES, copy_images

    began = time.monotonic()
    environment = local.user_environment(stack)
    with tempfile.TemporaryDirectory() as folder:
        copy_images(Path(folder), _SCALE)
        client = local.s3_client(stack.environment)
        for path in sorted(Path(folder).iterdir()):
            client.put_object(Bucket="photos", Key=path.name, Body=path.read_bytes())
    command = [sys.executable, "-m", "ncbatch", "encode", "s3://photos/", _RUN, "--steps", str(_STEPS)]
    options = ["--unit-seconds", "2", "--price-per-hour", "1"]
    print("$", " ".join(["ncbatch", *command[3:], *options]), flush=True)
    if subprocess.run([*command, *options], env=environment, check=False).returncode:
        raise local.StackError(f"the run failed; see {stack.folder}/ray/session_latest/logs")
    deadline = time.monotonic() + _HANG_SECONDS
    while _value(stack, _QUERIES["images"]) != len(IMAGES):
        if time.monotonic() > deadline:
            raise local.StackError(f"Prometheus has not heard of the run; see {stack.prometheus}/targets")
        time.sleep(1.0)
    print(f"\nof {_RUN}, Prometheus says:")
    for name, query in _QUERIES.items():
        value = _value(stack, query)
        print(f"  {name:24} {'nothing' if value is None else f'{value:g}'}")
    print(f"encoded and scraped in {time.monotonic() - began:.0f} s; infra/local/down ends the cluster")


def _value(stack: local.Stack, query: str) -> float | None:
    text = urllib.parse.urlencode({"query": query.format(run=_RUN)})
    told = local.asked(f"{stack.prometheus}/api/v1/query?{text}")
    assert isinstance(told, dict)
    result = told["data"]["result"]
    return float(result[0]["value"][1]) if result else None
