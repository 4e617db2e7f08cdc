"""Links from a report to objects beside it: relative, so that they work wherever both were copied to."""

from __future__ import annotations

import posixpath
from urllib.parse import quote, unquote_to_bytes, urlsplit

from ncbatch.store import LocalStore, Store
from ncbatch.store.local_names import name_of_key


class Links:
    """Links to the objects of one store from a page at the root of another one."""

    def __init__(self, page: Store, target: Store, *, served: bool = False) -> None:
        """served: the page is seen through a server that has nothing but the page."""
        self._target = target
        self._base = None if served else _between(page.uri, target.uri)

    def href(self, key: str) -> str | None:
        """The relative URL of an object, or None where it is in another bucket or on another machine."""
        if self._base is None:
            return None
        name = name_of_key(key) if isinstance(self._target, LocalStore) else key
        return f"{self._base}{quote(name)}"

    def uri(self, key: str) -> str:
        """The object's own URI, for `ncbatch` and other tools."""
        return f"{self._target.uri}{key}"


def _between(page: str, target: str) -> str | None:
    """The relative URL of a folder; with a slash at its end unless it is the page's own."""
    here, there = urlsplit(page), urlsplit(target)
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        return None
    start, end = (
        unquote_to_bytes(p.path) if here.scheme == "file" else p.path.encode() for p in (here, there)
    )
    relative = posixpath.relpath(end or b"/", start or b"/")
    return "" if relative == b"." else f"{quote(relative)}/"
