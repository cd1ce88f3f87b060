import numpy as np
import pytest
import torch

from hela_store.augment.photometry import apply_light, shot_noise
from hela_store.augment.variant import Variant
from hela_store.images import normalise

BLACK, LO, HI = 32768.0, 33000.0, 34000.0


def light(counts: torch.Tensor, **changes: float) -> torch.Tensor:
    return apply_light(counts[None], [Variant(seed=3, **changes)], LO, HI, BLACK)[0]  # type: ignore[arg-type]


@pytest.fixture
def counts() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(33000, 34000, (64, 80)).astype(np.float32))


@pytest.mark.parametrize("mean", [0.0, 0.3, 2.0, 9.0, 15.9, 16.1, 40.0, 1000.0])
def test_shot_noise_has_the_mean_and_variance_of_its_rate(mean: float) -> None:
    normal = torch.from_numpy(np.random.default_rng(1).standard_normal((500, 500), dtype=np.float32))
    found = shot_noise(torch.full((500, 500), mean), normal).double()
    assert torch.equal(found, found.round()) and found.min() >= 0
    assert float(found.mean()) == pytest.approx(mean, rel=0.01, abs=1e-6)
    assert float(found.var()) == pytest.approx(mean, rel=0.03, abs=1e-6)


def test_poisson_noise_counts_photons_above_the_black_level() -> None:
    flat = torch.full((400, 400), BLACK + 500)
    for photons in (0.1, 1.0, 8.0):
        found = light(flat, photons=photons) - BLACK
        assert float(found.mean()) == pytest.approx(500, rel=0.01)
        assert float(found.var()) == pytest.approx(500 / photons, rel=0.03)


def test_gaussian_noise_is_a_share_of_the_frames_range() -> None:
    found = light(torch.full((400, 400), BLACK + 500), gaussian=0.02) - BLACK
    assert float(found.mean()) == pytest.approx(500, abs=0.5)
    assert float(found.std()) == pytest.approx(0.02 * (HI - LO), rel=0.02)


def test_brightness_contrast_and_gamma(counts: torch.Tensor) -> None:
    signal = counts - BLACK
    assert torch.allclose(light(counts, brightness=1.1) - BLACK, 1.1 * signal, atol=0.01)
    more = light(counts, contrast=1.2) - BLACK
    assert float(more.mean()) == pytest.approx(float(signal.mean()), rel=1e-3)
    assert float(more.std()) == pytest.approx(1.2 * float(signal.std()), rel=1e-3)
    white = torch.tensor([[BLACK, HI]])
    assert torch.allclose(light(white, gamma=0.9), white)
    assert (light(counts, gamma=0.9) > counts).all()
    assert torch.equal(light(counts), counts)


def test_brightness_changes_what_the_encoder_sees(counts: torch.Tensor) -> None:
    """The frame's own limits are kept: percentiles of the view would cancel it."""
    image = counts.numpy()
    seen = [normalise.apply(light(counts, brightness=factor).numpy(), LO, HI) for factor in (1.0, 1.1)]
    assert np.abs(seen[1] - seen[0]).mean() > 5
    own = [
        normalise.apply(part, *normalise.limits(part, "percentile", offset=BLACK))
        for part in (image, light(counts, brightness=1.1).numpy())
    ]
    assert np.abs(own[1] - own[0]).max() < 0.1


def test_local_equalisation_raises_faint_contrast() -> None:
    x = np.linspace(0, 6 * np.pi, 128)
    faint = torch.from_numpy((33300 + 30 * np.sin(x)[None] * np.ones((128, 1))).astype(np.float32))
    found = light(faint, clahe=0.02)
    assert float(found.std()) > 1.5 * float(faint.std())
    assert float(found.min()) >= LO - 1 and float(found.max()) <= HI + 1
