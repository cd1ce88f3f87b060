"""Fast sums over what is stored in an array: they find damage, not forgery."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash


def array_sum(name: str, *arrays: npt.NDArray[Any]) -> str:
    """Return the 128-bit XXH3 sum, as hex, over a name (UTF-8) and the bytes of arrays (C order, little-endian).

    The name is part of it, so that two arrays that were swapped are found. 2 MiB take about 0.1 ms
    (https://github.com/Cyan4973/xxHash).
    """
    total = xxhash.xxh3_128(name.encode())
    for array in arrays:
        total.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).view(np.uint8).data)
    return total.hexdigest()
