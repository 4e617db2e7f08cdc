"""Every object key of a run.

run.json                                  the spec and the first plan; written last, create-only
inputs/<digest>.parquet                   content of inputs whose etag changed, but not their size
generations/<g>.json                      a later plan: inputs added or changed, rows retried, damage repaired
plan/<g>-<digest>-<part>.parquet          one row per (unit, image)
models/<digest>.safetensors               the checkpoint of each variant
bitstreams/<variant>/<image key>.ncb      one image; classical codecs have suffixes of their own
bitstreams/<hh>/<variant>/<image key>.ncb where a run shards them by a hash of the image's key
packs/<variant>/<unit>-<digest>.ncbp      several images, where a variant uses bits-back
tars/<variant>/<unit>-<digest>.tar        the bitstreams of a unit, where a run writes tars
units/<hh>/<unit>.parquet                 the commit of a unit
wip/<hh>/<unit>.safetensors               a long unit's state between steps
wip/<hh>/<unit>/<hash>.safetensors        of an image that is done, and waits for the rest of its pack
wip/<hh>/<unit>/<attempt>-<n>.tar         bitstreams that are done, and wait for the rest of their tar
traces/<hh>/<unit>.parquet                how a unit's refinements went, where a run was told to trace them
recent/part-<n>.parquet                   the newest commits, some tens in each; until metrics/ has them
metrics/part-<n>.parquet                  parts of the compacted table
checks/<check>.json                       what a verification or decoding on a cluster looks at, and its plan
checks/<check>.done.json                  that it is finished, and what it found in numbers
checking/<check>/...                      its plan, commits, lease and status, as those of a run
findings/<check>-<n>.parquet              what it found: one row for each image
lease.json, status.json                   who drives, and how far it is; advisory

The compacted table is the Parquet objects below `metrics/`, and nothing else lies there: whatever reads a
folder of Parquet files reads it as it is. Its parts are numbered, each is created once and never changed or
replaced, and each unit's rows are in one part only. Runs that were compacted before that (into parts named by
their hash, listed in manifests) are read, too, and put in order by the next compaction.
"""

import hashlib
import re
from urllib.parse import quote, unquote

RUN = "run.json"
LEASE = "lease.json"
STATUS = "status.json"
ORDER = "order.json"
GENERATIONS_PREFIX = "generations/"
INPUTS_PREFIX = "inputs/"
BITSTREAMS_PREFIX = "bitstreams/"
WIP_PREFIX = "wip/"
UNITS_PREFIX = "units/"
TRACES_PREFIX = "traces/"
PACKS_PREFIX = "packs/"
TARS_PREFIX = "tars/"
PLAN_PREFIX = "plan/"
PROBE_PREFIX = "probe/"
RECENT_PREFIX = "recent/"
METRICS_PREFIX = "metrics/"
CHECKS_PREFIX = "checks/"
CHECKING_PREFIX = "checking/"
FINDINGS_PREFIX = "findings/"

_UNIT = re.compile(rf"{UNITS_PREFIX}[^/]+/([^/]+)\.parquet")
_OF_UNIT = re.compile(
    rf"(?:{WIP_PREFIX}|{TRACES_PREFIX})[0-9a-f]{{2}}/([0-9a-f]{{32}})(?:\..*|/.*)"
    rf"|(?:{PACKS_PREFIX}|{TARS_PREFIX})[^/]+/([0-9a-f]{{32}})-[0-9a-f]{{16}}\.(?:ncbp|tar)"
)
_PART = re.compile(rf"{METRICS_PREFIX}part-([0-9]{{8}})\.parquet")
_RECENT = re.compile(rf"{RECENT_PREFIX}part-([0-9]{{8}})\.parquet")
_CHECK = re.compile(rf"{CHECKS_PREFIX}([a-z]+-[0-9]{{8}})\.json")
_DONE = re.compile(rf"{CHECKS_PREFIX}([a-z]+-[0-9]{{8}})\.done\.json")
_CHECKING = re.compile(rf"{CHECKING_PREFIX}([a-z]+-[0-9]{{8}})/.*")
_GENERATION = re.compile(rf"{GENERATIONS_PREFIX}([0-9]+)\.json")
_OLD = re.compile(rf"{METRICS_PREFIX}(part-[0-9a-f]{{16}}\.parquet|manifest-[0-9]+\.json)")

_SEGMENT_BYTES = 180  # local file systems take 255; an attempt's name and the suffixes must fit, too
_KEY_BYTES = 700  # S3 takes 1,024, prefix of the output included
# What may stand in an object name as it is. "%" and "~" are ours, the rest upsets one server or another.
_SAFE = " !$&'()+,-.=@_"
_OUR_SUFFIX = re.compile(r"\.(ncb|png|jpg|webp|avif|heic|bpg)$")
_ATTEMPT = r"[0-9a-f]{8}-\d+"
# What follows the dot after an image's name in the key of its bitstream.
_BITSTREAM = re.compile(rf"(.+?)(?:\.{_ATTEMPT})?\.[a-z0-9]+")
_GENERATION_OR_ATTEMPT = re.compile(rf"\.(g\d+|{_ATTEMPT})$")


def generation_key(generation: int) -> str:
    """The key of a later plan; generation 0 is in `run.json`."""
    return f"{GENERATIONS_PREFIX}{generation:05d}.json"


def number_of_generation(key: str) -> int | None:
    """The number of the later plan at `key`, or None for any other object."""
    match = _GENERATION.fullmatch(key)
    return int(match[1]) if match else None


def plan_key(generation: int, digest: str, part: int) -> str:
    """The key of one part of a generation's plan.

    It holds a digest of the content, so that what a planner left behind when it was killed never stands in
    the way of another plan.
    """
    return f"{PLAN_PREFIX}{generation:05d}-{digest[:16]}-{part:05d}.parquet"


def inputs_key(digest: str) -> str:
    """The key of what was found out about inputs; digest: of that content."""
    return f"{INPUTS_PREFIX}{digest[:16]}.parquet"


def model_key(digest: str) -> str:
    """The key of the checkpoint with this digest."""
    return f"models/{digest}.safetensors"


def wip_key(unit: str) -> str:
    """The key of the saved state of a unit that is being encoded."""
    return f"{WIP_PREFIX}{unit[:2]}/{unit}.safetensors"


def kept_prefix(unit: str) -> str:
    """The prefix of what is kept of a unit's images that are done and wait for the rest."""
    return f"{WIP_PREFIX}{unit[:2]}/{unit}/"


def kept_tar_key(unit: str, name: str) -> str:
    """The key of a tar of bitstreams that wait for the rest of their unit."""
    return f"{kept_prefix(unit)}{name}.tar"


def bitstream_stem(variant: str, image_key: str, generation: int, shards: int = 0) -> str:
    """The key of an image's bitstream up to the attempt and the suffix.

    Args:
        shards: hexadecimal digits of a hash of the image's key that stand before the variant, so that
            requests spread over many prefixes; 0: none do.
    """
    # Without this an image "a.g1" would share its key with generation 1 of the image "a".
    name = _GENERATION_OR_ATTEMPT.sub(r"%2E\1", safe_name(image_key))
    shard = hashlib.sha256(image_key.encode("utf-8", "surrogatepass")).hexdigest()[:shards]
    stem = f"{BITSTREAMS_PREFIX}{shard}/{variant}/{name}" if shard else f"{BITSTREAMS_PREFIX}{variant}/{name}"
    return f"{stem}.g{generation}" if generation else stem


def bitstream_key(
    variant: str,
    image_key: str,
    generation: int,
    attempt: str | None = None,
    suffix: str = "ncb",
    shards: int = 0,
) -> str:
    """The key of an image's bitstream.

    Args:
        attempt: names the object on stores that ignore create-only puts, where two attempts at one key could
            exchange the bytes under a committed row; None elsewhere.
        suffix: the suffix of the variant's files, without the dot.
        shards: as of `bitstream_stem`.
    """
    stem = bitstream_stem(variant, image_key, generation, shards)
    return f"{stem}.{attempt}.{suffix}" if attempt else f"{stem}.{suffix}"


def stem_of_bitstream(key: str) -> str | None:
    """The stem of the bitstream at `key`, as `bitstream_stem` makes it; None for any other object."""
    match = _BITSTREAM.fullmatch(key) if key.startswith(BITSTREAMS_PREFIX) else None
    return match[1] if match else None


def unit_in_key(key: str) -> str | None:
    """The unit that a pack, a tar, a trace or work in progress is of; None for any other object."""
    match = _OF_UNIT.fullmatch(key)
    return (match[1] or match[2]) if match else None


def pack_key(variant: str, unit: str, digest: str) -> str:
    """The key of a unit's pack.

    It holds a digest of the content: attempts that make the same bytes share one object, and others never
    meet.
    """
    return f"{PACKS_PREFIX}{variant}/{unit}-{digest[:16]}.ncbp"


def tars_prefix(variant: str, unit: str) -> str:
    """The prefix of a unit's tars, of which one counts: that of the commit."""
    return f"{TARS_PREFIX}{variant}/{unit}-"


def tar_key(variant: str, unit: str, digest: str) -> str:
    """The key of a tar of a unit's bitstreams; digest: of its content, as in `pack_key`."""
    return f"{tars_prefix(variant, unit)}{digest[:16]}.tar"


def attempt_named(stem: str, suffix: str = "ncb") -> re.Pattern[str]:
    """A pattern for the keys below a bitstream's stem that are named by an attempt."""
    return re.compile(re.escape(stem) + rf"\.{_ATTEMPT}\.{suffix}")


def safe_name(image_key: str) -> str:
    """A relative path for an image's key that every store and file system takes.

    Distinct keys have distinct paths. No segment is empty, hidden, `.` or `..`, or too long, none has a
    character that a server may refuse, and no folder is called as one of our files could be.
    """
    segments = [_safe_segment(s, folder=True) for s in image_key.split("/")[:-1]]
    segments.append(_safe_segment(image_key.rsplit("/", 1)[-1], folder=False))
    name = "/".join(segments)
    if len(name) > _KEY_BYTES:
        digest = hashlib.sha256(image_key.encode()).hexdigest()[:32]
        return f"~{digest}/{segments[-1]}"
    return name


def unescaped(name: str) -> str:
    """The last part of an image's key, given what `safe_name` made of it.

    A name that is none of `safe_name`'s comes back as it is.
    """
    try:
        text = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    return text if "/" not in text and safe_name(text) == name else name


def _safe_segment(segment: str, *, folder: bool) -> str:
    escaped = quote(segment, safe=_SAFE).replace("~", "%7E")  # quote leaves "~" alone
    if not escaped:
        return "%"
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    if escaped.endswith((".", " ")):
        escaped = f"{escaped[:-1]}%{ord(escaped[-1]):02X}"
    if folder:
        escaped = _OUR_SUFFIX.sub(r"%2E\1", escaped)
    if len(escaped) > _SEGMENT_BYTES:
        digest = hashlib.sha256(segment.encode()).hexdigest()[:32]
        return f"{escaped[: _SEGMENT_BYTES - 40]}~{digest}"
    return escaped


def unit_key(unit: str) -> str:
    """The key of a unit's commit."""
    return f"{UNITS_PREFIX}{unit[:2]}/{unit}.parquet"


def trace_key(unit: str) -> str:
    """The key of the traces of a unit's refinements."""
    return f"{TRACES_PREFIX}{unit[:2]}/{unit}.parquet"


def part_key(n: int) -> str:
    """The key of the n-th part of the compacted table, counted from 1."""
    return f"{METRICS_PREFIX}part-{n:08d}.parquet"


def recent_key(n: int) -> str:
    """The key of the n-th merger of new commits, counted from 1."""
    return f"{RECENT_PREFIX}part-{n:08d}.parquet"


def unit_of_key(key: str) -> str | None:
    """The unit whose commit lies at `key`, or None for any other object."""
    match = _UNIT.fullmatch(key)
    return match[1] if match else None


def number_of_part(key: str) -> int | None:
    """The number of the part at `key`, or None for any other object."""
    match = _PART.fullmatch(key)
    return int(match[1]) if match else None


def number_of_recent(key: str) -> int | None:
    """The number of the merger of new commits at `key`, or None for any other object."""
    match = _RECENT.fullmatch(key)
    return int(match[1]) if match else None


def check_name(kind: str, n: int) -> str:
    """The name of the n-th check of a kind, counted from 1."""
    return f"{kind}-{n:08d}"


def check_key(name: str) -> str:
    """The key of what a check of this name looks at."""
    return f"{CHECKS_PREFIX}{name}.json"


def check_done_key(name: str) -> str:
    """The key that tells that a check is finished."""
    return f"{CHECKS_PREFIX}{name}.done.json"


def checking_prefix(name: str) -> str:
    """The folder of a check's plan, commits, lease and status."""
    return f"{CHECKING_PREFIX}{name}/"


def findings_key(name: str, n: int) -> str:
    """The key of the n-th part of what a check found, counted from 1."""
    return f"{FINDINGS_PREFIX}{name}-{n:08d}.parquet"


def check_of_key(key: str) -> str | None:
    """The check that the object at `key` describes, or None for any other object."""
    match = _CHECK.fullmatch(key)
    return match[1] if match else None


def done_check_of_key(key: str) -> str | None:
    """The check of which the object at `key` says that it is finished, or None for any other object."""
    match = _DONE.fullmatch(key)
    return match[1] if match else None


def check_in_key(key: str) -> str | None:
    """The check in whose folder the object at `key` lies, or None for any other object."""
    match = _CHECKING.fullmatch(key)
    return match[1] if match else None


def is_of_old_layout(key: str) -> bool:
    """Whether the key is one of a part or manifest in the first layout of the compacted table."""
    return _OLD.fullmatch(key) is not None
