"""Counter-based random numbers keyed by what they belong to, the same on every device and machine."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """Return a generator that depends on ``key`` alone.

    Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed by a BLAKE2b digest of the
    parts, so that draws for one cell never depend on how many cells came before it.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8").astype(np.uint64)))
