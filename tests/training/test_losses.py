import math
from itertools import product

import pytest
import torch
from torch import Tensor

from hela_store.errors import RecipeError
from hela_store.training.losses.boundary import boundary_loss, normalised_boundary_loss
from hela_store.training.losses.decoder import EXTRA, mask_loss, ramp
from hela_store.training.losses.hausdorff import (
    RADII,
    hausdorff_convolution_loss,
    hausdorff_distance_loss,
    hausdorff_erosion_loss,
)
from hela_store.training.losses.names import EXTRA_LOSSES, LOSSES, check_loss
from hela_store.training.losses.region import cross_entropy, dice_loss, focal_loss

SIDE = 14


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits (1, 2, 14, 14) and the truth of a disc, float64."""
    torch.manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    truth = (((rows - 6) ** 2 + (columns - 7) ** 2) <= 9).double()
    return torch.randn(1, 2, SIDE, SIDE, dtype=torch.float64) * 2 + 4 * truth - 2, truth.expand(1, 2, SIDE, SIDE)


def edge_distance(mask: Tensor) -> Tensor:
    """Distance to the nearest pixel of the other kind, half a pixel short: to the edge between the two."""
    out = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    for y, x in product(range(SIDE), range(SIDE)):
        other = torch.nonzero(mask != mask[y, x]).double()
        out[y, x] = ((other - torch.tensor([y, x])).norm(dim=1).min() - 0.5) if len(other) else 0
    return out


def scale(target: Tensor) -> tuple[float, float]:
    area = float(target[0, 0].sum())
    return area, 2 * math.sqrt(area / math.pi)


def test_boundary_losses_against_their_definition() -> None:
    logits, target = example()
    area, across = scale(target)
    distance = edge_distance(target[0, 0])
    phi = torch.where(target[0, 0] > 0, -distance, distance)
    p = logits.sigmoid()[0]
    expected = torch.stack([(phi * p[m]).sum() / (across * area) for m in range(2)])
    torch.testing.assert_close(boundary_loss(logits, target)[0], expected, rtol=1e-5, atol=1e-6)
    near = distance.clamp(max=across)
    shared = torch.stack([((near * (1 - target[0, 0] - p[m])) ** 2).sum() for m in range(2)])
    found = normalised_boundary_loss(logits, target)[0]
    torch.testing.assert_close(found, 1 - shared / (near**2).sum(), rtol=1e-5, atol=1e-6)


def test_hausdorff_by_distance_against_its_definition() -> None:
    logits, target = example()
    area, across = scale(target)
    p = logits.sigmoid()[0]
    expected = []
    for m in range(2):
        squares = edge_distance(target[0, 0]) ** 2 + edge_distance((logits[0, m] > 0).double()) ** 2
        expected.append(((p[m] - target[0, 0]) ** 2 * squares).sum() / (across**2 * area))
    torch.testing.assert_close(hausdorff_distance_loss(logits, target)[0], torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_hausdorff_by_erosion_counts_how_wide_an_error_is() -> None:
    """A certain error in the shape of a diamond of radius r survives r erosions by a cross and not one more."""
    _, target = example()
    area, across = scale(target)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    away = (rows - 6).abs() + (columns - 7).abs()
    wrong = (away <= 2).double()
    sure = (2 * ((target[0, 0] + wrong) % 2) - 1)[None, None] * 40
    error = wrong.clone()
    expected = 0.0
    for k in range(1, 7):
        grown = torch.zeros(SIDE + 2, SIDE + 2, dtype=torch.float64)
        grown[1:-1, 1:-1] = error
        five = grown[1:-1, 1:-1] + grown[:-2, 1:-1] + grown[2:, 1:-1] + grown[1:-1, :-2] + grown[1:-1, 2:]
        error = (2 * five / 5 - 1).clamp(min=0)
        expected += k**2 * float(error.sum())
    assert error.sum() == 0
    found = float(hausdorff_erosion_loss(sure, target[:, :1])[0, 0])
    assert found == pytest.approx(expected / (across**2 * area), rel=1e-6)


def test_hausdorff_by_convolution_against_its_definition() -> None:
    logits, target = example()
    area, across = scale(target)
    p, t = logits.sigmoid()[0, 0], target[0, 0]

    def surely(values: Tensor, radius: int, beyond: float) -> Tensor:
        out = torch.zeros(SIDE, SIDE, dtype=torch.float64)
        steps = [d for d in product(range(-radius, radius + 1), repeat=2) if d[0] ** 2 + d[1] ** 2 <= radius**2]
        for y, x in product(range(SIDE), range(SIDE)):
            places = [(y + dy, x + dx) for dy, dx in steps]
            inside = [float(values[a, b]) if 0 <= a < SIDE and 0 <= b < SIDE else beyond for a, b in places]
            out[y, x] = max(sum(inside) / len(inside) - 0.9, 0) / 0.1
        return out

    total = 0.0
    for r in RADII:
        parts = (surely(1 - t, r, 1) + surely(p, r, 0)) * p + (surely(1 - p, r, 1) + surely(t, r, 0)) * t
        total += r**2 * float((parts * (p - t) ** 2).sum())
    found = float(hausdorff_convolution_loss(logits[:, :1], target[:, :1])[0, 0])
    assert found == pytest.approx(total / (across**2 * area), rel=1e-6)


def test_focal_loss_is_cross_entropy_at_one_half_and_less_where_sure() -> None:
    _, target = example()
    assert torch.allclose(focal_loss(target * 0, target), cross_entropy(target * 0, target))
    sure = (2 * target - 1) * 3
    assert (focal_loss(sure, target) < 0.1 * cross_entropy(sure, target)).all()


@pytest.mark.parametrize("loss", [*EXTRA.values(), dice_loss, focal_loss, cross_entropy], ids=lambda f: f.__name__)
def test_gradients(loss) -> None:
    logits, target = example(3)
    part = logits[:, :1, 2:11, 3:12].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target[:, :1, 2:11, 3:12]), part, atol=1e-5, fast_mode=True)


def test_every_named_extra_loss_is_there() -> None:
    assert tuple(EXTRA) == EXTRA_LOSSES


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_prefers_the_truth_and_bears_an_empty_answer(name: str) -> None:
    _, target = example()
    truth = target[:, 0].to(torch.uint8)
    good, shifted = (2 * target[:, :1] - 1) * 8, (2 * target[:, :1].roll(4, -1) - 1) * 8
    empty = torch.full_like(good, -8)
    scores = [float(mask_loss(logits, truth, name)) for logits in (good, shifted, empty)]
    assert scores[0] < scores[1] and scores[0] < scores[2] and all(map(math.isfinite, scores))


def test_the_ramp_and_the_names() -> None:
    assert [ramp(step, 100, 0.5) for step in (0, 25, 50, 99)] == [0, 0.5, 1, 1]
    assert ramp(0, 100, 0) == 1
    with pytest.raises(RecipeError, match="lovasz"):
        check_loss("lovasz")
