"""The demonstration: the main job on photographs that scikit-image ships."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ncbatch.errors import NcbatchError

# Public-domain and freely licensed photographs; sizes from 451 x 300 to 1000 x 872.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)
STEPS = 200


def copy_photographs(folder: Path) -> None:
    """Puts the photographs into a folder, those that are not there yet.

    Raises:
        NcbatchError: this scikit-image has others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        source, target = files("skimage.data") / name, folder / name
        if target.exists():
            continue
        if not source.is_file():
            raise NcbatchError(f"the installed scikit-image has no {name}; install a release from 0.25 on")
        target.write_bytes(source.read_bytes())
