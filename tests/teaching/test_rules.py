"""What the rules measure, against the same worked out pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from frames import draw, save

from hela_store.base.aliases import BoolArray
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import RecipeError
from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.store.store import Store
from hela_store.teaching.decode import Decoding
from hela_store.teaching.next_cell import Candidate
from hela_store.teaching.proposals import Proposal, Proposals
from hela_store.teaching.rules import Rule, rule_of
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

FRAMES = ("01/t000", "01/t001", "01/t002", "01/t003")


def rule(name: str, store: Store, run: str | None = None) -> tuple[Rule, Proposals]:
    decoding = Decoding(resolve_checkpoint(store, run), "cpu")
    proposals = Proposals(store, decoding)
    return rule_of(name, store, proposals, decoding, list), proposals


def painted(proposal: Proposal) -> BoolArray:
    label = np.zeros((224, 256), np.int32)
    proposal.paint(label, 1)
    return label > 0


def iou(one: Proposal, other: Proposal) -> float:
    a, b = painted(one), painted(other)
    return float((a & b).sum() / (a | b).sum())


def candidates(proposals: Proposals, frames: Sequence[str]) -> list[Candidate]:
    return [Candidate(frame=frame, proposal=each) for frame in frames for each in proposals.of(frame)]


def test_time_is_how_little_a_proposal_fits_to_the_frames_beside_it(crowded: Path) -> None:
    found, proposals = rule("time", Store.open(crowded))
    every = candidates(proposals, FRAMES)
    near = {"01/t000": ["01/t001"], "01/t001": ["01/t000", "01/t002"], "01/t003": ["01/t002"]}
    near["01/t002"] = ["01/t001", "01/t003"]
    expected = [
        1 - np.mean([max(iou(one.proposal, other) for other in proposals.of(frame)) for frame in near[one.frame]])
        for one in every
    ]
    assert found.measure is not None and len(every) > 20
    values = found.measure(every)
    assert values is not None and np.ptp(values) > 0.1
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert [frame for _, frame in found.needs("01/t001")] == ["01/t001", "01/t000", "01/t002"]


def test_time_says_nothing_of_images_that_are_no_time_lapse(tmp_path: Path) -> None:
    for number in range(3):
        image, label = draw(number, (64, 64), cells=8)
        save(tmp_path / f"data/images/p{number}.tif", image)
        save(tmp_path / f"data/masks/p{number}.tif", label)
    new(tmp_path / "s", NewConfig.of(dataset=str(tmp_path / "data"), tile="none"))
    embed(Store.open(tmp_path / "s"), EmbedConfig())
    found, proposals = rule("time", Store.open(tmp_path / "s"))
    frames = list(Store.open(tmp_path / "s").frame_records())
    assert found.measure is not None and found.measure(candidates(proposals, frames)) is None
    assert found.needs(frames[0]) == [(proposals, frames[0])]


@pytest.mark.ci
def test_disagreement_is_of_the_decoder_and_the_one_it_began_with(store: Store) -> None:
    zero_shot, proposals = rule("disagreement", store)
    assert zero_shot.measure is not None and zero_shot.measure(candidates(proposals, FRAMES[:1])) is None
    assert len(zero_shot.needs(FRAMES[0])) == 1
    config = FinetuneConfig.of(prompt="box", steps=6, lr=3e-3, evaluate_every=3, workers=0, device="cpu")
    run = finetune(store, config).run
    tuned, now = rule("disagreement", store, run)
    every = candidates(now, FRAMES[:2])
    assert tuned.measure is not None
    values = tuned.measure(every)
    before = {frame: {each.detection: each for each in proposals.of(frame)} for frame in FRAMES[:2]}
    expected = [
        1 - iou(one.proposal, before[one.frame][one.proposal.detection])
        if one.proposal.detection in before[one.frame]
        else 1.0
        for one in every
    ]
    assert values is not None and values.max() > 0
    np.testing.assert_allclose(values, expected, atol=1e-9)
    (own, _), (other, _) = tuned.needs(FRAMES[1])
    # of the same detections, also if another detector is trained meanwhile
    assert own is now and other is not now and other._detector is now._detector


def test_a_rule_that_does_not_exist_is_refused(crowded: Path) -> None:
    with pytest.raises(RecipeError, match="the rule is 'best', expected one of random, doubt"):
        rule("best", Store.open(crowded))
