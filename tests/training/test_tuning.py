import errno
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.errors import RecipeError, RunError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.prompts.kinds import MIXED_PROMPTS, TRAINING_PROMPTS
from hela_store.runs.default import best_run, default_run, helped
from hela_store.runs.folder import load_run, partial_runs
from hela_store.runs.watch import watch
from hela_store.sam.adapters import learned
from hela_store.sam.clicks import corrected_prompts
from hela_store.sam.decoder import SamPrompts, load_decoder, window_origins
from hela_store.store.store import Store
from hela_store.training.config import MASKS, FinetuneConfig
from hela_store.training.data import TrainingSteps
from hela_store.training.finetune import finetune, resolve, source_of
from hela_store.training.learner import new_learner
from hela_store.training.step import step_loss, training_windows
from hela_store.training.tuning import new_tuning
from stores import reseal

QUICK = FinetuneConfig.of(steps=4, evaluate_every=2, cells=2, validation_cells=3, workers=0, lr=1e-3, window=8)


def test_a_second_pass_clicks_where_the_first_was_wrong() -> None:
    truth = torch.zeros(2, 64, 64, dtype=torch.uint8)
    truth[:, 20:40, 20:40] = 1
    logits = torch.full((2, 32, 32), -5.0)
    logits[0, 10:20, 10:20] = 30.0
    logits[1, 10:20, 14:24] = 5.0
    origins, rng = torch.tensor([[3, 5], [10, 20]]), np.random.default_rng(0)
    given = SamPrompts(boxes=torch.zeros(2, 4))
    for _ in range(30):
        again = corrected_prompts(given, logits, truth, origins, rng)
        assert again.points is not None and again.point_labels is not None and again.masks is not None
        assert again.boxes is given.boxes and again.masks.shape == (2, 1, 32, 32) and again.masks.max() <= 12
        assert again.point_labels[0, 0] == -1, "nothing was wrong with the first"
        x, y = ((again.points[1, 0] + 0.5) / 2 - 8 * origins[1]).tolist()
        if again.point_labels[1, 0] == 1:
            assert 20 <= x < 28 and 20 <= y < 40
        elif again.point_labels[1, 0] == 0:
            assert 40 <= x < 48 and 20 <= y < 40
    points = SamPrompts(points=torch.ones(2, 1, 2), point_labels=torch.ones(2, 1))
    more = corrected_prompts(points, logits, truth, origins, rng).points
    assert more is not None and more.shape == (2, 2, 2)


@pytest.mark.parametrize("prompt", TRAINING_PROMPTS)
def test_every_kind_learns_with_several_passes(embedded: Path, prompt: str) -> None:
    store = Store.open(embedded)
    decoder = load_decoder(store.encoder_folder() / "decoder.safetensors")
    config = QUICK.with_choices(
        prompt=prompt, refine=1.0, clicks=1 + ("point" in prompt), loss="hausdorff-convolution", loss_ramp=0.0
    )
    batch = TrainingSteps(store, prompt, cells=3, seed=0, first=0, count=1)[0]
    losses, ious = step_loss(decoder, batch, config)
    assert losses.shape == ious.shape == (len(batch.cells),) and torch.isfinite(losses).all()
    losses.mean().backward()
    assert decoder.mask_decoder.mask_tokens.weight.grad.abs().sum() > 0
    alone, _ = step_loss(decoder, batch, config.with_choices(refine=0.0, clicks=1))
    assert not torch.equal(alone, losses)


@pytest.mark.parametrize("kind", ["point", "box"])
def test_a_cell_larger_than_the_window_is_seen_whole(kind: str) -> None:
    """Discs of 2 to 40 positions: the window is the smallest that holds the cell, or ends where the view does."""
    sizes = []
    for radius in (8, 20, 31, 40, 70, 160):  # truth px, eight a position
        rows, columns = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
        truth = (((rows - 200) ** 2 + (columns - 240) ** 2) <= radius**2).int() * 7
        around = torch.tensor([[240.0 - radius, 200.0 - radius, 240.0 + radius, 200.0 + radius]]) * 2
        point = SamPrompts(points=torch.tensor([[[480.0 + radius, 400.0]]]), point_labels=torch.ones(1, 1))
        prompts = point if kind == "point" else SamPrompts(boxes=around)
        (size,) = training_windows(prompts, truth, torch.tensor([7]), 8)
        sizes.append(int(size))
        x, y = window_origins(prompts, int(size))[0].tolist()
        seen = truth[y * 8 : (y + size) * 8, x * 8 : (x + size) * 8]
        assert (seen == 7).sum() == (truth == 7).sum()
        assert size == 8 or kind == "box" or size / 4 <= 1.5 * radius / 8 + 1, "half of it would not do"
    assert sizes == sorted(sizes) and sizes[0] == 8 and sizes[-1] == 64


def test_mixed_runs_show_every_kind_and_single_kinds_are_their_own(embedded: Path) -> None:
    store = Store.open(embedded)
    steps = TrainingSteps(store, "all", cells=1, seed=0, first=0, count=40)
    forms = set()
    for i in range(40):
        prompts = steps[i].prompts
        forms.add(tuple(part is not None for part in (prompts.boxes, prompts.points, prompts.masks)))
    assert len(forms) == len(MIXED_PROMPTS)
    steps = TrainingSteps(store, "box-or-point", cells=1, seed=0, first=0, count=20)
    drawn = [steps[i].prompts for i in range(20)]
    assert {(one.boxes is None, one.points is None) for one in drawn} == {(True, False), (False, True)}
    assert all(one.masks is None for one in drawn)


def test_of_a_lone_point_the_best_mask_learns_or_each(embedded: Path) -> None:
    store = Store.open(embedded)
    batch = TrainingSteps(store, "point", cells=1, seed=0, first=0, count=1)[0]
    moved = {}
    for masks in MASKS:
        decoder = load_decoder(store.encoder_folder() / "decoder.safetensors")
        step_loss(decoder, batch, QUICK.with_choices(prompt="point", masks=masks))[0].sum().backward()
        heads = decoder.mask_decoder.output_hypernetworks_mlps
        moved[masks] = [float(head.layers[-1].weight.grad.abs().sum()) > 0 for head in heads]
    assert moved["all"] == [True] * 4
    assert moved["best"][0] and sum(moved["best"]) == 2
    with pytest.raises(RecipeError, match="masks is 'some'"):
        QUICK.with_choices(masks="some")


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(RecipeError, match="staircase"):
        QUICK.with_choices(schedule="staircase")


@pytest.mark.parametrize(
    ("how", "learns"),
    [
        ({}, "decoder.mask_decoder.iou_token.weight"),
        ({"adapt": "decoder"}, "decoder.mask_decoder.transformer.layers.0.self_attn.q_proj.parts.all.a"),
        ({"adapt": "encoder", "cut": 3}, "encoder.blocks.3.attn.qkv.parts.q.a"),
    ],
)
def test_the_average_is_of_all_that_learns(store: Store, how: dict[str, Any], learns: str) -> None:
    """The average of three known steps by hand, lent to be judged, while the weights that train stay."""
    config = QUICK.with_choices(ema=0.5, **how)
    learner = new_learner(source_of(store, config), config, torch.device("cpu"), init=None)
    state = new_tuning(learner, config)
    assert state.mean.keys() == learned(learner).keys()
    weight = learned(learner)[learns]
    begin = weight.detach().clone()
    expected = begin.clone()
    for step in (1, 2, 30):
        with torch.no_grad():
            weight += 1.0
        state.step = step
        state.update_mean()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    with state.averaged() as lent:
        torch.testing.assert_close(learned(lent)[learns], expected)
        assert not lent.training
    torch.testing.assert_close(weight, begin + 3.0)
    assert learner.training and new_tuning(learner, config.with_choices(ema=0.0)).mean == {}


def test_the_averaged_weights_are_validated_and_kept(store: Store) -> None:
    plain = finetune(store, QUICK.with_choices(steps=2, evaluate_every=1, ema=0.0))
    smooth = finetune(store, QUICK.with_choices(steps=2, evaluate_every=1, ema=0.9))
    logs = [load_run(store.path, run.run).log() for run in (plain, smooth)]
    losses = [[row["loss"] for row in log if "loss" in row] for log in logs]
    assert losses[0] == losses[1], "the average changes what is judged, not how it learns"
    assert logs[0][2]["val"] != logs[1][2]["val"]


def test_tensorboard_shows_what_the_log_says(store: Store, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = finetune(store, QUICK, tensorboard=tmp_path / "board").run
    seen = accumulator.EventAccumulator(str(tmp_path / "board" / run)).Reload()
    log = load_run(store.path, run).log()
    for name, value in (
        ("loss", lambda row: row.get("loss")),
        ("val/mean_iou", lambda row: row.get("val", {}).get("mean_iou")),
    ):
        expected = [(row["step"], value(row)) for row in log if value(row) is not None]
        found = [(event.step, event.value) for event in seen.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [v for _, v in found] == pytest.approx([v for _, v in expected], rel=1e-6)


def test_patience_accumulation_and_init(store: Store) -> None:
    hopeless = QUICK.with_choices(steps=40, lr=1e-12, patience=2, accumulate=2)
    result = finetune(store, hopeless)
    rows = [row for row in load_run(store.path, result.run).log() if "val" in row]
    assert rows[-1]["step"] < 40 and (not result.accepted or result.best_step > 0)
    job = resolve(store, QUICK.with_choices(init="latest"))
    assert job.init is not None and job.init.id == job.config.init == result.run
    second = finetune(store, QUICK.with_choices(init=result.run[:-1], prompt="all"))
    info = load_run(store.path, second.run)
    assert info.parent == info.checkpoint == info.config["init"] == result.run
    assert set(second.by_kind) == set(MIXED_PROMPTS)
    assert list(watch(store.path, second.run)) == [{"run": second.run}, *info.log()]
    folder = load_run(store.path, result.run).path / "config.json"
    text = json.loads(folder.read_text())
    folder.write_text(json.dumps(text | {"encoder": "nano-000000000000"}))
    reseal(folder.parent)
    with pytest.raises(RunError, match="nano-000000000000"):
        finetune(store, QUICK.with_choices(init=result.run))
    with pytest.raises(RunError, match="no run"):
        finetune(store, QUICK.with_choices(init="20200101"))


def test_no_space_left_for_a_checkpoint_keeps_the_one_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = importlib.import_module("hela_store.base.files")
    real, written = files.os.replace, []

    def full(source: str, target: Path) -> None:
        if Path(target).name == "state.safetensors":
            written.append(target)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(StoreError, match="no space left"):
        finetune(store, QUICK)
    monkeypatch.undo()
    (name,) = partial_runs(store.path)
    assert not list((store.path / "runs" / f".{name}.partial").glob(".state*"))
    assert finetune(store, QUICK).run == name


CHANGE = {"n": 9, "mean_change": 0.01, "low": 0.006, "high": 0.02, "better": 1.0, "worse": 0.0, "verdict": "better"}


def judged(store: Store, run: str, **result: object) -> None:
    """Write what the guard found into a run: of the few cells of a test it is chance."""
    path = load_run(store.path, run).path / "log.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["result"] |= {"best_step": 2, "verdict": "undecided", "mean_change": 0.01, "kinds": {}} | result
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reseal(path.parent)


@pytest.mark.ci
def test_a_run_of_an_earlier_version_keeps_its_decision_and_has_no_verdict(store: Store) -> None:
    run = finetune(store, QUICK).run
    judged(store, run, verdict="better", kinds={"box": CHANGE})
    assert finetune(store, QUICK).verdict == "better"
    path = load_run(store.path, run).path / "log.jsonl"
    path.write_text(path.read_text().replace('"accepted"', '"is_worse"'))
    reseal(path.parent)
    found = finetune(store, QUICK)
    assert found.run == run and found.accepted and found.verdict == found.kinds["box"].verdict == ""


@pytest.mark.parametrize(
    ("found", "is_for_it"),
    [({"verdict": "worse"}, False), ({"verdict": "undecided"}, True), ({}, True), ({"mean_change": 0.0}, False),
     ({"mean_change": 0.01, "verdict": ""}, True)],
)  # fmt: skip
def test_a_change_speaks_for_a_decoder_where_its_mean_rose(found: dict[str, object], is_for_it: bool) -> None:
    assert helped(found) is is_for_it


@pytest.mark.ci
def test_only_a_run_that_is_not_worse_becomes_the_default(store: Store) -> None:
    assert default_run(store.path, store.key) is None
    first, second = (finetune(store, QUICK.with_choices(seed=seed)).run for seed in (0, 1))

    def default(prompt: str | None = None) -> str | None:
        found = default_run(store.path, store.key, prompt)
        return None if found is None else found.id

    judged(store, first)
    judged(store, second)
    assert default() == second
    for found in ({"mean_change": 0.0}, {"mean_change": -0.001}):
        judged(store, second, **found)
        assert default() == first, found
    assert default_run(store.path, "nano-000000000000") is None
    nothing = finetune(store, QUICK.with_choices(steps=1, lr=1e-12, warmup=0, ema=0.0))
    assert nothing.best_step == 0 and not nothing.accepted and nothing.verdict == "", "one frame has no interval"
    assert default() == first, "a run that learned nothing stands in for none that did"
    point = finetune(store, QUICK.with_choices(prompt="point")).run
    judged(store, point, kinds={"mask": {"verdict": "undecided", "mean_change": -0.01}})
    assert [default(prompt) for prompt in (None, "point", "box", "mask")] == [point, point, first, first]


# in short: test_only_a_run_that_is_not_worse_becomes_the_default
@pytest.mark.slow
def test_a_run_knows_which_is_higher_on_the_same_validation_cells(store: Store) -> None:
    long = finetune(store, QUICK.with_choices(validation_cells=100, steps=QUICK.optimiser.steps + 4, lr=1e-3))
    short = finetune(store, QUICK.with_choices(validation_cells=100, steps=1, lr=1e-6))
    wide = finetune(store, QUICK.with_choices(validation_cells=100, steps=1, lr=1e-6, window=64))
    point = finetune(store, QUICK.with_choices(validation_cells=100, prompt="point"))
    for result in (long, short, wide, point):
        judged(store, result.run)
    top = max(result.tuned.mean_iou for result in (long, wide, short))
    highest = {result.run for result in (long, wide, short) if result.tuned.mean_iou == top}
    for result in (long, wide, short):  # another window answers the same prompts
        found, iou = best_run(store.path, load_run(store.path, result.run))
        assert found.id in highest and iou == top
    assert best_run(store.path, load_run(store.path, point.run))[0].id == point.run, "judged on other prompts"
    how = ["--steps", "4", "--lr", "1e-4", "--cells", "2", "--evaluate-every", "2", "--validation-cells", "100"]
    how += ["--window", "8", "--workers", "0"]
    done = CliRunner().invoke(main, ["finetune", "-s", str(store.path), *how])
    assert done.exit_code == 0
    new = load_run(store.path, "latest", "finetune")
    judged(store, new.id, tuned=new.result()["tuned"] | {"mean_iou": top - 0.1})
    assert best_run(store.path, load_run(store.path, new.id))[0].id in highest


def test_clicks_feed_back_and_the_curves_are_a_kind_of_their_own(store: Store) -> None:
    config = EvaluateConfig(
        split="val", prompts=("point", "point-clicks@3", "mask-perfect", "box+mask"), prompt_seeds=1, window=8
    )
    found = evaluate(store, None, config)
    clicks = store.sql(
        "select len(point_labels) as n, count(*) from prompts where kind = 'point-clicks@3' group by all"
    ).fetchall()
    assert max(n for n, _ in clicks) == 3
    first = store.sql(
        "select count(*) from prompts a join prompts b using (cell) where a.kind = 'point' and b.kind = 'point-clicks@3' "
        "and (a.points[1] <> b.points[1] or a.points[2] <> b.points[2])"
    ).fetchall()
    assert first == [(0,)]
    assert found.prompts["mask-perfect"].prompt_iou == 1
    curves = evaluate(store, None, EvaluateConfig(split="val", robustness=True, prompt_seeds=1, window=8))
    assert len(curves.prompts) == 17 and load_run(store.path, curves.run).kind == "robustness"
    box = [curves.prompts[f"box@{share}"].image_free_iou for share in ("0", "0.1", "0.3")]
    assert box == sorted(box, reverse=True)
    mask = [curves.prompts[f"mask@{iou}"].prompt_iou for iou in ("0.45", "0.65", "0.85")]
    assert mask == pytest.approx([0.45, 0.65, 0.85], abs=0.06)
