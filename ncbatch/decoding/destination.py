"""Where decoded images are written: into a folder, or to the one file that was named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ncbatch.errors import UsageError
from ncbatch.plan.corpus import SUFFIXES
from ncbatch.store import (
    DestinationRefused,
    Obstructed,
    Store,
    StoreError,
    StoreFull,
    StoreOptions,
    StoreUnavailable,
    open_store,
)
from ncbatch.store.objects import folder_of


class OccupiedError(UsageError):
    """Something else stands where a decoded image belongs."""


@dataclass(frozen=True)
class Destination:
    """Where decoding writes.

    Attributes:
        store: the folder.
        file: the name of the only object to write, where one was named; None where objects have names of
            their own.
        overwrite: whether other contents that stand there are replaced.
        tar_bytes: from which size on a tar takes no further image; None: images are objects of their own.
    """

    store: Store
    file: str | None = None
    overwrite: bool = False
    tar_bytes: int | None = None

    def write(self, name: str, data: bytes) -> str:
        """Writes an object, unless the very same contents stand there already, and returns its name.

        Raises:
            OccupiedError: other contents stand there and are not to be replaced, or a folder or file is in
                the way.
            DestinationRefused: nothing can be written.
        """
        name = self.file or name
        try:
            if self.overwrite:
                self.store.put(name, data)
            elif not self.store.put_if_absent(name, data):
                raise OccupiedError(
                    f"{self.store.uri}{name} is there already, with other contents; "
                    "use another destination, or --overwrite"
                )
        except Obstructed as error:
            raise OccupiedError(str(error)) from error
        except (StoreFull, StoreUnavailable):  # which may be over soon
            raise
        except StoreError as error:
            raise DestinationRefused(str(error)) from error
        return name


TAR_BYTES = 256 << 20
"""As many as are held in memory until they are written, and as is usual for webdataset's shards."""

_NOT_PNG = (SUFFIXES | {"bpg", "ppm"}) - {"png"}


def _suffix(place: str) -> str:
    """The suffix of the file that a place names; empty where a slash at the end says that it is a folder."""
    return PurePosixPath("" if place.endswith("/") else place).suffix.lstrip(".").lower()


def _is_folder(place: str, options: StoreOptions) -> bool:
    """Whether the place is a folder already, whatever its name looks like."""
    try:
        store = open_store(place, options)
    except StoreError:
        return False
    return not place.lower().startswith("s3://") or any(True for _ in store.list())


def open_destination(place: str, options: StoreOptions, *, one_image: bool, overwrite: bool) -> Destination:
    """The destination that a user named.

    Args:
        place: a URI or path.
        options: how to reach an S3 server.
        one_image: whether a single image will be written, which may go to a file that is named.

    Raises:
        UsageError: a file is named for several images, or one that is no PNG.
    """
    if _suffix(place) in _NOT_PNG and not _is_folder(place, options):
        raise UsageError(
            f"{place}: decode writes PNG files; end the name in .png for a single image, or name a folder"
        )
    if place.lower().endswith(".png"):
        parent, name = folder_of(place, options, create=True)
        if not any(parent.list(f"{name}/")):  # a folder may be called that, too
            if not one_image:
                raise UsageError(f"{place} names one file, and there are several images; name a folder")
            return Destination(parent, name, overwrite)
    return Destination(open_store(place, options, create=True), overwrite=overwrite)
