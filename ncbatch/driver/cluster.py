"""The Ray cluster a run works on: one that is running, or a local one of our own."""

from __future__ import annotations

import logging
import math
import os
import socket
from typing import Any

import ray
import ray._private.worker
from ray.exceptions import RayError

from ncbatch import signals
from ncbatch.driver import ray_token
from ncbatch.driver.options import PoolConfig
from ncbatch.driver.ray_folder import check_ray_folder, ray_folder
from ncbatch.errors import RunError, UsageError, first_line

log = logging.getLogger(__name__)

_KNOCK_SECONDS = 10.0


def start_ray(address: str | None, size: PoolConfig) -> bool:
    """Connects to a cluster, or starts a local Ray on loopback when no address is known.

    Args:
        address: of a cluster; without one, RAY_ADDRESS, which Ray sets for jobs.

    Returns:
        whether it is a cluster, which nodes may join.

    Raises:
        RunError: no cluster answers there. UsageError: this machine can never have such workers.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    _quieten()
    joined = bool(address) and address != "local"
    with signals.restored():  # ray.init() has a handler of its own for SIGTERM, which exits
        if address and joined:
            log.info("connecting to the Ray cluster at %s", address)
            _connect(address)
        else:
            log.info("starting Ray on this machine")
            _start_local(size)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if size.gpus is not None and size.gpus > gpus and not address:
        raise UsageError(f"--gpus-per-worker {size.gpus:g}, but Ray finds {gpus:g} GPUs on this machine")
    return joined


def _quieten() -> None:
    """Keeps Ray's own messages out of a user's sight; they are in its logs."""
    # That Ray protects itself by a token is no news to somebody who encodes images.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)

    # A page about every dead worker would go to standard output, which is for results. No setting stops it.
    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            log.debug("Ray: %s", line)

    vars(ray._private.worker)["print_to_stdstream"] = to_log


def _connect(address: str) -> None:
    try:
        host = _knock(address)
        ray_token.check(address, host)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except RayError as error:
        raise RunError(ray_token.refusal(f"the Ray cluster at {address}")) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"no Ray cluster answers at {address} ({first_line(error)}); start one with `ray start --head`, "
            "leave out --ray-address and RAY_ADDRESS to work on this machine alone, or set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN if the cluster asks for a token"
        ) from error


def _knock(address: str) -> str:
    """The host of an address; Ray itself would try for many minutes to reach one where nobody listens."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    host = host.strip("[]")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    return host


def _start_local(size: PoolConfig) -> None:
    # More CPUs than there are, where that many workers were asked for: they share them.
    cpus = max(os.cpu_count() or 1, math.ceil((size.workers or 1) * size.cpus))
    check_ray_folder()
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:
        # Ray raises RuntimeError, ValueError, OSError and types of its own, by release and by what is wrong.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"Ray does not start on this machine: {reason}; its logs are in session_latest/logs of "
            f"{ray_folder()}"
        ) from error
