"""Where decoded images go: a folder, or the one file that was named; what stands there is not lost."""

from __future__ import annotations

from dataclasses import dataclass

from ncbatch.errors import UsageError
from ncbatch.runs.objects import folder_of
from ncbatch.store import Store, StoreOptions, open_store


class OccupiedError(UsageError):
    """Something else stands where a decoded image belongs."""


@dataclass(frozen=True)
class Destination:
    """Where decoding writes.

    file: the name of the only object to write, where one was named; else objects get names of their own.
    overwrite: whether other contents that stand there are replaced.
    """

    store: Store
    file: str | None = None
    overwrite: bool = False

    def write(self, name: str, data: bytes) -> str:
        """Writes an object, unless the very same stands there already, and returns its name.

        Raises:
            OccupiedError: other contents stand there, and are not to be replaced.
        """
        name = self.file or name
        if self.overwrite:
            self.store.put(name, data)
        elif not self.store.put_if_absent(name, data):
            raise OccupiedError(
                f"{self.store.uri}{name} is there already, with other contents; "
                "use another destination, or --overwrite"
            )
        return name


def open_destination(place: str, options: StoreOptions, *, one_image: bool, overwrite: bool) -> Destination:
    """The destination that a user named.

    Args:
        one_image: whether it is for one image, which may go into a file that is named.

    Raises:
        UsageError: a file is named for several images.
    """
    if place.lower().endswith(".png"):
        parent, name = folder_of(place, options, create=True)
        if not any(parent.list(f"{name}/")):  # a folder may be called that, too
            if not one_image:
                raise UsageError(f"{place} names one file, and there are several images; name a folder")
            return Destination(parent, name, overwrite)
    return Destination(open_store(place, options, create=True), overwrite=overwrite)
