import numpy as np
import pytest

from hela_store.base.rng import generator
from hela_store.errors import DatasetError
from hela_store.images.normalise import apply, limits


def frame(dtype="uint16"):
    """Dim nuclei at 32868 beside one very bright at 36000, on a background of 32768."""
    image = generator("normalise").normal(32768, 5, (200, 200))
    image[20:60, 20:60] += 100
    image[150:158, 150:158] += 3000
    return image.astype(dtype)


def test_percentile_limits_leave_dim_nuclei_visible():
    image = frame()
    lo, hi = limits(image, "percentile")
    seen = apply(image, lo, hi)
    assert seen.dtype == np.float32
    assert (seen.min(), seen.max()) == (0, 255)
    dim, background = np.median(seen[20:60, 20:60]), np.median(seen[80:120, 80:120])
    minmax = apply(image, *limits(image, "minmax"), "minmax")
    assert dim - background > np.median(minmax[20:60, 20:60]) - np.median(minmax[80:120, 80:120])


def test_limits_of_a_frame_serve_its_tiles():
    image = frame()
    lo, hi = limits(image, "percentile")
    assert np.array_equal(apply(image, lo, hi)[10:70, 30:90], apply(image[10:70, 30:90], lo, hi))


def test_minmax_is_linear_over_all_values():
    image = np.arange(256, dtype="uint8").reshape(16, 16)
    assert limits(image, "minmax") == (0, 255)
    assert np.array_equal(apply(image, 0, 255, "minmax"), image.astype(np.float32))


def test_clahe_lifts_local_contrast_and_stays_in_range():
    image = frame()
    seen = apply(image, *limits(image, "clahe"), "clahe")
    plain = apply(image, *limits(image, "minmax"), "minmax")
    assert seen.dtype == np.float32
    assert seen.min() >= 0
    assert seen.max() <= 255
    assert seen[20:60, 20:60].mean() - seen[80:120, 80:120].mean() > plain[20:60, 20:60].mean() - plain[80:120].mean()


@pytest.mark.parametrize("method", ["percentile", "minmax", "clahe"])
def test_a_constant_frame_is_black(method):
    image = np.full((20, 30), 77, "uint16")
    lo, hi = limits(image, method)
    assert lo == hi
    assert not apply(image, lo, hi, method).any()


def test_a_nearly_empty_frame_still_shows_its_few_pixels():
    image = np.zeros((100, 100), "uint8")
    image[50, 50] = 9
    assert apply(image, *limits(image, "percentile")).max() == 255


def test_black_is_not_below_the_offset():
    image = frame()
    image[:3] = 0  # dead rows
    assert limits(image, "percentile", offset=32768)[0] == 32768
    assert limits(image, "percentile", offset=1e9) == limits(image, "percentile")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    image = np.ones((4, 4), np.float32)
    image[1, 2] = bad
    with pytest.raises(DatasetError, match="NaN or infinity"):
        limits(image, "percentile")
