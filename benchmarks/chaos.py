"""A run on a cluster that breaks: nothing may be lost, doubled or blamed on an image, whatever dies.

    python -m benchmarks.chaos [--units 1000] [--faults 200] [--seed 0] [--seconds 280]

A multi-node Ray cluster and an S3 server on this machine; units of one tiny image. One node's workers fail
whatever they encode, one node has no credentials, and the clock of one is an hour off. While the run goes on,
faults of every kind happen in random order, evenly over the units. At the end every image must have one row,
all bytes must verify, and only those images may have failed that are none. After `--seconds` no more faults
happen. The last line is one JSON object; the exit code is 0 where all is well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos_cluster import ChaosCluster, encoded_png, s3_server
from ncbatch.decoding.run_reader import RunReader
from ncbatch.metrics.table import read_table
from ncbatch.store import Store, StoreOptions, open_store
from tests.fault_proxy import FaultProxy

_BAD_IMAGES = 50
"""Of so many images, one is no image."""
_HANG_SECONDS = 900.0
"""After the last fault's time; a run that has not ended then is a failure, however slow the machine."""


@dataclass
class Told:
    """What happened.

    Attributes:
        faults: by kind.
        drivers: how often the command was given, by exit code; -9 of those that were killed.
    """

    faults: Counter[str] = field(default_factory=Counter)
    drivers: Counter[int] = field(default_factory=Counter)


class Driver:
    """The command `ncbatch encode`, which is given again whenever it ends before all is done."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._command, self._env, self._log = command, env, log
        self.start()

    def start(self) -> None:
        """Gives the command."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    def ended(self) -> int | None:
        """Its exit code, once it has one."""
        return self._process.poll()

    def kill(self) -> None:
        """As by the kernel."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def faults(
    cluster: ChaosCluster, proxy: FaultProxy, driver: Driver, flags: Path
) -> dict[str, Callable[[], Any]]:
    """Every kind of fault, and what makes it happen."""
    return {
        "worker killed": cluster.kill_worker,
        "raylet killed": cluster.kill_raylet,
        "node removed": cluster.remove_node,
        "node joined": cluster.join,
        "driver killed": driver.kill,
        "worker sick": (flags / "sick-worker").touch,
        "store: 503": lambda: proxy.fail(status=503, times=20),
        "store: success unheard": lambda: proxy.drop_answer("PUT", times=3),
        "store: 412": lambda: proxy.fail("PUT", status=412, times=1),
        "store: outage": lambda: proxy.fail(status=503, seconds=10.0),
    }


def happen(
    cluster: ChaosCluster, proxy: FaultProxy, driver: Driver, output: Store, flags: Path,
    arguments: argparse.Namespace,
) -> Told:  # fmt: skip
    """Lets faults happen until the run is finished."""
    kinds = faults(cluster, proxy, driver, flags)
    rng, told, began = random.Random(arguments.seed), Told(), time.monotonic()
    # Every kind as often as any other, in random order.
    order = (list(kinds) * (arguments.faults // len(kinds) + 1))[: arguments.faults]
    rng.shuffle(order)
    while True:
        code = driver.ended()
        if code is not None:
            told.drivers[code] += 1
            if code in (0, 2):
                return told
            driver.start()
        elapsed = time.monotonic() - began
        if elapsed > arguments.seconds + _HANG_SECONDS:
            raise SystemExit(f"the run has not ended after {elapsed:.0f} s")
        done = sum(1 for _ in output.list("units/"))
        while (
            order
            and elapsed < arguments.seconds
            and done >= told.faults.total() * arguments.units / arguments.faults
        ):
            kind = order.pop()
            kinds[kind]()
            told.faults[kind] += 1
        time.sleep(0.5)


def checked(output: Store, images: set[str], bad: set[str]) -> dict[str, Any]:
    """What the run's folder holds, compared with what it should."""
    rows = read_table(
        output, columns=("image_key", "status", "error_class", "error", "generation")
    ).to_pylist()
    keys = Counter(row["image_key"] for row in rows)
    failed = {row["image_key"]: row["error_class"] for row in rows if row["status"] == "failed"}
    problems = [finding for finding in RunReader(output).verify() if finding.problem]
    return {
        "images": len(images),
        "rows": len(rows),
        "duplicates": sum(count - 1 for count in keys.values()),
        "missing": len(images - keys.keys()),
        "unverified": len(problems),
        "failed_wrongly": len(failed.keys() - bad),
        "classes_of_wrong": dict(Counter(failed[key] for key in failed.keys() - bad)),
        "bad_images_ok": len(bad - failed.keys()),
    }


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def running(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Any, ...]]:
    """A cluster, a store with a proxy in front, and the command."""
    flags = folder / "flags"
    flags.mkdir()
    with _own_environment(), s3_server(folder) as server, FaultProxy(server.endpoint_url) as proxy:
        os.environ |= server.environment() | {"AWS_ENDPOINT_URL": server.endpoint_url}
        server.client().create_bucket(Bucket="chaos")
        corpus = open_store("s3://chaos/in/", StoreOptions())
        rng = np.random.default_rng(arguments.seed)
        for n in range(arguments.units):
            corpus.put(f"{n:05d}.png", b"text" if n % _BAD_IMAGES == 7 else encoded_png(rng))
        proxy.refuse_wrong_clocks()
        env = server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint_url}
        with ChaosCluster(env, flags, arguments.seed, arguments.unit_seconds) as cluster:
            command = [
                *(sys.executable, "-m", "ncbatch", "encode", "s3://chaos/in/", "s3://chaos/out/"),
                *("--method", "jpeg", "--quality", "50", "--unit-seconds", "0.001", "--no-scan"),
                *("--ray-address", cluster.address),
            ]
            driver = Driver(command, os.environ | env | cluster.driver_environment(), folder / "driver.log")
            try:
                yield cluster, proxy, driver, flags
            finally:
                driver.kill()


def chaos(arguments: argparse.Namespace) -> dict[str, Any]:
    """Carries out one run; what there is to say about it."""
    with tempfile.TemporaryDirectory(prefix="chaos", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with running(arguments, folder) as (cluster, proxy, driver, flags):
            output = open_store("s3://chaos/out/", StoreOptions())
            began = time.monotonic()
            try:
                told = happen(cluster, proxy, driver, output, flags, arguments)
            finally:
                sys.stderr.write((folder / "driver.log").read_text(errors="replace")[-6000:])
            seconds = time.monotonic() - began
            proxy.clear()
            images = {f"{n:05d}.png" for n in range(arguments.units)}
            bad = {f"{n:05d}.png" for n in range(7, arguments.units, _BAD_IMAGES)}
            found = checked(output, images, bad)
            log = (folder / "driver.log").read_text(errors="replace")
    return found | {
        "units": arguments.units,
        "faults": told.faults.total(),
        "faults_by_kind": dict(told.faults),
        "commands_by_exit_code": {str(code): n for code, n in told.drivers.items()},
        "quarantines": log.count("is kept from work after"),
        "seconds": round(seconds, 1),
        "seed": arguments.seed,
    }


def is_well(found: dict[str, Any]) -> bool:
    """Whether all promises were kept."""
    bad = ("duplicates", "missing", "unverified", "failed_wrongly", "bad_images_ok")
    return found["rows"] == found["images"] and not any(found[name] for name in bad)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="a run on a cluster that breaks")
    parser.add_argument("--units", type=int, default=1000, help="units of one image")
    parser.add_argument("--faults", type=int, default=200, help="evenly over the units, in random order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=280.0, help="after which no more faults happen")
    parser.add_argument("--unit-seconds", type=float, default=1.0, help="that a unit takes at least")
    return parser.parse_args(words)


if __name__ == "__main__":
    result = chaos(parse())
    print(json.dumps(result))
    sys.exit(0 if is_well(result) else 1)
