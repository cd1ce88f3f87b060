"""The optimiser of pretraining against torch's own parts."""

import pytest
import torch
from torch import nn

from hela_store.pretrain.muon import MuonAdamW, is_matrix, orthogonalise
from hela_store.training.trainer import load_training, save_training


@pytest.mark.parametrize("shape", [(64, 200), (200, 64), (48, 48)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape) * 1e3))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_bfloat16_is_close_enough() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 64, 200)
    exact, rough = orthogonalise(matrices), orthogonalise(matrices.bfloat16()).float()
    assert (exact - rough).norm() < 0.05 * exact.norm()


def test_matrices_are_updated_as_by_torchs_muon() -> None:
    muon = pytest.importorskip("torch.optim._muon").Muon
    torch.manual_seed(0)
    ours, theirs = nn.Linear(96, 64, bias=False), nn.Linear(96, 64, bias=False)
    theirs.load_state_dict(ours.state_dict())
    start = ours.weight.detach().clone()
    mine = MuonAdamW(ours.named_parameters(), lr=0.01, weight_decay=0.1)
    reference = muon(theirs.parameters(), lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.weight.grad = torch.randn(64, 96)
        theirs.weight.grad = ours.weight.grad.clone()
        mine.step()
        reference.step()
    moved = (ours.weight - start).norm()
    # torch iterates in bfloat16
    assert (ours.weight - theirs.weight).norm() < 0.03 * moved


def test_other_parameters_are_updated_as_by_adamw() -> None:
    ours, theirs = nn.LayerNorm(300), nn.LayerNorm(300)
    mine = MuonAdamW(ours.named_parameters(), lr=0.01, weight_decay=0.1)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.0, betas=(0.9, 0.98))
    torch.manual_seed(0)
    for _ in range(5):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(300)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_tokens_and_narrow_layers_are_no_matrices() -> None:
    model = nn.ModuleDict({"token": nn.Embedding(4, 256), "wide": nn.Linear(64, 64), "stem": nn.Conv2d(3, 32, 7)})
    assert [n for n, v in model.named_parameters() if is_matrix(n, v)] == ["wide.weight", "stem.weight"]


def test_a_saved_optimiser_goes_on_to_the_bit(tmp_path) -> None:
    def stepped(model: nn.Module, optimizer: MuonAdamW, first: int, last: int) -> None:
        for number in range(first, last):
            torch.manual_seed(number)
            model(torch.randn(8, 40)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def fresh() -> tuple[nn.Module, MuonAdamW]:
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50), nn.Linear(50, 2))
        return model, MuonAdamW(model.named_parameters(), lr=0.01, weight_decay=0.1)

    whole, optimizer = fresh()
    stepped(whole, optimizer, 0, 6)
    half, optimizer = fresh()
    stepped(half, optimizer, 0, 3)
    save_training(tmp_path / "state.safetensors", {"model": half.state_dict()}, optimizer, {})
    again, optimizer = fresh()
    parts, _ = load_training(tmp_path / "state.safetensors", optimizer)
    again.load_state_dict(parts["model"])
    stepped(again, optimizer, 3, 6)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
