"""The commands: from parsed arguments to the rooms' functions, and from their results to the console.

Each takes the parsed arguments and returns an exit code. The heavy imports (torch, ray) are inside, so that
`ncbatch status` answers at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncbatch.console import duration, err, out, print_table, progress_display, size
from ncbatch.errors import UsageError
from ncbatch.store import Store, StoreOptions, open_store

if TYPE_CHECKING:
    from ncbatch.metrics.summary import Summary
    from ncbatch.runs.encoding import EncodeOptions
    from ncbatch.runs.reading import Finding
    from ncbatch.runs.spec import RunSpec

Command = Callable[[argparse.Namespace], int]
Adder = Callable[..., argparse.ArgumentParser]

log = logging.getLogger(__name__)

_SHOWN_FAILURES = 5


def _store_options(args: argparse.Namespace) -> StoreOptions:
    return StoreOptions(endpoint_url=args.endpoint_url, region=args.region)


def _open(args: argparse.Namespace, uri: str) -> Store:
    store = open_store(uri, _store_options(args))
    store.check()
    return store


def _spec(args: argparse.Namespace) -> RunSpec:
    from ncbatch.runs.request import make_spec

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names if getattr(args, name) not in (None, False)}

    return make_spec(
        args.corpus,
        _store_options(args),
        method=args.method,
        lmbda=args.lmbda,
        steps=args.steps,
        model=args.model,
        name=args.name,
        include=tuple(args.include or ()),
        manifest=args.manifest,
        recipe=given("learning_rate", "seed"),
        variant=given("alpha", "max_pixels", "fall_back"),
    )


def _encode_options(args: argparse.Namespace) -> EncodeOptions:
    from ncbatch.runs.cluster import PoolConfig
    from ncbatch.runs.driver import Deadlines
    from ncbatch.runs.encoding import EncodeOptions
    from ncbatch.runs.pending import Policy

    for name in ("workers", "batch_size", "cpus_per_worker", "unit_seconds", "min_deadline"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise UsageError(f"--{name.replace('_', '-')} must be positive, not {value}")
    return EncodeOptions(
        store=_store_options(args),
        pool=PoolConfig(args.workers, args.cpus_per_worker, args.gpus_per_worker),
        ray_address=args.ray_address,
        threads=max(int(args.cpus_per_worker), 1),
        batch_size=args.batch_size,
        unit_seconds=args.unit_seconds,
        policy=Policy(failed_share=args.max_failed),
        deadlines=Deadlines(floor=args.min_deadline),
        force=args.force,
    )


def encode(args: argparse.Namespace) -> int:
    from ncbatch.runs.encoding import encode_corpus

    spec, options = _spec(args), _encode_options(args)
    with progress_display() as show:
        summary = encode_corpus(spec, args.output, options, show)
    _print_summary(summary)
    if not summary.failed:
        return 0
    _print_failures(_open(args, args.output), summary.failed)
    return 2


def _print_summary(summary: Summary) -> None:
    line = f"{summary.ok} images ok, {summary.failed} failed"
    if summary.mean_bpp is not None:
        psnr = f", {summary.mean_psnr:.2f} dB" if summary.mean_psnr is not None else ""
        line += f"; mean {summary.mean_bpp:.3f} bpp{psnr}"
        line += f"; {size(summary.image_bytes)} became {size(summary.bitstream_bytes)}"
    out.print(line)


def _print_failures(output: Store, count: int) -> None:
    from ncbatch.metrics.query import query as run_query

    table = run_query(
        output,
        "select image_key, error_class, error from metrics where status = 'failed' "
        f"order by error_class, image_key limit {_SHOWN_FAILURES}",
    )
    for row in table.to_pylist():
        err.print(f"failed: {row['image_key']}: {row['error_class']}: {row['error']}")
    if count > _SHOWN_FAILURES:
        err.print(f"... and {count - _SHOWN_FAILURES} more; `ncbatch query` shows them all")


def demo(args: argparse.Namespace) -> int:
    from ncbatch import cli
    from ncbatch.demo import STEPS, copy_photographs
    from ncbatch.metrics.query import query as run_query

    photographs, output = Path(args.folder) / "photographs", Path(args.folder) / "run"
    copy_photographs(photographs)
    words = ["encode", str(photographs), str(output), "--method", "sga", "--steps", str(STEPS)]
    log.info("ncbatch %s", " ".join(words))
    code = cli.main([*words, *(["--debug"] if args.debug else [])])
    if code:
        return code
    table = run_query(
        open_store(str(output)),
        """select image_key as image, length as bytes, bpp, psnr as "PSNR dB",
                  100 * (1 - rd_loss / amortized_rd_loss) as "saved %"
           from metrics order by image""",
    )
    print_table(table.column_names, zip(*table.to_pydict().values(), strict=True))
    out.print('"saved %": R-D loss (bpp + lmbda * MSE) that refinement saved against the amortized encoding')
    out.print(f"decode them again: ncbatch decode {output} {Path(args.folder) / 'decoded'}")
    return 0


def status(args: argparse.Namespace) -> int:
    from ncbatch.runs.status import run_status

    run = run_status(_open(args, args.output))
    summary, snapshot = run.summary, run.snapshot
    if args.json:
        content = {
            "images": run.images,
            "ok": summary.ok,
            "failed": summary.failed,
            "pending": run.pending,
            "units": run.units,
            "committed_units": run.committed_units,
            "mean_bpp": summary.mean_bpp,
            "mean_psnr": summary.mean_psnr,
            "driver": run.holder,
            "snapshot": snapshot.model_dump(mode="json") if snapshot else None,
        }
        out.print_json(json.dumps(content))
        return 0
    for variant in run.spec.variants:
        recipe = variant.recipe
        what = f"{recipe.method}, lmbda {recipe.lmbda:g}, {recipe.steps} steps"
        out.print(f"variant {variant.name}: {variant.model}, {what}")
    out.print(f"corpus {run.spec.corpus}: {run.images} images in {run.units} units")
    out.print(f"{run.pending} pending; {run.committed_units} units are committed")
    _print_summary(summary)
    if run.holder:
        out.print(f"driver: {run.holder}")
    if snapshot:
        ago = duration((_now() - snapshot.updated_at).total_seconds())
        eta = f", ETA {duration(snapshot.eta_seconds)}" if run.pending and snapshot.eta_seconds else ""
        out.print(f"the driver's last word, {ago} ago: {snapshot.state}, {snapshot.workers} workers{eta}")
    return 0


def _now() -> Any:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc)


def query(args: argparse.Namespace) -> int:
    from ncbatch.metrics.query import query as run_query
    from ncbatch.runs.spec import read_run

    output = _open(args, args.output)
    read_run(output)  # a folder without a run gets the message that says so
    table = run_query(output, args.sql)
    if args.format == "csv":
        table.to_pandas().to_csv(sys.stdout, index=False)
    elif args.format == "json":
        out.print_json(json.dumps(table.to_pylist(), default=str))
    else:
        print_table(table.column_names, (tuple(row.values()) for row in table.to_pylist()))
    return 0


def decode(args: argparse.Namespace) -> int:
    from ncbatch.runs.reading import RunReader

    destination = open_store(args.destination, _store_options(args), create=True)
    if args.source.lower().endswith(".ncb"):
        return _decode_file(args, destination)
    reader = RunReader(_open(args, args.source), variant=args.variant)
    return _report(reader.decode_into(destination), f"decoded into {destination.uri}")


def _decode_file(args: argparse.Namespace, destination: Store) -> int:
    from ncbatch.codec.pictures import PictureLimits
    from ncbatch.runs.reading import decode_file

    options = _store_options(args)
    limit = args.max_pixels or PictureLimits().max_pixels
    name = decode_file(args.source, destination, options, model=args.model, max_pixels=limit)
    out.print(f"decoded into {destination.uri}{name}")
    return 0


def verify(args: argparse.Namespace) -> int:
    from ncbatch.runs.reading import RunReader
    from ncbatch.runs.status import run_status

    output = _open(args, args.output)
    reader = RunReader(output, variant=args.variant)
    code = _report(reader.verify(), "verified: there, hashed as committed and decoded")
    run = run_status(output)
    if run.summary.failed or run.pending:
        out.print(f"{run.summary.failed} rows are failed, {run.pending} images are pending")
    return code


def _report(findings: Iterable[Finding], success: str) -> int:
    fine = wrong = 0
    for finding in findings:
        if finding.problem is None:
            fine += 1
        else:
            wrong += 1
            err.print(f"{finding.image_key} ({finding.variant}): {finding.problem}")
    out.print(f"{fine} pictures {success}" + (f"; {wrong} are not" if wrong else ""))
    return 2 if wrong else 0


def compact(args: argparse.Namespace) -> int:
    from ncbatch.metrics.compact import compact as run_compact
    from ncbatch.runs.spec import read_run

    output = _open(args, args.output)
    read_run(output)
    result = run_compact(output)
    rows = f"{result.rows} rows of {result.units} units"
    out.print(f"manifest {result.manifest}: {rows} in {result.parts} parts")
    return 0


def submit(args: argparse.Namespace) -> int:
    from ncbatch import cli
    from ncbatch.runs import submission

    spec = _spec(args)  # what is wrong with the request is better said here than in a job's log
    _encode_options(args)
    for name in ("corpus", "output"):
        setattr(args, name, open_store(getattr(args, name), _store_options(args), create=True).uri)
    for name in ("model", "manifest"):  # a file's path is of this folder, not of the one the job runs in
        value = getattr(args, name)
        if value and Path(value).exists():
            setattr(args, name, str(Path(value).resolve()))
    root = submission.source_root(args.working_dir)
    client = submission.connect(args.dashboard or submission.DEFAULT_DASHBOARD)
    metadata = {"ncbatch_output": args.output, "ncbatch_digest": spec.digest}
    job = submission.submit(client, cli.encode_arguments(args), metadata, root)
    out.print(job)
    if not args.wait:
        err.print(f"follow it with `ncbatch job follow {job}`, end it with `ncbatch job stop {job}`")
        return 0
    return _follow(client, job)


def _follow(client: Any, job: str) -> int:
    from ncbatch.runs import submission

    try:
        return submission.follow(client, job)
    except KeyboardInterrupt:
        err.print(f"the job goes on; end it with `ncbatch job stop {job}`")
        return 130


def job(args: argparse.Namespace) -> int:
    from ncbatch.runs import submission

    client = submission.connect(args.dashboard or submission.DEFAULT_DASHBOARD)
    if args.action == "follow":
        return _follow(client, args.job)
    if args.action == "logs":
        out.print(submission.logs(client, args.job), end="")
    elif args.action == "status":
        out.print(submission.status(client, args.job))
    else:
        out.print("stopping" if submission.stop(client, args.job) else "it was over already")
    return 0


def models(args: argparse.Namespace) -> int:
    from ncbatch.codec import zoo

    rows = []
    for name in zoo.builtin_models():
        checkpoint = zoo.load_builtin(name)
        info = checkpoint.info
        rows.append((name, info.kind, info.lmbda, info.n, info.m, checkpoint.digest[:16]))
    print_table(("name", "kind", "lmbda", "N", "M", "digest"), rows)
    return 0


def convert(args: argparse.Namespace) -> int:
    from ncbatch.codec import zoo

    checkpoint = zoo.convert(Path(args.source), lmbda=args.lmbda)
    Path(args.destination).write_bytes(checkpoint.to_bytes())
    out.print(f"{args.destination}: lmbda {checkpoint.info.lmbda:g}, digest {checkpoint.digest[:16]}")
    return 0
