"""What a run of a million images and more costs its driver and its readers: seconds, memory, requests.

    python -m benchmarks.scale                     # 1e6 images
    python -m benchmarks.scale --rows 1e6,1e7 --keep FOLDER

The run is a synthetic one without images, in units of 100, of which the last are pending. Each operation has
a process of its own. Memory is the peak beyond what the process has once its modules are imported; requests
are what an S3 store would send for the same, a listing being one for every 1,000 keys. The listing of the
corpus is counted apart (`corpus`): it takes a request for every 1,000 images, whatever ncbatch does. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from benchmarks.counted_store import count_requests, pages, requests
from benchmarks.synthetic_run import (
    UNIT_IMAGES,
    UNIT_PIXELS,
    synthetic_chunks,
    synthetic_image,
    synthetic_spec,
    write_run_file,
)
from ncbatch import layout
from ncbatch.plan.plan_files import write_plan
from ncbatch.store import LocalStore, ObjectInfo, StoreOptions, open_store

FRESH_UNITS, PENDING_UNITS = 40, 20
"""The last units of a run: committed since its table was last compacted, and not committed."""

AVERAGE = "select avg(bpp) from metrics"
_MEGABYTE = 1e6
_MODULES = (
    "duckdb", "pandas", "pyarrow.dataset", "ncbatch.cli.failures", "ncbatch.cli.query", "ncbatch.cli.report",
    "ncbatch.driver.encode_corpus", "ncbatch.report.page", "ncbatch.report.rendering",
)  # fmt: skip


class SyntheticCorpus(LocalStore):
    """The corpus of a synthetic run, which can be listed."""

    def __init__(self, images: int) -> None:
        super().__init__(Path("/synthetic"))
        self.images = images

    @override
    def list(self, prefix: str = "", **_: Any) -> Iterator[ObjectInfo]:
        """Every image, as it was planned."""
        images = (synthetic_image(number) for number in range(self.images))
        return pages((ObjectInfo(image.key, image.bytes, image.etag) for image in images), "corpus")


@dataclass(frozen=True)
class Cost:
    """Of one operation. mb: the peak of the resident memory, beyond what the process had before."""

    seconds: float
    cpu_seconds: float
    mb: float
    requests: dict[str, int]


def plan(folder: Path, rows: int) -> None:
    """A new run is planned, and its units are put in order."""
    _open(folder / "planned", rows)


def resume(folder: Path, rows: int) -> None:
    """The same command again: what is new, what is done, what it was, and what is left."""
    _open(folder / "run", rows)


def _open(folder: Path, rows: int) -> None:
    from ncbatch.driver.encode_corpus import failed_before
    from ncbatch.driver.schedule import Schedule
    from ncbatch.plan.commits import Commits
    from ncbatch.plan.run import committed_results, list_inputs, open_run
    from ncbatch.plan.spec import find_run
    from ncbatch.plan.units import Keys

    output = open_store(str(folder), create=True)
    spec = synthetic_spec(SyntheticCorpus(rows).uri)
    stored, commits = find_run(output), Commits(output)
    listing = list_inputs(spec, SyntheticCorpus(rows), StoreOptions(), output)
    run = open_run(spec, listing, output, lambda *_: UNIT_PIXELS, stored=stored, commits=commits)
    pending = run.pending
    Schedule({u.id: Keys(u.images) for u in pending}, {u.id: float(u.pixels) for u in pending})
    results = committed_results(run, commits)
    failed_before(run, commits)
    done = sum(result.ok + result.failed for result in results.values())
    assert done == (rows - PENDING_UNITS * UNIT_IMAGES if stored else 0), done


def _command(*words: str) -> Callable[[Path, int], None]:
    def carry_out(folder: Path, rows: int) -> None:
        from ncbatch.cli.main import main as ncbatch

        with contextlib.redirect_stdout(io.StringIO()):
            code = ncbatch([words[0], str(folder / "run"), *words[1:]])
        assert code == 0, f"ncbatch {words[0]} ended with {code}"

    return carry_out


OPERATIONS: dict[str, Callable[[Path, int], None]] = {
    "plan": plan,
    "compact": _command("compact"),
    "resume": resume,
    "recount": _command("status", "--json"),
    "status": _command("status", "--json"),
    "query": _command("query", AVERAGE),
    "failures": _command("failures"),
    "report": _command("report", "--no-images"),
}
"""In the order in which they are measured: from `compact` on, all but the last commits are compacted.
`recount` is the status of a run whose driver is dead, `status` that of one at work."""


def measure(name: str, folder: Path, rows: int) -> Cost:
    """Carries an operation out in this process, which is to be new."""
    for module in _MODULES:
        importlib.import_module(module)
    count_requests()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    begin, cpu = time.perf_counter(), time.process_time()
    OPERATIONS[name](folder, rows)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Cost(round(seconds, 2), round(cpu, 2), round(_memory("VmHWM") - before, 1), dict(requests))


def _memory(line: str) -> float:
    """Of this process, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{line}:")[2].split()[0]) * 1024 / _MEGABYTE


def write_run(folder: Path, rows: int) -> None:
    """Writes a run, of which nothing is compacted, without its fresh units: those go beside it."""
    output, fresh = open_store(str(folder / "run"), create=True), folder / "fresh"
    spec = synthetic_spec(SyntheticCorpus(rows).uri)
    units, number = rows // UNIT_IMAGES, 0
    keys: tuple[str, ...] = ()
    for chunk in synthetic_chunks(spec, rows):
        keys += write_plan(output, chunk.units, 0)
        for key, data in chunk.commits():
            number += 1
            left = units - number
            if left >= PENDING_UNITS:
                path = (folder / "run" if left >= PENDING_UNITS + FRESH_UNITS else fresh) / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)  # the store's own way to the disk takes ten times as long
    write_run_file(output, spec, keys)


def commit_fresh(folder: Path) -> None:
    """Commits the fresh units, as workers do while nobody compacts."""
    shutil.copytree(folder / "fresh", folder / "run", dirs_exist_ok=True)


def speak_as_driver(folder: Path, rows: int) -> None:
    """Writes what a driver at work would: this process takes its lease."""
    from ncbatch.driver.forecast import Forecast
    from ncbatch.driver.lease import Lease
    from ncbatch.driver.progress import PlanCounts, Progress, write_status
    from ncbatch.plan.commits import Commits

    output = open_store(str(folder / "run"))
    commits, lease = Commits(output), Lease(output)
    progress = Progress({"sga": rows}, Forecast({}))
    progress.plan = PlanCounts(generation=0, units=rows // UNIT_IMAGES, inputs=rows)
    for result in commits.results(commits.units, set()).values():
        progress.add("sga", result)
    progress.state = "running"
    lease.take(force=True)
    write_status(output, progress.snapshot(lease.driver))


def stop_speaking(folder: Path) -> None:
    """Leaves no trace of the driver."""
    output = open_store(str(folder / "run"))
    for key in (layout.STATUS, layout.LEASE):
        output.delete(key)


def measured(folder: Path, rows: int, names: list[str]) -> dict[str, Cost]:
    """The cost of each operation, each in a process of its own."""
    if not (folder / "run" / "run.json").exists():
        begin = time.perf_counter()
        write_run(folder, rows)
        print(f"a run of {rows:,} images written in {time.perf_counter() - begin:.0f} s", flush=True)
    found = {}
    for name in names:
        if name == "status":
            speak_as_driver(folder, rows)
        command = [sys.executable, "-m", "benchmarks.scale", "--rows", str(rows), "--keep", str(folder)]
        done = subprocess.run([*command, "--alone", name], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        found[name] = cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
        sent = ", ".join(f"{count:,} {kind}" for kind, count in sorted(cost.requests.items()))
        times = f"{cost.seconds:8.2f} s ({cost.cpu_seconds:.2f} s of a core)"
        print(f"{name:9s} {times} {cost.mb:8.0f} MB   {sent}", flush=True)
        if name == "plan":
            shutil.rmtree(folder / "planned")
        if name == "compact":
            commit_fresh(folder)
        if name == "status":
            stop_speaking(folder)
    return found


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1e6", help="images of the run; of several runs with commas")
    parser.add_argument("--only", help="operations, with commas between; default: all")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="where the runs stay")
    parser.add_argument("--alone", choices=list(OPERATIONS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [int(float(text)) for text in args.rows.split(",")]
    if args.alone:
        print(json.dumps(asdict(measure(args.alone, args.keep, sizes[0]))))
        return
    names = args.only.split(",") if args.only else list(OPERATIONS)
    with tempfile.TemporaryDirectory() as temporary:
        found = {}
        for rows in sizes:
            folder = (args.keep or Path(temporary)) / str(rows)
            folder.mkdir(parents=True, exist_ok=True)
            found[str(rows)] = {name: asdict(cost) for name, cost in measured(folder, rows, names).items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
