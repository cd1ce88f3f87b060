from pathlib import Path

import numpy as np
import pytest
import zarr

from hela_store.base.rng import generator
from hela_store.errors import RecipeError
from hela_store.recipe.codecs import max_relative_error, parse_codec


@pytest.mark.parametrize("name", ["raw", "lz4", "zstd"])
def test_lossless_codecs_leave_values_alone(name):
    values = generator("codec").normal(size=(4, 5)).astype("float16")
    assert parse_codec(name).prepare(values) is values
    assert max_relative_error(parse_codec(name)) == 0


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 4), ("float16", 10), ("float32", 7), ("float32", 23)])
def test_bitround_keeps_its_error_bound(dtype, bits):
    values = generator("codec", bits).normal(size=10_000).astype(dtype)
    values = values[np.abs(values) > 1e-3]  # normal numbers
    before = values.copy()
    codec = parse_codec(f"bitround:{bits}", dtype)
    rounded = codec.prepare(values)
    assert rounded.dtype == values.dtype
    assert np.array_equal(values, before)
    error = np.abs(rounded.astype(float) - values) / np.abs(values.astype(float))
    assert error.max() <= max_relative_error(codec)
    assert np.array_equal(codec.prepare(rounded), rounded)


@pytest.mark.parametrize("shape", [(8, 16, 16), (16, 16, 8)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_int8_has_a_scale_for_each_channel(shape: tuple[int, ...], dtype: str) -> None:
    scales = np.array([0, 1e-6, 1e-3, 0.1, 1, 2.0**-9 * 127, 50, 400])
    values = generator("int8").uniform(-1, 1, shape) * (scales[:, None, None] if shape[0] == 8 else scales)
    values = values.astype(dtype)
    codec = parse_codec("int8", dtype)
    rounded = codec.prepare(values)
    assert rounded.dtype == values.dtype and np.array_equal(codec.prepare(rounded), rounded)
    for before, after in zip(
        *(np.moveaxis(part, 0 if shape[0] == 8 else 2, 0) for part in (values, rounded)), strict=True
    ):
        assert len(np.unique(after)) <= 255
        most = np.abs(before.astype(float)).max()
        error = np.abs(after.astype(float) - before).max()
        assert error <= max(most / 127, 2.0**-25 if dtype == "float16" else 0)


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        ("zsdt", "float16", "did you mean 'zstd'"),
        ("bitrond:4", "float16", "did you mean 'bitround:<keepbits>'"),
        ("bitround:11", "float16", "bitround:1 to bitround:10 for float16"),
        ("bitround:0", "float32", "bitround:1 to bitround:23 for float32"),
        ("bitround:", "float16", "bitround:1 to"),
        ("bitround", "float16", "expected one of raw, lz4"),
    ],
)
def test_what_is_not_a_codec_is_refused(name, dtype, words):
    with pytest.raises(RecipeError, match=words):
        parse_codec(name, dtype)


@pytest.mark.parametrize("name", ["raw", "lz4", "zstd", "bitround:5", "int8"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_chunk_is_encoded_as_zarr_does(name: str, dtype: str, tmp_path: Path) -> None:
    codec = parse_codec(name, dtype)
    shape = (1, 8, 16, 16)
    compressors = codec.compress(np.dtype(dtype).itemsize)
    array = zarr.create_array(tmp_path, shape=shape, chunks=shape, dtype=dtype, compressors=compressors)
    drawn = generator("chunk").standard_normal(shape[1:]).astype(dtype)
    for number, layout in enumerate((drawn, drawn.transpose(0, 2, 1), drawn[::-1])):
        values = codec.prepare(layout + np.array(number, dtype))
        array[0] = values
        assert codec.encode(values) == (tmp_path / "c/0/0/0/0").read_bytes()
