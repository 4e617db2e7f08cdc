"""Every metric that there is. Ray exports them with `ray_` before their names, and with the label `run`.

No label has a value per image, unit or attempt: series are as many as a run has variants, error classes,
nodes, and drivers one after the other.
"""

from __future__ import annotations

from ncbatch.telemetry.recorder import Counter, Gauge, Histogram, Instrument

_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)

# The driver's: each commit once.
IMAGES = Counter(
    "ncbatch_images_total",
    "Rows that were committed; error_class is empty where the status is ok.",
    ("variant", "status", "error_class"),
)
IMAGE_BYTES = Counter("ncbatch_image_bytes_total", "Bytes of the images of ok rows.", ("variant",))
BITSTREAM_BYTES = Counter(
    "ncbatch_bitstream_bytes_total", "Bytes of the bitstreams of ok rows.", ("variant",)
)
LOST_CALLS = Counter(
    "ncbatch_lost_calls_total",
    "Calls whose worker died, hung, raised or had a device that failed, by the reason.",
    ("reason",),
)
COST = Counter(
    "ncbatch_cost_total", "What the command's workers have cost, by --price-per-hour and in its currency."
)
RUN_STATE = Gauge("ncbatch_run_state", "1 for the state that the run is in, 0 for the others.", ("state",))
RUN_IMAGES = Gauge(
    "ncbatch_run_images", "Images of the run, those of earlier commands included.", ("variant", "status")
)
RUN_UNITS = Gauge("ncbatch_run_units", "Units of the run: committed, in flight, or waiting.", ("state",))
WORKERS = Gauge("ncbatch_workers", "Workers: busy, idle, or starting.", ("state",))
QUARANTINED = Gauge(
    "ncbatch_quarantined_workers",
    "Workers on a node or device that is kept from work, since it fails what others do.",
    ("node", "device"),
)
PROGRESS = Gauge("ncbatch_progress_ratio", "Share of the run's work that is done, images in flight included.")
REMAINING = Gauge("ncbatch_remaining_seconds", "Estimated time until the last unit is committed.")
LAST_COMMIT = Gauge(
    "ncbatch_last_commit_timestamp_seconds",
    "When a unit was committed last, or when the driver began where none has been; Unix time.",
    ("driver",),
)
ENDED = Counter(
    "ncbatch_drivers_ended_total",
    "Drivers that have ended by themselves, by the state that they left the run in. One that is gone and is "
    "not counted was killed, or ended with an error.",
    ("driver", "state"),
)

# The workers'.
PIXELS = Counter("ncbatch_pixels_total", "Pixels of the images of ok rows.", ("variant",))
STEPS = Counter(
    "ncbatch_refinement_steps_total", "Steps of refinement, each image's counted by itself.", ("variant",)
)
BPP = Histogram(
    "ncbatch_image_bits_per_pixel",
    "Bits per pixel of ok rows.",
    ("variant",),
    (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 24.0),
)
PSNR = Histogram(
    "ncbatch_image_psnr_decibels",
    "PSNR of ok rows, without images that came back exactly.",
    ("variant",),
    (20.0, 24.0, 26.0, 28.0, 30.0, 32.0, 34.0, 36.0, 38.0, 40.0, 42.0, 45.0, 50.0, 60.0),
)
ENCODE_SECONDS = Histogram(
    "ncbatch_image_encode_seconds",
    "Wall time of an image's encoding, of its whole batch where several were refined together.",
    ("variant",),
    _SECONDS,
)
REFINEMENT_SECONDS = Histogram(
    "ncbatch_image_device_seconds",
    "An image's share of the device's time: refinement without coding, decode check and measures.",
    ("variant",),
    _SECONDS,
)
BUSY_SECONDS = Counter(
    "ncbatch_device_busy_seconds_total", "Time in which workers' devices compute, and wait for nothing."
)
WORKER_SECONDS = Counter(
    "ncbatch_worker_seconds_total", "Time for which workers have been there, idle or not."
)

# Of each process that uses S3.
STORE_REQUESTS = Counter(
    "ncbatch_store_requests_total",
    "Requests to the store, each try by itself; code is the HTTP status, or none where no answer came.",
    ("operation", "code"),
)
STORE_RETRIES = Counter(
    "ncbatch_store_retries_total", "Requests that failed in passing and were to be tried again."
)
STORE_SECONDS = Histogram(
    "ncbatch_store_request_seconds",
    "From a request until its answer, without the body of a GET.",
    ("operation",),
    (0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0),
)
STORE_BYTES = Counter("ncbatch_store_bytes_total", "Bytes of objects, read or written.", ("direction",))

INSTRUMENTS: tuple[Instrument, ...] = tuple(
    value for value in dict(globals()).values() if isinstance(value, Instrument)
)
"""All of the above."""
