"""The bytes of a shard: the chunks of several rows, one after the other, and then an index of them.

The index has two little-endian uint64 for each row, where its chunk begins and how long it is, both 2^64 - 1 where
there is none, and then the CRC32C of these values (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/).
"""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt

from hela_store.errors import StoreError

NONE = 2**64 - 1
SUM_BYTES = 4
Index = npt.NDArray[np.uint64]
"""Where the chunk of each row begins and how long it is, (rows, 2)."""
DAMAGED = "its index is damaged, so that none of its embeddings can be found; run `hela-store verify --repair`"


def index_bytes(rows: int) -> int:
    """Return the length of the index of a shard of so many rows."""
    return 16 * rows + SUM_BYTES


def parse_index(data: bytes, rows: int, size: int) -> Index:
    """Return the index of a shard.

    Parameters
    ----------
    data : bytes
        The last :func:`index_bytes` of the shard.
    rows : int
        How many rows it is for.
    size : int
        Length of the whole shard.

    Raises
    ------
    StoreError
        It is cut short, or not what was written.
    """
    body, sum_ = data[:-SUM_BYTES], data[-SUM_BYTES:]
    if len(data) != index_bytes(rows) or google_crc32c.value(body) != int.from_bytes(sum_, "little"):
        raise StoreError(DAMAGED)
    index = np.frombuffer(body, "<u8").reshape(rows, 2).astype(np.uint64)
    ends = [int(begin) + int(length) for begin, length in index if begin != NONE]
    if max(ends, default=0) > size - len(data):
        raise StoreError(DAMAGED)
    return index


def find(index: Index, number: int) -> tuple[int, int] | None:
    """Return where the chunk of a row begins and ends, None where there is none."""
    begin, length = (int(value) for value in index[number])
    return None if begin == NONE else (begin, begin + length)


def pack(chunks: Sequence[bytes | None]) -> bytes:
    """Return a shard of these chunks, the same bytes that Zarr writes for them."""
    index = np.full((len(chunks), 2), NONE, "<u8")
    place = 0
    for number, chunk in enumerate(chunks):
        if chunk is not None:
            index[number] = place, len(chunk)
            place += len(chunk)
    body = index.tobytes()
    parts = (*(chunk for chunk in chunks if chunk is not None), body)
    return b"".join(parts) + google_crc32c.value(body).to_bytes(SUM_BYTES, "little")


def unpack(data: bytes, rows: int) -> list[bytes | None]:
    """Return the chunk of each row of a shard; StoreError where the index is damaged."""
    index = parse_index(data[-index_bytes(rows) :], rows, len(data))
    places = [find(index, number) for number in range(rows)]
    return [data[place[0] : place[1]] if place else None for place in places]
