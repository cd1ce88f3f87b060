from __future__ import annotations

import time

import numpy as np
import pytest
from frames import draw

from hela_store.datasets.look_groups import Looks, copies, look_groups, look_of


def slide(seed: int, level: float = 1.0, noise: float = 0.0) -> np.ndarray:
    image = draw(seed, (64, 72), cells=8)[0] * level
    return image + np.random.default_rng(seed).normal(0, noise, image.shape)


def test_copies_are_found_turned_mirrored_brighter_and_noisier() -> None:
    one = draw(0, (64, 64), cells=8)[0].astype(float)
    noisy = one + np.random.default_rng(1).normal(0, 60, one.shape)
    other = draw(5, (64, 64), cells=8)[0]
    stills = [one, np.rot90(one), other, 3 * one + 200, noisy, np.fliplr(np.rot90(one, 3)), one[::2, ::2]]
    found = copies(Looks.of([look_of(still) for still in stills]))
    assert [later for _, later in found] == [1, 3, 4, 5, 6] and 2 not in {earlier for earlier, _ in found}


def test_other_fields_of_view_are_no_copies_even_under_the_same_uneven_light() -> None:
    light = 2_000 * np.hypot(*np.mgrid[-32:32, -36:36]) / 40
    looks = Looks.of([look_of(slide(seed) + light) for seed in range(40)])
    assert copies(looks) == []


def test_blank_stills_are_no_copies() -> None:
    looks = Looks.of([look_of(np.full((40, 40), 7)), look_of(np.zeros((40, 40))), look_of(np.zeros((1, 1)))])
    assert copies(looks) == []


def test_stills_of_one_look_are_a_group_and_a_copy_goes_with_its_image() -> None:
    quiet, grainy = [slide(seed) for seed in range(4)], [slide(seed, 1, 300) for seed in range(10, 14)]
    looks = Looks.of([look_of(still) for still in (*quiet, *grainy, quiet[1].T)])
    groups = look_groups(looks)
    assert set(groups[:4]).isdisjoint(groups[4:8])
    assert len(set(groups[:4])) < 4 and groups[8] == groups[1]
    assert look_groups(looks, "copies") == [0, 1, 2, 3, 4, 5, 6, 7, 1]


def test_a_still_that_comes_later_moves_no_other() -> None:
    looks = [look_of(slide(seed, 1, 40 * (seed % 7))) for seed in range(60)]
    every = look_groups(Looks.of(looks))
    assert 1 < len(set(every)) < 60
    for count in (0, 1, 7, 30):
        assert look_groups(Looks.of(looks[:count])) == every[:count]


@pytest.mark.slow
def test_two_thousand_stills_are_compared_in_seconds() -> None:
    rng = np.random.default_rng(0)
    looks = Looks(
        features=rng.normal(0, 1, (2_000, 13)).astype(np.float32),
        small=rng.normal(0, 1 / 24, (2_000, 576)).astype(np.float32),
    )
    started = time.monotonic()
    look_groups(looks)
    assert time.monotonic() - started < 20
