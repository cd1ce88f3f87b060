import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hela_store.augment.elastic import damped, displacement, rms, smallest_jacobian, smooth_noise
from hela_store.augment.ranges import AugmentRecipe, Elastic
from hela_store.augment.variant import Variant, draw_variant, parse_variant
from hela_store.base.rng import generator

EYE = np.eye(2)


@pytest.mark.parametrize(("sigma", "shape"), [(10.0, (192, 256)), (4.0, (97, 64)), (1.0, (50, 51))])
def test_the_rms_over_200_fields_is_that_of_the_formula(sigma: float, shape: tuple[int, int]) -> None:
    """``alpha / (2 sigma sqrt(pi))``; the same of noise drawn pixel by pixel and smoothed, periodic."""
    found = [rms(smooth_noise(generator("field", i), shape, sigma)) for i in range(220)]
    assert math.sqrt(np.mean(np.square(found))) == pytest.approx(1 / (2 * sigma * math.sqrt(math.pi)), rel=0.03)
    noise = [ndimage.gaussian_filter(generator("px", i).standard_normal(shape), sigma, mode="wrap") for i in range(220)]
    assert math.sqrt(np.mean(np.square(noise))) == pytest.approx(math.sqrt(np.mean(np.square(found))), rel=0.04)


def test_neighbours_hang_together_as_under_the_gaussian() -> None:
    fields = np.stack([smooth_noise(generator("field", i), (128, 128), 6.0) for i in range(100)])
    for away in (3, 6, 12):
        expected = math.exp(-(away**2) / (4 * 6.0**2))
        for axis in (2, 3):
            found = (fields * np.roll(fields, away, axis)).mean() / (fields**2).mean()
            assert found == pytest.approx(expected, abs=0.05)


def test_amplitudes_mean_what_they_say() -> None:
    for seed in range(5):
        assert rms(displacement(generator(seed), (64, 96), 10.0, 1.5, "rms")) == pytest.approx(1.5, rel=1e-5)
        field = displacement(generator(seed), (64, 96), 10.0, 7.0, "max")
        assert np.hypot(*field).max() == pytest.approx(7.0, rel=1e-5)
        literal = displacement(generator(seed), (64, 96), 10.0, 30.0, "literal")
        assert np.allclose(literal, 30 * smooth_noise(generator(seed), (64, 96), 10.0))
    assert not displacement(generator(0), (8, 9), 10.0, 0.0, "rms").any()


def test_the_smallest_jacobian_of_a_known_field() -> None:
    x = np.arange(40, dtype=np.float32)
    field = np.zeros((2, 30, 40), np.float32)
    field[0] = -0.25 * x
    assert smallest_jacobian(EYE, field) == pytest.approx(0.75, abs=1e-5)
    assert smallest_jacobian(np.diag([-1.0, 1.0]), field) == pytest.approx(1.25, abs=1e-5)
    assert smallest_jacobian(EYE, 5 * field) == pytest.approx(-0.25, abs=1e-4)
    assert smallest_jacobian(np.diag([0.5, 0.5]), np.zeros_like(field)) == pytest.approx(0.25)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), alpha=st.floats(0.5, 12), angle=st.floats(-45, 45), mirror=st.booleans())
def test_a_damped_field_does_not_fold(seed: int, alpha: float, angle: float, mirror: bool) -> None:
    variant = Variant(seed=seed, alpha=alpha, rotate=angle, flip_x=mirror)
    field = variant.field((96, 96))
    factor, least = damped(variant.linear, field)
    assert 0 < factor <= 1 and least > 0
    assert smallest_jacobian(variant.linear, field, factor) == pytest.approx(least)
    assert (factor == 1) == (smallest_jacobian(variant.linear, field) > 0)


def test_a_variant_is_what_its_key_says_and_nothing_else() -> None:
    recipe = AugmentRecipe(variants=3)
    one = draw_variant(recipe, "01/t003", 2, 1, (128, 128))
    assert one == draw_variant(replace(recipe, variants=50), "01/t003", 2, 1, (128, 128))
    others = [("01/t004", 2, 1), ("01/t003", 1, 1), ("01/t003", 2, 2)]
    assert all(draw_variant(recipe, *key, (128, 128)).seed != one.seed for key in others)
    assert parse_variant(one.to_json()) == one
    assert parse_variant("{}") == Variant() and Variant().keeps_place
    # one transform's probability moves no other's draw
    still = draw_variant(replace(recipe, elastic=Elastic(probability=0.0)), "01/t003", 2, 1, (128, 128))
    assert (still.rotate, still.shift_x, still.seed) == (one.rotate, one.shift_x, one.seed) and still.alpha == 0


def test_ranges_and_probabilities_hold() -> None:
    recipe = AugmentRecipe(elastic=Elastic(probability=0.5, alpha=(1.0, 1.5)))
    drawn = [draw_variant(recipe, "f", 0, i, (32, 32)) for i in range(1, 301)]
    assert all(-45 <= v.rotate <= 45 and -8 <= v.shift_x <= 8 and -8 <= v.shift_y <= 8 for v in drawn)
    assert all(v.alpha == 0 or 1 <= v.alpha <= 1.5 for v in drawn)
    shares = {"alpha": 0.5, "flip_x": 0.5, "flip_y": 0.5, "photons": 0.25, "gaussian": 0.25, "clahe": 0.1}
    for name, share in shares.items():
        assert np.mean([getattr(v, name) > 0 for v in drawn]) == pytest.approx(share, abs=0.1), name
    assert np.corrcoef([v.shift_x for v in drawn], [v.shift_y for v in drawn])[0, 1] == pytest.approx(0, abs=0.2)
