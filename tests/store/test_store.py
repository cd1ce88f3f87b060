import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hela_store.errors import RecipeError, StoreError
from hela_store.store.ledger import Entry, view_digest
from hela_store.store.new_store import new_store
from hela_store.store.plan_names import plan_names
from hela_store.store.store import Store

RECIPE = """format = 1
name = "small"
[dataset]
path = "data"
"""


def edit(store: Store, old: str, new: str) -> Store:
    path = store.path / "store.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return Store.open(store.path)


def test_new_store_is_made_whole_and_overwrites_nothing(tmp_path):
    store = new_store(tmp_path / "deep" / "s", RECIPE)
    assert (store.path / "store.toml").read_text() == RECIPE
    assert Store.open(store.path / "store.toml").path == store.path
    with pytest.raises(StoreError, match="is a store already"):
        new_store(store.path, RECIPE.replace("small", "other"))
    assert (store.path / "store.toml").read_text() == RECIPE


def test_a_wrong_recipe_leaves_nothing(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'path'"):
        new_store(tmp_path / "s", RECIPE.replace("path", "pth"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file in its place"):
        new_store(tmp_path / "file", RECIPE)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no store at .*hela-store new"),
        ("format = 1\nname", "seems cut short"),
        ("format = \n", "is damaged"),
        ("name = 'x'\n", "no 'format' number"),
        ("format = 99\n", "format 99, this version reads up to 1; upgrade"),
    ],
)
def test_what_cannot_be_opened_says_why(tmp_path, text, words):
    if text is not None:
        (tmp_path / "store.toml").write_text(text)
    with pytest.raises(StoreError, match=words):
        Store.open(tmp_path)


def test_before_the_first_embed(tmp_path):
    store = new_store(tmp_path / "s", RECIPE)
    assert store.committed() == {}
    for ask in (store.frames_table, store.cells_table, store.views_table, store.xarray):
        with pytest.raises(StoreError, match="run `hela-store embed`"):
            ask()


def test_embedding_and_view_by_frame(embedded: Path):
    store = Store.open(embedded)
    views = store.views_table().to_pylist()
    assert len(views) == len(store.frames_table()) == 8
    first = views[0]
    embedding = store.embedding(first["frame"], tile=0)
    assert embedding.dtype == np.float16
    assert embedding.shape == (256, 64, 64)
    assert np.isfinite(embedding).all()
    seen = store.view(first["frame"])
    assert seen.view == first["view"]
    assert seen.rect == (0, 0, 256, 192)
    assert seen.image.shape == seen.label.shape == seen.valid.shape == (192, 256)
    assert seen.label.dtype == np.int32
    assert seen.params == {}


def test_what_is_committed_is_readable_and_right(embedded: Path):
    store = Store.open(embedded)
    entries = store.ledger().entries()
    assert set(entries) == set(store.views_table()["view"].to_pylist())
    for view, entry in entries.items():
        assert view_digest(view, store.arrays.embedding(store.key, entry.row)) == entry.sha256


def test_views_that_do_not_exist(embedded: Path):
    store = Store.open(embedded)
    name = store.frames_table()["frame"][0].as_py()
    with pytest.raises(StoreError, match=f"did you mean '{name}'"):
        store.embedding(name + "0")
    with pytest.raises(StoreError, match="no tile 3, variant 0; it has tiles 0 to 0"):
        store.embedding(name, tile=3)
    with pytest.raises(StoreError, match="not embedded yet"):
        store.embedding(name, key="vit_b-0")


def test_xarray_is_lazy_and_holds_the_committed_only(store: Store):
    last = max(store.ledger().path.iterdir())
    last.unlink()
    data = store.xarray()
    assert dict(data.sizes) == {"view": 7, "channel": 256, "y": 64, "x": 64}
    assert data.embedding.dims == ("view", "channel", "y", "x")
    assert data.embedding.chunks[0] == (1,) * 7
    assert set(data.coords) == {"view", "frame", "tile", "variant"}
    frame = str(data.frame.values[3])
    assert np.array_equal(data.embedding.sel(view=data.view[3]).values, store.embedding(frame))
    assert np.isfinite(data.embedding.isel(view=slice(0, 2)).astype("float32").mean().compute())
    with pytest.raises(StoreError, match=f"nothing is embedded under vit_b-0 .*{store.key}"):
        store.xarray("vit_b-0")


def test_frames_of_a_sequence(embedded: Path):
    store = Store.open(embedded)
    sequence = store.frames_table()["sequence"][0].as_py()
    data = store.frames(sequence)
    assert dict(data.sizes) == {"frame": 8, "row": 192, "col": 256}
    name = str(data.frame.values[2])
    assert np.array_equal(data.image.sel(frame=name).values, store.view(name).image)
    assert np.array_equal(data.label.sel(frame=name).values, store.view(name).label)
    with pytest.raises(StoreError, match=f"no sequence 'x' .* it has {sequence}"):
        store.frames("x")
    with pytest.raises(StoreError, match="no group"):
        store.frames(sequence, "x")


def test_a_changed_recipe_asks_for_another_plan(store: Store):
    frames = store.frames_table()
    key = plan_names(store.recipe, frames)[8]
    other = edit(store, "tile = 0", "tile = 128")
    assert plan_names(other.recipe, frames)[8] != key
    with pytest.raises(StoreError, match=r"no plan in .* for the current recipe"):
        other.embedding(frames["frame"][0].as_py())
    assert plan_names(other.recipe, frames.slice(1))[7] not in plan_names(other.recipe, frames).values()


def test_a_damaged_table_is_named(store: Store):
    path = next((store.path / "ingest").glob("cells-*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=f"{path.name} is damaged"):
        store.cells_table()


def test_a_view_in_no_plan_is_not_shown_as_something_else(store: Store):
    store.ledger().commit([Entry(view="lost", row=0, sha256="")])
    with pytest.raises(StoreError, match="1 committed views, first lost"):
        store.xarray()


def test_sql_gives_a_relation(store: Store):
    frame = store.sql("select count(*) as n from frames").df()
    assert frame["n"].tolist() == [8]


def test_opening_a_store_and_reading_its_tables_loads_neither_torch_nor_dask(embedded: Path):
    code = (
        "import sys; from hela_store.store.store import Store; s = Store.open(sys.argv[1]); s.views_table(); s.committed();"
        "print([m for m in ('torch', 'dask', 'zarr', 'xarray') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code, str(embedded)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
