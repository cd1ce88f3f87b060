"""A fine-tuning on a budget reads no label outside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hela_store.baselines.unet_crops import Crops
from hela_store.baselines.unet_labels import IGNORED
from hela_store.detection.data import DetectionViews
from hela_store.errors import RecipeError
from hela_store.evaluation.tracks import nuclei
from hela_store.runs.default import default_run
from hela_store.runs.folder import load_run
from hela_store.store.labelled import RIM, Labelled
from hela_store.store.store import Store
from hela_store.training.budget import CELLS_FILE, folds, labelled
from hela_store.training.config import BudgetConfig, FinetuneConfig
from hela_store.training.finetune import finetune
from stores import reseal_labels

QUICK = FinetuneConfig.of(prompt="all", steps=6, evaluate_every=3, cells=4, workers=0, lr=1e-3, window=8, refine=0.5)


def training_cells(store: Store) -> tuple[str, ...]:
    blocks = store.blocks()
    return tuple(row["cell"] for row in store.cells_table().to_pylist() if blocks[row["frame"]] == "train")


def corrupt(path: Path, budget: tuple[str, ...]) -> None:
    """Make another label image of every training and validation frame in which only the cells of the budget stay."""
    store, rng = Store.open(path), np.random.default_rng(0)
    for frame, block in store.blocks().items():
        record = store.frame_records()[frame]
        if block == "test" or not record.has_label:
            continue
        label = store.pixels.label(frame).copy()
        mine = [
            row["label"] for row in store.cells_table().to_pylist() if row["cell"] in budget and row["frame"] == frame
        ]
        junk = rng.integers(0, 3, (label.shape[0] // 8, label.shape[1] // 8)).repeat(8, 0).repeat(8, 1) * 1000
        changed = np.where(np.isin(label, mine), label, junk)
        assert (changed != label).any()
        image, valid = store.pixels.image(frame), store.pixels.valid(frame)
        store.arrays.write_frame(record.group, record.row, image, changed.astype(np.int32), valid)
    reseal_labels(path)


@pytest.mark.ci
@pytest.mark.parametrize("crossed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_label_outside_the_budget_is_read(store: Store, tmp_path: Path, crossed: bool) -> None:
    cells = training_cells(store)
    budget, held = cells[::4], () if crossed else cells[1::12]
    config = QUICK.with_choices(train_cells=budget, held_cells=held, pick="given")
    shutil.copytree(store.path, tmp_path / "other")
    corrupt(tmp_path / "other", budget + held)
    other = Store.open(tmp_path / "other")
    one, two = finetune(store, config), finetune(other, config)
    first, second = (load_run(place.path, found.run) for place, found in ((store, one), (other, two)))
    weights = [load_file(run.weights) for run in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert one.best_step == two.best_step and one.zero_shot == two.zero_shot and one.tuned == two.tuned
    # these follow from all steps, whichever of them is kept; the test would see nothing if nothing were learned
    names = ("crossed",) if crossed else ("loss", "val")
    learned = [[row[name] for row in run.log() for name in names if name in row] for run in (first, second)]
    assert learned[0] == learned[1] and len(learned[0]) == (1 if crossed else 5)
    assert not crossed or len(set(learned[0][0].values())) > 1


@pytest.mark.ci
def test_a_run_lists_its_cells_and_never_becomes_the_default(store: Store) -> None:
    cells = training_cells(store)
    config = QUICK.with_choices(prompt="box", train_cells=cells[3:0:-1], held_cells=cells[:1], pick="given")
    result = finetune(store, config)
    run = load_run(store.path, result.run)
    assert (run.config["budget"], run.config["held"], run.config["pick"]) == (4, 1, "given")
    assert "train_cells" not in run.config and "val" not in run.config["frames"]
    assert f'"{cells[0]}"' in (run.path / CELLS_FILE).read_text()
    assert "1 held cells" in result.units and result.zero_shot.n == 1
    assert default_run(store.path, store.key) is None
    assert finetune(store, config).run == result.run, "the same cells in another order are the same training"
    assert finetune(store, config.with_choices(held_cells=cells[4:5])).run != result.run


def test_only_known_ground_is_valid(embedded: Path) -> None:
    store = Store.open(embedded)
    cells = training_cells(store)
    frame = cells[0].partition("#")[0]
    mine = [cell for cell in cells if cell.startswith(f"{frame}#")]
    part, whole = Labelled(store.path, store.recipe, mine[:2]), Labelled(store.path, store.recipe, mine)
    assert [row["cell"] for row in part.cells_table().to_pylist()] == mine[:2]
    label, valid = part.pixels.label(frame), part.pixels.valid(frame)
    assert set(np.unique(label)) - {0} == {int(cell.partition("#")[2]) for cell in mine[:2]}
    assert valid[label > 0].all() and 0 < valid[label == 0].sum() < (6 + 4 * RIM) * 4 * sum(label.shape)
    assert not valid.all() and (whole.pixels.valid(frame) == store.pixels.valid(frame)).all()
    assert not part.pixels.valid(mine[0].replace(frame, "01/t002").partition("#")[0]).any()


def test_detectors_and_u_nets_ignore_unlabelled_ground(embedded: Path) -> None:
    store = Store.open(embedded)
    cells = training_cells(store)
    part = Labelled(store.path, store.recipe, cells[:1])
    _, seen = DetectionViews(part, seed=0)[0]
    assert len(seen.boxes) == 1 and 0 < seen.counted.sum() < 0.2 * seen.counted.size
    assert not seen.inside[~seen.inside_counted].any()
    series: dict[str, Any] = {"shrink": 1.0, "size": 1, "seed": 0, "first": 0, "count": 1}
    frame = cells[0].partition("#")[0]
    _, classes = Crops(part, [frame], **series)[0]
    _, every = Crops(store, [frame], **series)[0]
    known = classes != IGNORED
    assert 0 < known.sum() < 0.2 * (every != IGNORED).sum()
    assert (classes[known] == every[known]).float().mean() > 0.9, "the rim of a neighbour is the only difference"


def test_cells_that_cannot_train_are_refused(embedded: Path) -> None:
    store = Store.open(embedded)
    cells, blocks = store.cells_table().to_pylist(), store.blocks()
    tested = next(row["cell"] for row in cells if blocks[row["frame"]] == "test")
    mine = training_cells(store)
    with pytest.raises(RecipeError, match=r"in a test frame.*training frames only"):
        labelled(store, BudgetConfig(train=(*mine[:2], tested)))
    with pytest.raises(RecipeError, match=r"'01/t000#9999' of train_cells"):
        labelled(store, BudgetConfig(train=(*mine[:2], "01/t000#9999")))
    with pytest.raises(RecipeError, match="named twice"):
        BudgetConfig(train=mine[:2], held=mine[1:2])
    with pytest.raises(RecipeError, match="one cell"):
        BudgetConfig(train=mine[:1])
    with pytest.raises(RecipeError, match="train_cells none"):
        BudgetConfig(held=mine[:1])
    assert FinetuneConfig().flat().keys().isdisjoint({"train_cells", "held_cells", "pick"})


def test_folds_hold_every_cell_once() -> None:
    cells = [f"c{i}" for i in range(12)]
    parts = folds(cells, {cell: cell for cell in cells})
    assert sorted(map(len, parts)) == [4, 4, 4] and len({cell for part in parts for cell in part}) == 12
    assert len(folds(["a", "b"], {"a": "a", "b": "b"})) == 2
    # of a single nucleus there is no other way
    assert len(folds(["a", "b", "c"], dict.fromkeys("abc", "a"))) == 3


def test_a_nucleus_never_trains_and_judges_in_a_cross_validation(store: Store) -> None:
    mine = training_cells(store)
    of = nuclei(store)
    assert of.keys() == set(mine) and len(set(of.values())) < len(mine)
    parts = folds(mine, of)
    assert len(parts) == 3 and sorted(cell for part in parts for cell in part) == sorted(mine)
    # a budget of few cells knows that equal labels are one nucleus, too, where no label between them is known
    few = [cell for cell in mine if cell.startswith(("01/t000#", "01/t003#"))]
    known = nuclei(Labelled.of(store, few), sparse=True)
    assert all((known[one] == known[other]) == (of[one] == of[other]) for one in few for other in few)
    first, second, third = ({of[cell] for cell in part} for part in parts)
    assert not first & second and not first & third and not second & third
