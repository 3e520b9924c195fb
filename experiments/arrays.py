"""What arrays hold, in words that any module may use: those that infer records know nothing of statistics."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
