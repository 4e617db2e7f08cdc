"""The token that a Ray cluster may ask for.

Ray makes one, `~/.ray/auth_token`, the first time a program starts it on a machine (as `ncbatch encode`
does), and a later `ray start --head` then asks for it. Ray's clients send none unless RAY_AUTH_MODE says so.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from importlib import import_module

from ncbatch.errors import RunError

_PROBE_SECONDS = 5.0


def is_used() -> bool:
    """Whether requests carry a token."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def use_if_there(host: str) -> None:
    """Sends this machine's token to a cluster on this machine, unless RAY_AUTH_MODE decides otherwise.

    A cluster elsewhere is another matter: what is a secret here need not be for it.
    """
    if not is_loopback(host):
        return
    try:
        from ray._private.authentication import authentication_token_setup as setup
    except ImportError:  # a Ray that has no tokens yet
        return
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def check(address: str, host: str) -> None:
    """Takes this machine's token where a cluster on it asks for one, and says at once what would not work.

    Ray itself would try for half a minute, with a warning each second. A token that is not asked for must not
    be used: workers that have none could not answer us.

    Args:
        address: host:port of the cluster's GCS; others (auto, ray://...) are left to Ray.

    Raises:
        RunError: the cluster asks for a token that we do not have.
    """
    if "://" in address or not address.rpartition(":")[2].isdigit() or not _refuses(address, {}):
        return
    use_if_there(host)
    if not is_used() or _refuses(address, _header()):
        raise RunError(refusal(f"the Ray cluster at {address}"))


def _header() -> dict[str, str]:
    loader = import_module("ray._raylet").AuthenticationTokenLoader
    return dict(loader.instance().get_token_for_http_header())


def _refuses(address: str, header: dict[str, str]) -> bool:
    """Whether a GCS does not let us in; False where that cannot be told."""
    try:
        grpc = import_module("grpc")
        messages = import_module("ray.core.generated.gcs_service_pb2")
        services = import_module("ray.core.generated.gcs_service_pb2_grpc")
    except ImportError:
        return False
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = services.NodeInfoGcsServiceStub(channel)
        try:
            request = messages.GetClusterIdRequest()
            stub.GetClusterId(request, timeout=_PROBE_SECONDS, metadata=tuple(header.items()))
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusal(where: str) -> str:
    """What to do about a cluster that wants a token, or another one."""
    how = "set RAY_AUTH_TOKEN to the cluster's token, or copy its ~/.ray/auth_token here"
    if not is_used():
        return f"{where} asks for a token; set RAY_AUTH_MODE=token, and {how}"
    return f"{where} does not accept our token, or we have none; {how}"
