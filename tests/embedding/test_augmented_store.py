"""Augmented variants in a store: planned, embedded, streamed, and never scored."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hela_store.augment.ranges import Elastic
from hela_store.augment.variant import parse_variant
from hela_store.detection.config import DetectorConfig
from hela_store.detection.data import DetectionViews
from hela_store.detection.targets import HEAD_POSITIONS, grid_positions, position_px
from hela_store.detection.train import train_detector
from hela_store.embedding.batches import Frames, unique_views
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.plan import damped_share, make_plan
from hela_store.errors import RecipeError, StoreError
from hela_store.evaluation.frames import frame_cells, labelled_frames
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.runs.folder import load_run
from hela_store.store.labelled import Labelled
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.data import TrainingSteps, stored_variants, training_views
from hela_store.training.finetune import finetune
from stores import chunks, forget


def with_augment(path: Path, **values: object) -> Store:
    store = Store.open(path)
    return Store(path, replace(store.recipe, augment=replace(store.recipe.augment, **values)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def varied(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the small store with one variant of every training view and of a test view, embedded."""
    path = tmp_path_factory.mktemp("varied") / "store"
    shutil.copytree(embedded, path)
    text = (path / "store.toml").read_text().replace("variants = 0", "variants = 1")
    (path / "store.toml").write_text(text.replace('frames = "all"', 'frames = "train"'))
    report = embed(Store.open(path))
    assert (report.planned, report.done_before, report.done_now, report.variants) == (12, 8, 4, 4)
    return path


@pytest.mark.ci
def test_what_is_embedded_is_what_the_plan_says_and_its_labels_are_stored(varied: Path) -> None:
    store = Store.open(varied)
    plan = store.views_table().to_pylist()
    assert [row["variant"] for row in plan if row["frame"] == "01/t002"] == [0, 1]
    row = next(row for row in plan if row["frame"] == "01/t002" and row["variant"] == 1)
    variant = parse_variant(row["params"])
    assert variant.seed == row["seed"] and variant.set == store.recipe.augment.set and variant.jacobian > 0
    assert json.loads(row["params"]) == store.view("01/t002", variant=1).params
    shown = store.view("01/t002", variant=1)
    label, valid = store.arrays.view_truth((192, 256), row["row"])
    assert np.array_equal(shown.label, label) and np.array_equal(shown.valid, valid)
    (record,) = (view for view in ViewRecord.of(store.views_table()) if view.view == row["view"])
    again, known = Frames(store).truth(record)
    assert np.array_equal(again, label) and np.array_equal(known, valid)
    assert shown.image.shape == (192, 256) and shown.image.dtype == np.float32
    assert {cell["label"] for cell in shown.cells} == set(np.unique(label)[1:])
    x, y = shown.cells[0]["cx"], shown.cells[0]["cy"]
    assert np.allclose(shown.warp.to_view(shown.warp.to_frame([x, y])), [x, y], atol=1e-3)
    assert not np.array_equal(store.embedding("01/t002"), store.embedding("01/t002", variant=1))


def test_lost_and_wrong_labels_of_variants_are_found_and_made_again(varied: Path, tmp_path: Path) -> None:
    store = Store.open(shutil.copytree(varied, tmp_path / "store"))
    lost, wrong = [row for row in store.views_table().to_pylist() if row["variant"]][:2]
    before = {row["row"]: store.arrays.view_truth((192, 256), row["row"]) for row in (lost, wrong)}
    (Path(store.arrays.storage.root) / f"views/192x256/label/c.{lost['row']}.0.0").unlink()
    label, valid = before[wrong["row"]]
    store.arrays.write_view_truth(wrong["row"], np.roll(label, 5, 1), valid)
    report = verify(store)
    assert [(fault.kind, fault.row) for fault in report.faults] == [("damaged", row) for row in before]
    report = verify(store, VerifyConfig(repair=True))
    assert report.whole and report.encoded == 0
    for row, truth in before.items():
        assert all(map(np.array_equal, store.arrays.view_truth((192, 256), row), truth))


def test_views_as_acquired_are_what_they_were(embedded: Path, varied: Path) -> None:
    before, after = Store.open(embedded), Store.open(varied)
    for row in before.views_table().to_pylist():
        assert (
            after.arrays.chunk_path(after.key, row["row"]).read_bytes()
            == before.arrays.chunk_path(before.key, row["row"]).read_bytes()
        )
    shown = after.view("01/t002")
    assert shown.params == {} and shown.image.dtype == np.uint16 and shown.cells


def test_raising_the_number_computes_only_new_ones_and_a_changed_range_is_another_set(varied: Path) -> None:
    one, more = Store.open(varied), with_augment(varied, variants=3)
    ids = {row["view"] for row in one.views_table().to_pylist()}
    new = unique_views(make_plan(more)).to_pylist()
    assert ids < {row["view"] for row in new} and len(new) == 8 + 4 * 3
    assert {row["view"]: row["row"] for row in new}.items() >= {
        r["view"]: r["row"] for r in one.views_table().to_pylist()
    }.items()
    dry = embed(more, EmbedConfig(dry_run=True))
    assert (dry.planned, dry.done_before, dry.left, dry.variants) == (20, 12, 8, 12)
    assert dry.seconds is not None and dry.bytes_left > 8 * 500_000
    other = with_augment(varied, elastic=Elastic(sigma=12.0))
    changed = {row["view"] for row in make_plan(other).to_pylist() if row["variant"]}
    assert not changed & ids
    everywhere = with_augment(varied, frames="all")
    assert len(make_plan(everywhere)) == 16


def test_before_embedding_a_view_is_made_from_the_plan(varied: Path) -> None:
    store = with_augment(varied, variants=3)
    make_plan(store)
    shown = store.view("01/t001", variant=3)
    assert shown.label.any() and shown.params["seed"]
    with pytest.raises(StoreError, match="variant 3 is not embedded yet"):
        store.embedding("01/t001", variant=3)
    row = next(r for r in store.views_table().to_pylist() if r["variant"] == 3)
    with pytest.raises(StoreError, match=r"is not there; `hela-store verify|has 12 rows"):
        store.truths.read(row["view"], (192, 256), row["row"])


def test_variants_of_a_partly_labelled_frame_show_its_known_cells_only(varied: Path) -> None:
    store = Store.open(varied)
    first = store.cells_table()["cell"].to_pylist()[0]
    part = Labelled(store.path, store.recipe, [first])
    views = training_views(part, variants=1)
    assert {cell.cell for view in views for cell in view.cells} == {first} and views[-1].variant == 1
    (label, valid), (every, anywhere) = views[-1].truth(part), views[-1].truth(store)
    mine = int(first.partition("#")[2])
    assert set(np.unique(label)) == {0, mine} < set(np.unique(every))
    assert ((label == mine) != (every == mine)).mean() < 0.001
    assert np.array_equal(valid[label == mine], anywhere[label == mine]) and valid.sum() < anywhere.sum()


def test_training_streams_variants_of_training_frames_only(varied: Path) -> None:
    store = Store.open(varied)
    assert stored_variants(store) == 1 and stored_variants(store, "test") == 0
    frames = {row["view"]: (row["frame"], row["variant"]) for row in store.views_table().to_pylist()}
    found = [frames[view.view] for view in training_views(store, variants=1)]
    assert {frame for frame, _ in found} == {f"01/t{i:03d}" for i in range(4)}
    assert sorted(variant for _, variant in found) == [0] * 4 + [1] * 4
    assert all(frames[view.view][1] == 0 for view in training_views(store))
    steps = TrainingSteps(store, "box", cells=50, seed=0, first=0, count=8, variants=1)
    assert steps.steps_per_epoch == 8
    seen = 0
    for step in (steps[i] for i in range(8)):
        frame, variant = frames[step.view]
        for i, label in enumerate(step.labels.tolist()):
            rows, columns = np.nonzero(step.truth.numpy() == label)
            assert step.prompts.boxes is not None
            x0, _y0, _x1, y1 = (step.prompts.boxes[i].numpy() + 0.5) / 2
            wide, high = columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()
            assert abs(x0 - columns.min()) < 0.35 * wide and abs(y1 - rows.max() - 1) < 0.35 * high
            assert step.cells[i] == f"{frame}#{label}"
            seen += variant
    assert seen > 3


def test_detectors_learn_from_variants_and_their_own_labels(varied: Path, tmp_path: Path) -> None:
    store = Store.open(varied)
    views = DetectionViews(store, seed=0, variants=1)
    by_row = {view.row: view for view in views.views}
    order = {tuple(store.arrays.embedding(store.key, row)[:, 30, 30]): row for row in by_row}
    seen = 0
    for embedding, targets in (views[i] for i in range(8)):
        view = by_row[order[tuple(embedding[:, 30, 30].numpy().astype(np.float16))]]
        if not view.variant:
            continue
        seen += 1
        label, valid = store.arrays.view_truth((192, 256), view.row)
        rows, columns = grid_positions(view.rect)
        inside, known = np.zeros((2, HEAD_POSITIONS, HEAD_POSITIONS), bool)
        inside[: len(rows), : len(columns)] = label[np.ix_(rows, columns)] > 0
        known[: len(rows), : len(columns)] = valid[np.ix_(rows, columns)]
        assert np.array_equal(targets.inside, inside) and np.array_equal(targets.inside_counted, known)
        pitch = position_px(view.rect)
        for (x0, y0, x1, y1), value in zip(targets.boxes * pitch, np.unique(label)[1:], strict=True):
            rows, columns = np.nonzero(label == value)
            assert (x0, y0, x1, y1) == pytest.approx(
                (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), abs=1e-3
            )
    assert seen == 4
    shutil.copytree(varied, tmp_path / "store")
    store, quick = Store.open(tmp_path / "store"), DetectorConfig(steps=1, batch=1, workers=0)
    assert load_run(store.path, train_detector(store, quick).run).config["variants"] == 1
    with pytest.raises(RecipeError, match="variants is 2, the training views have 1"):
        train_detector(store, replace(quick, variants=2))


def test_variants_of_test_frames_never_train_and_are_never_scored(varied: Path) -> None:
    store = with_augment(varied, frames="all")
    views = list(ViewRecord.of(unique_views(make_plan(store))))
    # as if they had been embedded
    from hela_store.store.ledger import Entry

    shutil.copytree(varied, varied.parent / "leaky")
    leaky = Store(varied.parent / "leaky", store.recipe)
    leaky.arrays.add_view_truth((192, 256), max(view.row for view in views) + 1)
    extra = [view for view in views if view.view not in leaky.committed()]
    assert {view.frame for view in extra} >= {"01/t007", "01/t005"}
    truths = [leaky.truths.write(view.view, view.row, *Frames(leaky).truth(view)) for view in extra]
    leaky.commit([Entry(view=view.view, row=view.row, sha256="") for view in extra], truths)
    leaky = Store(leaky.path, store.recipe)
    train = {f"01/t{i:03d}" for i in range(4)}
    frames = {view.view: view.frame for view in views}
    assert {frames[view.view] for view in training_views(leaky, variants=9)} == train
    acquired = {view.view for view in views if view.variant == 0}
    for part in frame_cells(leaky, labelled_frames(leaky, "test")):
        assert part.tiles and {tile.view for tile in part.tiles} <= acquired


def test_finetune_takes_what_is_stored_or_what_is_asked(varied: Path, tmp_path: Path) -> None:
    shutil.copytree(varied, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    quick = FinetuneConfig.of(steps=2, cells=2, validation_cells=2, workers=0, window=8)
    assert load_run(store.path, finetune(store, quick).run).config["variants"] == 1
    assert load_run(store.path, finetune(store, quick.with_choices(variants=0)).run).config["variants"] == 0
    with pytest.raises(RecipeError, match="variants is 2, the training views have 1"):
        finetune(store, quick.with_choices(variants=2))


def test_many_variants_want_to_be_meant(varied: Path) -> None:
    store = with_augment(varied, variants=101)
    with pytest.raises(RecipeError, match="give --yes"):
        embed(store)
    assert not store.plan_path().exists()


def test_often_damped_ranges_are_reported(varied: Path) -> None:
    store = with_augment(varied, elastic=Elastic(alpha=(6.0, 8.0)))
    plan = make_plan(store)
    assert damped_share(plan) == 1
    assert all(parse_variant(row["params"]).jacobian > 0 for row in plan.to_pylist())
    (note,) = embed(store, EmbedConfig(dry_run=True)).notes
    assert "100 % of the elastic variants would have folded" in note
    assert damped_share(Store.open(varied).views_table()) == 0


def test_the_catalog_knows_variants(varied: Path) -> None:
    rows = Store.open(varied).sql(
        "SELECT variant, count(*) FROM views JOIN committed USING (view) GROUP BY 1 ORDER BY 1"
    )
    assert rows.fetchall() == [(0, 8), (1, 4)]


def test_labels_of_variants_are_listed_once_more_where_the_list_is_lost(varied: Path, tmp_path: Path) -> None:
    store = Store.open(shutil.copytree(varied, tmp_path / "store"))
    before = store.truths.ledger.entries()
    assert len(before) == sum(view.variant > 0 for view in ViewRecord.of(store.views_table()))
    shutil.rmtree(tmp_path / "store/truths")  # a store of before, which had none
    old = Store.open(store.path)
    assert old.view("01/t002", variant=1).label.any()
    assert embed(old).done_now == 0 and verify(old).whole
    assert Store.open(store.path).truths.ledger.entries() == before
    (segment,) = sorted((store.path / "truths").iterdir())
    segment.write_bytes(segment.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"truths/.* is damaged"):
        Store.open(store.path).view("01/t002", variant=1)
    report = verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu"))
    assert report.whole and report.encoded == 0
    assert Store.open(store.path).truths.ledger.entries() == before


@pytest.mark.ci
@pytest.mark.parametrize("views", [6, pytest.param(12, marks=pytest.mark.slow)])
def test_processes_that_read_change_neither_bytes_nor_order(varied: Path, tmp_path: Path, views: int) -> None:
    stores = []
    for name, readers in (("one", None), ("several", 2)):
        path = tmp_path / name
        shutil.copytree(varied, path, ignore=shutil.ignore_patterns("truths"))
        forget(Store.open(path), views)  # the last ones; all four variants are among six
        assert embed(Store.open(path), EmbedConfig(readers=readers)).done_now == views
        stores.append(Store.open(path))
    one, several = stores
    assert chunks(several) == chunks(one)
    assert list(several.ledger().entries().values()) == list(one.ledger().entries().values())
    assert several.truths.ledger.entries() == one.truths.ledger.entries() != {}


@pytest.mark.ci
def test_an_error_of_a_process_that_reads_is_its_own(varied: Path, tmp_path: Path) -> None:
    shutil.copytree(varied, tmp_path / "store", ignore=shutil.ignore_patterns("ledger", "embeddings", "truths"))
    store = Store.open(tmp_path / "store")
    embed(store, EmbedConfig(limit=1))
    damaged = [path for path in (store.path / "arrays.zarr").rglob("c*") if path.is_file() and "image" in str(path)]
    assert damaged
    for chunk in damaged:
        chunk.write_bytes(b"no image")
    with pytest.raises(StoreError, match="views were committed before") as before:
        embed(store)
    with pytest.raises(StoreError) as found:
        embed(store, EmbedConfig(readers=1))
    assert str(found.value) == str(before.value)
