"""Memory of a process that makes large arrays again and again."""

from __future__ import annotations

import numpy as np

LARGEST = 31 << 20
"""Bytes of a block; glibc counts blocks of up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD)."""


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed arrays, up to 62 MiB, for the arrays that come next.

    Without this, glibc returns it to the kernel at once, and every page that is asked for again costs a page fault:
    a fifth of the time in which the decoder reads a whole embedding. glibc learns from the largest block that was freed
    so far, so freeing one is enough. Other C libraries are not changed by it.
    """
    block = np.empty(LARGEST, np.uint8)
    del block
