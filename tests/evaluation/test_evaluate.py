import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr
from scipy import ndimage

from hela_store.errors import PromptError, RunError, SplitError, StoreError
from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.questions import BATCH, answer, truth_questions
from hela_store.images.rle import decode_crop
from hela_store.metrics.overlap import overlap
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from stores import reseal_labels, reseal_tables

T = TypeVar("T")
ALL = ("box", "box-exact", "point", "point-centre", "mask", "mask-previous")


def config(**changes: object) -> EvaluateConfig:
    return EvaluateConfig(**{"split": "test", "prompts": ALL, "prompt_seeds": 2, "window": 8} | changes)  # type: ignore[arg-type]


def test_every_cell_of_the_block_is_scored_for_every_kind_and_seed(store: Store) -> None:
    result = evaluate(store, None, config())
    rows = store.sql(
        "select prompt, count(*), count(distinct cell) from cell_metrics group by all order by all"
    ).fetchall()
    cells = store.sql("select count(*) from cells where frame = '01/t007'").fetchall()[0][0]
    seeds = {kind: 1 if kind in ("box-exact", "point-centre") else 2 for kind in ALL}
    assert rows == sorted((kind, cells * seeds[kind], cells) for kind in ALL)
    assert result.prompts["box"].n == cells * 2 and result.test_scorings == 1
    assert result.to_json()["prompts"]["mask"]["prompt_iou"] == pytest.approx(0.65, abs=0.25)
    assert evaluate(store, None, config(prompts=("box-exact",))).test_scorings == 2


def test_stored_masks_give_the_stored_scores_without_a_decoder(store: Store) -> None:
    evaluate(store, None, config(prompts=("box", "mask")))
    labels = store.frames("01")["label"].sel(frame="01/t007").values
    rows = store.sql(
        "select rle, rle_height, rle_width, p.iou, p.dice, label from predictions p join cells using (cell)"
    )
    checked = 0
    for rle, height, width, iou, dice, label in rows.fetchall():
        mask, origin = decode_crop(rle, height, width)
        shared = overlap(mask, labels == label, origin, (0, 0))
        assert shared.iou == pytest.approx(iou) and shared.dice == pytest.approx(dice)
        checked += 1
    assert checked > 0


def test_boundary_metrics_and_failures_are_columns(store: Store) -> None:
    for path in (store.path / "ingest").glob("cells-*.parquet"):  # the drawn cells lie apart
        cells = pq.read_table(path)
        touching = pc.equal(pc.bit_wise_and(cells["label"], 1), 1)
        pq.write_table(
            cells.set_column(cells.schema.get_field_index("touches_neighbour"), "touches_neighbour", touching), path
        )
    reseal_tables(store.path)
    result = evaluate(Store.open(store.path), None, config(prompts=("box", "point"), prompt_seeds=1, split="all"))
    rows = store.sql("""
        select prompt, iou, touches_neighbour, is_empty, diameter, boundary_iou, hd95, nsd1, nsd2, spill, failure, is_dim, is_bright_small
        from cell_metrics
    """).df()
    assert not rows.isna().any().any()
    assert ((rows.failure == "empty") == rows.is_empty).all()
    assert (rows.hd95[rows.is_empty] == rows.diameter[rows.is_empty]).all()
    assert (rows.nsd1 <= rows.nsd2).all() and rows.spill.between(0, 1).all()
    box = rows[rows.prompt == "box"]
    mean = result.to_json()["prompts"]["box"]
    assert mean["mean_hd95"] == pytest.approx(box.hd95.mean()) and mean["n_found"] == (~box.is_empty).sum()
    assert mean["mean_hd95_found"] == pytest.approx(box.hd95[~box.is_empty].mean())
    assert mean["mean_boundary_iou"] == pytest.approx(box.boundary_iou.mean())
    assert mean["failures"] == {name: int((box.failure == name).sum()) for name in mean["failures"]}
    found = result.to_json()["subsets"]["box"]
    flags = {"touching": box.touches_neighbour, "dim": box.is_dim, "bright-small": box.is_bright_small}
    assert {name: part["n"] for name, part in found.items()} == {
        name: flag.sum() for name, flag in flags.items() if flag.any()
    }
    assert found and all(part["mean_iou"] == pytest.approx(box.iou[flags[name]].mean()) for name, part in found.items())


def test_masks_by_their_own_iou_and_the_oracle_among_three(store: Store) -> None:
    """What a decoder makes worse, and what a better choice among its three masks would have given, from stored rows."""
    result = evaluate(
        store, None, EvaluateConfig(split="train", prompts=("mask", "point", "box"), prompt_seeds=2, window=8)
    )
    pairs = "FROM predictions d JOIN prompts p USING (run, prompt_id) WHERE p.kind = 'mask'"
    rows = store.sql(f"SELECT p.prompt_iou, d.iou {pairs}").fetchall()
    assert result.prompts["mask"].made_worse == pytest.approx(np.mean([iou < own for own, iou in rows]))
    assert (
        result.prompts["box"].made_worse
        is result.prompts["box"].oracle_iou
        is result.prompts["mask"].oracle_iou
        is None
    )
    assert result.prompts["point"].oracle_iou is not None
    assert result.prompts["point"].oracle_iou > result.prompts["point"].mean_iou
    bins = {name: part for name, part in result.subsets["mask"].items() if name.startswith("prompt IoU")}
    assert sum(part.n for part in bins.values()) == sum(0.4 <= own < 0.9 for own, _ in rows) > 0
    for name, part in bins.items():
        low, high = map(float, name.split()[-1].split("-"))
        inside = [(own, iou) for own, iou in rows if low <= own < high]
        assert part.n == len(inside) and part.mean_iou == pytest.approx(np.mean([iou for _, iou in inside]))
        assert part.made_worse == pytest.approx(np.mean([iou < own for own, iou in inside]))
    assert not any(name.startswith("prompt IoU") for name in result.subsets.get("box", {}))


def test_skill_of_masks_is_over_the_stronger_of_the_image_free_answers(store: Store) -> None:
    result = evaluate(store, None, config(prompts=("mask", "box"), split="train"))
    mask, box = result.prompts["mask"], result.prompts["box"]
    rows = store.sql(
        "select kind, avg(free_ellipse_iou), avg(free_iou) from prompts group by all order by all"
    ).fetchall()
    assert rows[0][1] is None and rows[1][1:] == pytest.approx((mask.ellipse_iou, mask.image_free_iou))
    assert mask.ellipse_iou is not None and box.ellipse_iou is None
    floor = max(mask.ellipse_iou, mask.image_free_iou)
    assert floor > mask.image_free_iou  # drawn cells are ellipses of much the same size
    assert mask.skill == pytest.approx((mask.mean_iou - floor) / (1 - floor))


def test_runs_pair_on_identical_prompts(store: Store) -> None:
    evaluate(store, None, config(prompts=("box", "point", "mask")))
    evaluate(store, None, config(prompts=("mask", "box", "point")))
    unlike = store.sql("""
        select count(*) from prompts a join prompts b on a.cell = b.cell and a.kind = b.kind and a.prompt_seed = b.prompt_seed
        where a.run < b.run and (a.x0 is distinct from b.x0 or a.points <> b.points or a.params <> b.params or a.view <> b.view)
    """)
    assert unlike.fetchall()[0] == (0,)


def test_own_boxes_and_own_masks_are_scored_and_say_where_they_come_from(store: Store, tmp_path: Path) -> None:
    cells = store.sql("select frame, x0, y0, x1, y1 from cells where frame = '01/t007'").df()
    cells.to_csv(tmp_path / "boxes.csv", index=False)
    table = evaluate(store, None, config(prompt_table=tmp_path / "boxes.csv"))
    assert list(table.prompts) == ["box"] and table.prompts["box"].n == len(cells)
    exact = evaluate(store, None, config(prompts=("box-exact",)))
    assert table.prompts["box"].mean_iou == pytest.approx(exact.prompts["box-exact"].mean_iou)
    labels = store.frames("01")["label"].sel(frame="01/t007").values
    (tmp_path / "otsu").mkdir()
    tifffile.imwrite(tmp_path / "otsu" / "t007.tif", np.roll(labels, 2, 1).astype(np.uint16))
    masks = evaluate(store, None, config(prompt_masks=tmp_path / "otsu"))
    assert masks.prompts["mask"].prompt_iou is not None and 0.5 < masks.prompts["mask"].prompt_iou < 1
    origins = store.sql("select distinct prompt_origin from cell_metrics order by all").fetchall()
    assert origins == [("boxes.csv",), ("otsu",), ("truth",)]


def test_prompts_that_fit_nothing_leave_no_run(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError, match="name of a frame"):
        evaluate(store, None, config(prompt_masks=tmp_path / "empty"))
    tifffile.imwrite(tmp_path / "empty" / "t007.tif", np.zeros((192, 256), np.uint16))
    with pytest.raises(PromptError, match="none of the given prompts"):
        evaluate(store, None, config(prompt_masks=tmp_path / "empty"))
    assert not (store.path / "runs").exists()


def test_predictions_follow_from_prompts_alone(store: Store, tmp_path: Path) -> None:
    """Other labels, same prompts: same masks. So neither window nor tile can have seen the truth."""
    cells = store.sql("select frame, x0, y0, x1, y1 from cells where frame = '01/t007'").df()
    cells.to_csv(tmp_path / "boxes.csv", index=False)
    first = evaluate(store, None, config(prompt_table=tmp_path / "boxes.csv"))
    shutil.copytree(store.path, tmp_path / "other")
    writable = zarr.open_array(tmp_path / "other" / "arrays.zarr" / "frames" / "01" / "label", mode="r+")
    label = writable[7]
    thin = ndimage.minimum_filter(label, 3) == ndimage.maximum_filter(label, 3)
    writable[7] = np.where(thin, label, 0)
    reseal_labels(tmp_path / "other")
    other = Store.open(tmp_path / "other")
    second = evaluate(other, None, config(prompt_table=tmp_path / "boxes.csv"))
    asked = (
        "select x0, y0, x1, y1, rle from prompts join predictions using (run, prompt_id) where run = '{}' order by all"
    )
    assert store.sql(asked.format(first.run)).fetchall() == other.sql(asked.format(second.run)).fetchall()


def test_what_cannot_be_scored_says_so(store: Store) -> None:
    with pytest.raises(RunError, match="nosuch"):
        evaluate(store, "nosuch")
    with pytest.raises(PromptError, match="scribble"):
        EvaluateConfig(prompts=("scribble",))
    shutil.rmtree(store.path / "ledger")
    with pytest.raises(StoreError, match="hela-store embed"):
        evaluate(Store.open(store.path), None, config())


def test_an_empty_split_is_named(store: Store) -> None:
    text = (store.path / "store.toml").read_text()
    (store.path / "store.toml").write_text(text.replace('val = "5-5"', 'val = ""').replace('val = "5"', 'val = ""'))
    with pytest.raises(SplitError, match="val"):
        evaluate(Store.open(store.path), None, config(split="val"))


def test_a_tuned_run_is_scored_with_its_own_weights(store: Store) -> None:
    tuned = finetune(
        store, FinetuneConfig.of(steps=4, evaluate_every=2, cells=3, validation_cells=4, workers=0, lr=1e-2, window=8)
    )
    result = evaluate(store, tuned, split="val", config=config(prompts=("box",)))
    assert result.checkpoint == tuned.run
    kinds = store.sql("select kind, parent from runs where id = ?".replace("?", f"'{result.run}'")).fetchall()[0]
    assert kinds == ("evaluate", tuned.run)


def test_progress_moves_prompt_by_prompt_not_frame_by_frame(store: Store) -> None:
    seen: list[tuple[str, int, int]] = []

    def count(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        moves = 0
        for item in iterable:
            moves += 1
            yield item
        seen.append((what, total, moves))

    prompts = EvaluateConfig(prompts=("box", "box-exact"), prompt_seeds=3, split="all")
    result = evaluate(store, None, prompts, progress=count)
    n = sum(score.n for score in result.prompts.values())
    assert ("evaluate all, prompts", n, n) in seen


def test_the_progress_of_a_validation_moves_within_a_view(store: Store) -> None:
    """Many prompts of one view are decoded a few at a time, so that the bar does not stand still for all of them."""
    (frame,) = frame_cells(store, labelled_frames(store, "val"))
    questions = truth_questions(frame, ["box"], range(BATCH), median_training_radius(store))
    decoder, moves = resolve_checkpoint(store, None).load_decoder(), 0
    passes: list[int] = []
    for module in decoder.modules():
        module.register_forward_hook(lambda *_: passes.append(moves))

    def count(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        nonlocal moves
        assert (what, total) == ("validate, prompts", len(questions))
        for item in iterable:
            moves += 1
            yield item

    answers = answer(store, decoder, questions, 8, progress=count)
    assert len(answers) == len(questions) == moves > BATCH
    assert max(passes) >= BATCH, "the view is decoded whole before the first move"
