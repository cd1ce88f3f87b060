import numpy as np
import pyarrow as pa
import pytest
import tifffile

from hela_store.base.progress import silent
from hela_store.base.rng import generator
from hela_store.catalog import index as catalog
from hela_store.embedding.batches import Frames, done_of, unique_views, work_of
from hela_store.embedding.ingest import ingest
from hela_store.embedding.plan import build_plan, make_plan, view_id
from hela_store.errors import StoreError
from hela_store.images.normalise import apply, limits
from hela_store.integrity.store_faults import planned_views
from hela_store.store.ledger import Entry
from hela_store.store.new_store import new_store
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store
from hela_store.store.tables import PLAN_SCHEMA

RECIPE = """format = 1
name = "s"
[dataset]
path = "../data"
labels = "none"
[views]
tile = 64
overlap = 16
"""


def write_frames(root, numbers):
    for number in numbers:
        path = root / "data" / "01" / f"t{number:03}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, generator("plan", number).integers(100, 900, (80, 96)).astype("uint16"))


@pytest.fixture
def store(tmp_path):
    write_frames(tmp_path, range(2))
    store = new_store(tmp_path / "store", RECIPE)
    ingest(store, silent)
    return store


def change(store, old, new):
    path = store.path / "store.toml"
    path.write_text(path.read_text().replace(old, new))
    return Store.open(store.path)


def test_every_tile_of_every_frame_with_its_limits(store):
    plan = make_plan(store)
    assert plan.schema.names == PLAN_SCHEMA.names
    assert plan["tile"].to_pylist() == [0, 1, 2, 3] * 2
    assert plan["row"].to_pylist() == list(range(8))
    assert len(set(plan["view"].to_pylist())) == 8
    rects = list(zip(*(plan[n].to_pylist() for n in ("x0", "y0", "width", "height")), strict=True))
    assert rects == [(0, 0, 64, 64), (32, 0, 64, 64), (0, 16, 64, 64), (32, 16, 64, 64)] * 2
    lo, hi = limits(store.pixels.image("01/t001"), "percentile", 0.5, 99.8)
    assert plan.slice(4)["lo"].to_pylist() == [lo] * 4
    assert plan.slice(4)["hi"].to_pylist() == [hi] * 4
    assert plan["view"][4].as_py() == view_id(store.frames_table()["sha256"][1].as_py(), lo, hi, (0, 0, 64, 64))


def test_making_it_again_changes_nothing(store):
    plan = make_plan(store)
    (file,) = (store.path / "plan").iterdir()
    before = file.stat().st_mtime_ns
    assert make_plan(Store.open(store.path)).equals(plan)
    assert file.stat().st_mtime_ns == before


def test_new_frames_are_appended(store, tmp_path):
    before = make_plan(store)
    write_frames(tmp_path, [2])
    ingest(store, silent)
    with pytest.raises(StoreError, match="no plan"):
        store.views_table()
    after = make_plan(store)
    assert after.slice(0, 8).equals(before)
    assert after["row"].to_pylist() == list(range(12))


def rows_by_file(store):
    return {path.stem: len(store.read_plan(path)) for path in (store.path / "plan").iterdir()}


def grow(store, count):
    write_frames(store.path.parent, range(count))
    ingest(store, silent)
    make_plan(store)
    return list(store.plan_names().values())[-1]


def test_a_plan_that_grows_writes_what_is_new(store):
    first = grow(store, 2)
    before = (store.path / "plan" / f"{first}.parquet").stat()
    catalog.index(store.path)
    second, third = grow(store, 3), grow(store, 5)
    assert rows_by_file(store) == {first: 8, f"{second}.{first}": 4, f"{third}.{second}": 8}
    after = (store.path / "plan" / f"{first}.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    fresh = Store.open(store.path)
    plan = fresh.views_table()
    assert (
        plan["row"].to_pylist() == list(range(20)) and plan.equals(make_plan(fresh)) and plan.equals(build_plan(fresh))
    )
    assert sorted(map(len, fresh.all_plans())) == [8, 12, 20]
    other = new_store(store.path.parent / "other", RECIPE)
    ingest(other, silent)
    assert make_plan(other).equals(plan, check_metadata=True)

    # added to, the catalog is what it is when made anew
    tables = ("plans", "views", "frames", "indexed")
    added = [catalog.query(store.path, f"FROM {table} ORDER BY ALL") for table in tables]
    catalog.rebuild(store.path)
    assert [catalog.query(store.path, f"FROM {table} ORDER BY ALL") for table in tables] == added
    assert len(added[0]) == len(added[1]) == 20


def test_a_grown_plan_that_lost_its_beginning_is_planned_whole(store):
    first, second = grow(store, 2), grow(store, 3)
    (store.path / "plan" / f"{first}.parquet").unlink()
    fresh = Store.open(store.path)
    with pytest.raises(StoreError, match="no plan"):
        fresh.views_table()
    plan = make_plan(fresh)
    assert rows_by_file(fresh) == {f"{second}.{first}": 4, second: 12}
    # those that are still in a file keep their rows, and no row is given to two views
    assert plan.slice(8)["row"].to_pylist() == [8, 9, 10, 11]
    assert len(set(plan["row"].to_pylist())) == 12
    assert grow(fresh, 4) and Store.open(store.path).views_table().slice(0, 12).equals(plan)


def test_of_a_view_with_two_rows_the_current_plan_says_which(store):
    grow(store, 2)
    second = grow(store, 3)
    assert any(grow(store, count) > second for count in range(4, 12))  # so that by its name the older file comes first
    (middle,) = (store.path / "plan").glob(f"{second}.*.parquet")
    kept = middle.read_bytes()
    middle.unlink()
    make_plan(Store.open(store.path))
    middle.write_bytes(kept)  # restored, as the message about a damaged one advises
    fresh = Store.open(store.path)
    rows = {view["view"]: view["row"] for view in fresh.views_table().to_pylist()}
    assert {view: planned.row for view, planned in planned_views(fresh).items()} == rows
    assert any(view["row"] != rows[view["view"]] for view in fresh.read_plan(middle).to_pylist())


def test_done_is_what_the_last_word_on_a_row_says(store):
    plan = make_plan(store)
    ids = plan["view"].to_pylist()
    for view, row in ((0, 0), (3, 3), (1, 2), (3, 3), (5, 4), (4, 4)):
        store.ledger().commit([Entry(view=ids[view], row=row, sha256="")])
    store.ledger().commit([Entry(view="of an earlier plan", row=99, sha256="")])
    assert done_of(store, plan).nonzero()[0].tolist() == [0, 3, 4]
    assert not done_of(store, plan.slice(0, 0)).size


def test_a_changed_recipe_adds_rows_and_takes_back_old_ones(store):
    make_plan(store)
    other = change(store, "tile = 64", "tile = 0")
    assert make_plan(other)["row"].to_pylist() == [8, 9]
    back = change(other, "tile = 0", "tile = 64")
    assert make_plan(back)["row"].to_pylist() == list(range(8))
    # three tiles across instead of two: the two at the border are where they were
    third = change(back, "overlap = 16", "overlap = 40")
    plan = make_plan(third)
    assert plan["x0"].to_pylist()[:3] == [0, 16, 32]
    assert plan["row"].to_pylist()[:6] == [0, 10, 1, 2, 11, 3]


def test_other_limits_are_other_views(store):
    before = set(make_plan(store)["view"].to_pylist())
    minmax = change(store, "[views]", '[normalise]\nmethod = "minmax"\n[views]')
    plan = make_plan(minmax)
    assert plan["lo"][0].as_py() == store.pixels.image("01/t000").min()
    assert before.isdisjoint(plan["view"].to_pylist())
    assert plan["row"].to_pylist() == list(range(8, 16))


def test_a_row_in_a_ledger_is_never_given_away(store):
    plan = make_plan(store)
    store.ledger().commit([Entry(view=plan["view"][5].as_py(), row=5, sha256="")])
    (file,) = (store.path / "plan").iterdir()
    file.unlink()
    fresh = Store.open(store.path)
    again = build_plan(fresh)
    assert again["view"].equals(plan["view"])
    assert again["row"].to_pylist() == [6, 7, 8, 9, 10, 5, 11, 12]


def test_nothing_ingested(tmp_path):
    with pytest.raises(StoreError, match="nothing was ingested"):
        make_plan(new_store(tmp_path / "store", RECIPE))


def test_frames_with_the_same_pixels_share_their_views(tmp_path):
    for number in range(2):
        path = tmp_path / "data" / "01" / f"t{number:03}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.zeros((80, 96), "uint16"))
    store = new_store(tmp_path / "store", RECIPE.replace("tile = 64", "tile = 0"))
    ingest(store, silent)
    plan = make_plan(store)
    assert plan["row"].to_pylist() == [0, 0]
    assert plan["frame"].to_pylist() == ["01/t000", "01/t001"]
    unique = unique_views(plan)
    (view,) = unique.to_pylist()
    assert done_of(store, unique).tolist() == [False]
    store.ledger().commit([Entry(view=view["view"], row=0, sha256="")])
    assert done_of(store, unique).tolist() == [True]
    assert done_of(store, pa.Table.from_pylist([{**view, "row": 1}])).tolist() == [False]


@pytest.mark.parametrize("method", ["percentile", "clahe"])
def test_a_tile_is_cut_from_the_normalised_frame(store, method):
    store = change(store, "[views]", f'[normalise]\nmethod = "{method}"\n[views]')
    frames = Frames(store)
    for view in ViewRecord.of(unique_views(make_plan(store))):
        whole = apply(store.pixels.image(view.frame), view.lo, view.hi, method)
        x0, y0, _, _ = view.rect
        assert np.array_equal(frames.pixels(view), whole[y0 : y0 + 64, x0 : x0 + 64])


def views(*sizes):
    rows = [{"view": str(i), "width": size, "height": size} for i, size in enumerate(sizes)]
    return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)


def ids(work):
    return [("".join(v.view for v in group), "".join(v.view for v in todo)) for group, todo in work]


def work(plan, committed, *how):
    return work_of(plan, np.array([view in committed for view in plan["view"].to_pylist()], bool), *how)


def test_groups_follow_from_the_plan_alone():
    plan = views(1, 2, 1, 1, 2, 1, 1)
    assert ids(work(plan, "", 2, None)) == [("02", "02"), ("14", "14"), ("35", "35"), ("6", "6")]
    # whatever is done, a group is encoded whole and only what is missing is committed
    assert ids(work(plan, "0146", 2, None)) == [("02", "2"), ("35", "35")]
    assert ids(work(plan, "", 2, 3)) == [("02", "02"), ("14", "1")]
    assert ids(work(plan, "02", 2, 1)) == [("14", "1")]
    assert ids(work(plan, "", 1, 2)) == [("0", "0"), ("1", "1")]
    assert len(work(plan, "0123456", 3, None)) == 0
    assert (work(plan, "0", 2, 3).size, work(plan, "0", 2, 3).ids) == (3, ["2", "1", "4"])
    assert len(work(plan.slice(0, 0), "", 2, None)) == 0


def test_a_plan_over_more_frames_adds_to_the_one_before(tmp_path):
    folder = tmp_path / "data" / "01"
    folder.mkdir(parents=True)
    images = [generator("plan", i).integers(0, 1000, (80, 96)).astype("uint16") for i in range(4)]
    plans = []
    for stop in (2, 4):
        for number in range(stop):
            tifffile.imwrite(folder / f"t{number:03}.tif", images[number])
        if not (tmp_path / "store").exists():
            new_store(tmp_path / "store", RECIPE)
        grown = Store.open(tmp_path / "store")
        ingest(grown, silent)
        plans.append(make_plan(grown))
    fresh = new_store(tmp_path / "fresh", RECIPE)
    ingest(fresh, silent)
    assert plans[1].equals(make_plan(fresh), check_metadata=True)
    assert plans[1].slice(0, len(plans[0])).to_pylist() == plans[0].to_pylist()
