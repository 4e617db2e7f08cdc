"""The token that a Ray cluster may ask for.

Ray makes one, `~/.ray/auth_token`, the first time a program starts it on a machine (as `ncbatch encode`
does), and a later `ray start --head` then asks for it. Ray's clients send none unless RAY_AUTH_MODE says so.
"""

from __future__ import annotations

import ipaddress
import logging
import os


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


def is_loopback(host: str) -> bool:
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
