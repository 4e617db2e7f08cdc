"""The type of an image once it has been read."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""uint8[height, width, 3]: RGB, row by row."""
