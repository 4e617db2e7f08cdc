"""Commands that make a run."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncbatch.cli.common import open_corpus, open_run_store, store_options, store_words
from ncbatch.cli.console import err, out, print_table, progress_display
from ncbatch.cli.dry_run import print_plan
from ncbatch.cli.status import print_summary, summary_content
from ncbatch.errors import UsageError, first_problem
from ncbatch.exit_codes import ExitCode
from ncbatch.store import StoreOptions, join_uri, open_store
from ncbatch.words import size

if TYPE_CHECKING:
    from ncbatch.driver.options import EncodeOptions
    from ncbatch.plan.places import Places
    from ncbatch.plan.request import Request
    from ncbatch.plan.retry import Retry
    from ncbatch.plan.spec import RunSpec

log = logging.getLogger(__name__)

_SHOWN_FAILURES = 5


def make_run_spec(args: argparse.Namespace) -> RunSpec:
    from ncbatch.plan.request import make_spec, read_spec_file

    options = store_options(args)
    request = _request(args)
    if args.spec and request:
        flag = next(iter(request)).replace("_", "-")
        raise UsageError(
            f"--{flag} cannot be given beside --spec; write {flag.replace('-', '_')} into {args.spec}"
        )
    requests = read_spec_file(args.spec, options) if args.spec else [request]
    return make_spec(args.corpus, options, requests, **which_images(args))


def which_images(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of a run's inputs."""
    patterns = {name: getattr(args, name) or () for name in ("include", "exclude")}
    return {**patterns, "manifest": args.manifest}


def _request(args: argparse.Namespace) -> Request:
    """What the flags say of a variant."""
    from ncbatch.plan.request import FIELDS

    return {n: v for n in FIELDS if (v := getattr(args, n, None)) is not None and v is not False}


def encode_options(args: argparse.Namespace) -> EncodeOptions:
    from ncbatch.driver.options import Deadlines, EncodeOptions, PoolConfig
    from ncbatch.driver.schedule import Policy
    from ncbatch.worker.options import WorkerOptions

    return EncodeOptions(
        store=store_options(args),
        pool=PoolConfig(args.workers, args.cpus_per_worker, args.gpus_per_worker),
        ray_address=args.ray_address,
        worker=WorkerOptions(args.batch_size, trace_every=args.trace),
        unit_seconds=args.unit_seconds,
        policy=Policy(failed_share=args.max_failed),
        deadlines=Deadlines(floor=args.min_deadline),
        force=args.force,
        retry=_retry(args.retry_failed),
    )


def _retry(classes: str | None) -> Retry | None:
    from ncbatch.plan.retry import Retry

    if classes is None:
        return None
    return Retry(frozenset(classes.split(",")) if classes else None)


def encode(args: argparse.Namespace) -> int:
    options = encode_options(args)
    open_corpus(args, args.corpus)
    spec = make_run_spec(args)
    if args.dry_run:
        return print_plan(args, spec, options)
    return encode_and_summarise(args, spec, options)


def encode_and_summarise(args: argparse.Namespace, spec: RunSpec, options: EncodeOptions) -> int:
    places = _checked(args, spec, options)
    from ncbatch.cli.progress_line import progress_line
    from ncbatch.driver.encode_corpus import encode_corpus  # torch and Ray, which take seconds

    with progress_display() as show:
        summary = encode_corpus(places, options, lambda s: show(progress_line(s), s.is_over))
    with contextlib.suppress(BrokenPipeError):  # the exit code is the run's, whoever reads
        if getattr(args, "json", False):
            out.print_json(json.dumps({"output": args.output} | summary_content(summary)))
        else:
            print_summary(summary, several=len(spec.variants) > 1)
            out.print(f"bitstreams and table: {args.output}; next: {_next(args)}")
    if not summary.failed:
        return 0
    _print_failures(args, summary.failed)
    return ExitCode.FAILED


def _next(args: argparse.Namespace) -> str:
    """What to do with a run."""
    command = shlex.join(["ncbatch", "report", args.output, *store_words(args)])
    return f"`{command}`; query, decode and verify read it, too"


def _checked(args: argparse.Namespace, spec: RunSpec, options: EncodeOptions) -> Places:
    """The places of a run; says what is wrong with places and programs before torch and Ray are imported."""
    from ncbatch.plan.places import check_programs, open_places

    places = open_places(spec, args.output, options.store)
    if not options.ray_address and not os.environ.get("RAY_ADDRESS"):  # elsewhere, workers' machines count
        check_programs(spec)
    return places


def pack(args: argparse.Namespace) -> int:
    import pydantic

    from ncbatch.plan.request import make_variant
    from ncbatch.store.objects import folder_of, require_object

    options = store_options(args)
    if not args.out.endswith(".ncbp"):
        raise UsageError(f"--out {args.out}: the name of a pack ends in .ncbp")
    destination, name = folder_of(args.out, options, create=True)
    destination.check()
    if not args.overwrite and destination.head(name) is not None:
        raise UsageError(f"--out {args.out} is there already; choose another name, or add --overwrite")
    try:
        variant = make_variant(_request(args), options)
    except pydantic.ValidationError as error:
        raise UsageError(first_problem(error)) from error
    for uri in [args.side_info] if args.side_info else []:
        require_object(uri, options)
    uris = _files(args.images, options)
    from ncbatch.decoding.files import named_pack, pack_files

    packed = pack_files(uris, variant, options, args.side_info)
    data = packed.pack.data if args.no_names else named_pack(packed.pack.data, uris)
    destination.put(name, data)
    rows = [
        (uri, e.outcome.bytes, e.outcome.bytes * 8 / (e.width * e.height), e.outcome.psnr,
         "yes" if e.outcome.bits_back is not None else "no")
        for uri, e in zip(uris, packed.encoded, strict=True)
    ]  # fmt: skip
    print_table(("image", "bytes", "bpp", "PSNR dB", "bits-back"), rows)
    out.print(f"{args.out}: {size(len(data))}")
    return 0


def _files(uris: Sequence[str], options: StoreOptions) -> list[str]:
    """Files, and in the place of each folder the images in it.

    Raises:
        UsageError: a file does not exist, or a folder has no images.
    """
    from ncbatch.store.objects import require_object

    found: list[str] = []
    for uri in uris:
        if not (uri.endswith("/") or Path(uri).is_dir()):
            require_object(uri, options)
            found.append(uri)
            continue
        from ncbatch.plan.corpus import list_corpus

        folder = open_store(uri, options)
        folder.check()
        keys = [image.key for image in list_corpus(folder).images]
        if not keys:
            raise UsageError(f"the folder {uri} holds no images")
        found += [join_uri(uri, key) for key in keys]
    return found


def _print_failures(args: argparse.Namespace, count: int) -> None:
    from ncbatch.metrics.query import query as run_query

    table = run_query(
        open_run_store(args, args.output),
        "select image_key, error_class, error from metrics where status = 'failed' "
        f"order by error_class, image_key limit {_SHOWN_FAILURES}",
    )
    for row in table.to_pylist():
        err.print(f"failed: {row['image_key']}: {row['error_class']}: {row['error']}")
    if count > _SHOWN_FAILURES:
        err.print(f"... and {count - _SHOWN_FAILURES} more")
    command = shlex.join(["ncbatch", "failures", args.output, *store_words(args)])
    err.print(f"`{command}` says what can be done about them")
