"""Arrays that all parts of a data set are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass


Pixels = NDArray[np.uint8]


Labels = NDArray[np.int64]
