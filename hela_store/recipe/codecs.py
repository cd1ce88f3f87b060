"""Say how embeddings are stored: core Zarr v3 codecs only, so that any Zarr reader opens them.

Lossy rounding happens to the array before it is written (``BitRound`` as a stored codec is outside the v3
specification); what is in the ledger is the digest of the rounded values.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hela_store.errors import RecipeError

if TYPE_CHECKING:
    from zarr.abc.codec import BytesBytesCodec

MANTISSA_BITS = {"float16": 10, "float32": 23}
LZ4_LEVEL = 1
ZSTD_LEVEL = 3
NAMES = ("raw", "lz4", "zstd", "bitround:<keepbits>", "int8")
INT8 = "int8"
LARGEST = 127
LEAST_EXPONENT = {"float16": -24, "float32": -126}
"""Exponents of the smallest steps that a type can hold."""
INT8_ERROR = 0.02
"""Relative error (L2) of an embedding under ``int8`` from which it counts as another."""


@dataclass(frozen=True)
class Codec:
    """One way of storing: ``prepare`` the values, ``compress`` or ``encode`` the bytes.

    Attributes
    ----------
    name : str
        ``"raw"``, ``"lz4"``, ``"zstd"``, ``"bitround:<keepbits>"`` or ``"int8"``.
    compressor : str
        ``""``, ``"lz4"`` or ``"zstd"``.
    keepbits : int or None
        Mantissa bits kept of each value; None keeps all.
    """

    name: str
    compressor: Literal["", "lz4", "zstd"]
    keepbits: int | None = None

    @property
    def level(self) -> int:
        """Level at which Blosc compresses, 1 to 9."""
        return LZ4_LEVEL if self.compressor == "lz4" else ZSTD_LEVEL

    def prepare(self, array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Return the values as they will be stored: rounded to nearest even (Kloewer et al. 2021), or as they are.

        Parameters
        ----------
        array : float16 or float32
            For ``int8`` one view: (256, 64, 64), CHW, or tokens, (64, 64, C).
        """
        if self.name == INT8:
            return _in_steps(array)
        if self.keepbits is None:
            return array
        from numcodecs import BitRound

        rounded = np.asarray(BitRound(self.keepbits).encode(np.ascontiguousarray(array)))
        return rounded.view(array.dtype)

    def compress(self, itemsize: int) -> tuple[BytesBytesCodec, ...]:
        """Return Zarr's compressors for values of ``itemsize`` bytes."""
        if not self.compressor:
            return ()
        from zarr.codecs import BloscCodec

        return (BloscCodec(typesize=itemsize, cname=self.compressor, clevel=self.level, shuffle="bitshuffle"),)

    def encode(self, array: npt.NDArray[np.floating]) -> bytes:
        """Return the bytes of a chunk, which are those that Zarr writes with :meth:`compress`, in a third of the time.

        Parameters
        ----------
        array : float16 or float32
            What :meth:`prepare` returned.
        """
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        if not self.compressor:
            return little.tobytes()
        from numcodecs import blosc

        return bytes(blosc.compress(little, self.compressor.encode(), self.level, blosc.BITSHUFFLE))


def parse_codec(name: str, dtype: str = "float16") -> Codec:
    """Return the codec a recipe names.

    Parameters
    ----------
    name : str
        ``"raw"``, ``"lz4"``, ``"zstd"``, ``"bitround:<keepbits>"`` (rounded, then zstd), or ``"int8"`` (each channel in
        255 even steps, then zstd).
    dtype : str
        ``"float16"`` (keepbits 1 to 10) or ``"float32"`` (1 to 23).

    Raises
    ------
    RecipeError
        Unknown name (the nearest known one is named), or keepbits out of range.
    """
    plain = {"raw": Codec("raw", ""), "lz4": Codec("lz4", "lz4"), "zstd": Codec("zstd", "zstd")}
    plain[INT8] = Codec(INT8, "zstd")
    if name in plain:
        return plain[name]
    kind, colon, bits = name.partition(":")
    if kind == "bitround" and colon:
        most = MANTISSA_BITS[dtype]
        if not bits.isdecimal() or not 1 <= int(bits) <= most:
            raise RecipeError(f"arrays.codec is {name!r}, expected bitround:1 to bitround:{most} for {dtype}")
        return Codec(name, "zstd", int(bits))
    near = difflib.get_close_matches(kind, [*plain, "bitround"], n=1)
    hint = f"; did you mean {'bitround:<keepbits>' if near == ['bitround'] else near[0]!r}?" if near else ""
    raise RecipeError(f"arrays.codec is {name!r}, expected one of {', '.join(NAMES)}{hint}")


def _in_steps(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the nearest of -127 to 127 steps of each channel; a step is a power of two.

    So every value is held exactly by a float of the array's type, most of whose mantissa bits are zero and compress
    away: what is stored takes about a byte a value, and any reader of the array reads it.
    """
    over = (1, 2) if array.shape[1] == array.shape[2] else (0, 1)
    wide = array.astype(np.float64)
    part, exponent = np.frexp(np.abs(wide).max(axis=over, keepdims=True) / LARGEST)
    step = np.ldexp(1.0, np.maximum(exponent - (part == 0.5), LEAST_EXPONENT[array.dtype.name]))
    return (np.rint(wide / step) * step).astype(array.dtype)


def max_relative_error(codec: Codec) -> float:
    """Return the largest relative error rounding makes in a normal number; 0 for lossless codecs.

    For ``int8``, whose error is relative to the largest value of a channel, :data:`INT8_ERROR`.
    """
    if codec.name == INT8:
        return INT8_ERROR
    return 0.0 if codec.keepbits is None else 2.0 ** -(codec.keepbits + 1)
