"""Interpolation by two matrix products is that of torch, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from hela_store.sam import resize as module
from hela_store.sam.resize import resize


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("given", "wanted"), [((8, 8), (64, 64)), ((5, 7), (15, 14)), ((24, 16), (8, 8)), ((6, 6), (6, 6))]
)
def test_two_products_interpolate_as_torch_does(
    device: torch.device, given: tuple[int, int], wanted: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BY_PRODUCTS", ("cpu", "cuda"))
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, *given, generator=rng), torch.randn(2, 3, *wanted, generator=rng)
    theirs, ours = x.clone().requires_grad_(True), x.to(device).requires_grad_(True)
    expected = interpolate(theirs, size=wanted, mode=mode, align_corners=False)
    found = resize(ours, wanted, mode)
    (expected * weight).sum().backward()
    (found * weight.to(device)).sum().backward()
    assert theirs.grad is not None and ours.grad is not None
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("ratio", range(1, 9))
def test_on_a_cpu_it_is_torchs_own_to_the_bit(ratio: int, mode: str) -> None:
    x = torch.randn(1, 2, 9, 11, generator=torch.Generator().manual_seed(ratio))
    expected = interpolate(x, scale_factor=float(ratio), mode=mode, align_corners=False)
    assert torch.equal(resize(x, (9 * ratio, 11 * ratio), mode), expected)


def test_under_autocast_it_keeps_the_type_and_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BY_PRODUCTS", ("cpu",))
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resize(x, (16, 16))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, interpolate(x.float(), size=(16, 16), mode="bilinear", align_corners=False).bfloat16())
