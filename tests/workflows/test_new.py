from __future__ import annotations

import os
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from frames import draw, save
from hypothesis import given
from hypothesis import strategies as st

from hela_store.datasets.synthetic import write_sequence
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import CheckpointError, DatasetError, RecipeError, SplitError, StoreError
from hela_store.recipe.recipe import DatasetRecipe, EncoderRecipe, NormaliseRecipe, Recipe, SplitRecipe, parse_recipe
from hela_store.recipe.toml import recipe_text
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, NewEncoder, NewSplit, NewTiles, SyntheticConfig

SMALL = SyntheticConfig(frames=12, shape=(96, 128), cells=6)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of two short sequences with labels."""
    root = tmp_path_factory.mktemp("drawn")
    for name in ("01", "02"):
        write_sequence(root, sequence=name, frames=12, shape=(96, 128), cells=6)
    return root


def test_a_synthetic_store_can_be_moved(tmp_path: Path) -> None:
    report = new(tmp_path / "a", NewConfig.of(dataset="synthetic", synthetic=SMALL))
    recipe = report.store.recipe
    assert recipe.dataset.path == "data" and recipe.dataset.offset == 32768
    assert recipe.dataset.field_of_interest == 25 and recipe.dataset.pixel_size_um == 0.645
    assert report.blocks == {"train": 6, "val": 1, "test": 3, "gap": 2}
    assert (recipe.split.train, recipe.split.val, recipe.split.test) == ("0-5", "7", "9-11")
    assert recipe.encoder.sha256
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert Store.open(tmp_path / "b").recipe == recipe


def test_a_data_set_elsewhere_has_an_absolute_path(drawn: Path, tmp_path: Path) -> None:
    report = new(tmp_path / "s", NewConfig.of(dataset=os.path.relpath(drawn), sequences=("01",)))
    assert report.store.recipe.dataset.path == str(drawn)
    assert report.store.recipe.dataset.sequences == ("01",)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["store.toml"]
    facts = dict(report.facts())
    assert "12 in sequence 01; 96 x 128 px (rows x columns), uint16" in facts["frames"]
    assert facts["labels"] == "ST: 12 of 12 frames have them"
    assert report.to_json()["frames"] == 12


def test_new_says_what_the_test_block_means_and_how_to_test_on_other_nuclei(drawn: Path, tmp_path: Path) -> None:
    said = new(tmp_path / "a", NewConfig.of(dataset=str(drawn)))
    facts = dict(said.facts())
    assert facts["split"].endswith("protocol: the same nuclei, later")
    assert "--train-sequence 01 --test-sequence 02" in facts[""]
    config = NewConfig.of(dataset=str(drawn), train_sequences=("01",), test_sequences=("02",))
    facts = dict(new(tmp_path / "b", config).facts())
    assert facts["split"].endswith("protocol: train 01, test 02") and "" not in facts
    facts = dict(new(tmp_path / "c", NewConfig.of(dataset=str(drawn), sequences=("01",))).facts())
    assert facts["split"].endswith("the same nuclei, later") and "" not in facts


def test_split_by_sequence(drawn: Path, tmp_path: Path) -> None:
    config = NewConfig.of(dataset=str(drawn), train_sequences=("01",), test_sequences=("02",))
    report = new(tmp_path / "s", config)
    split = report.store.recipe.split
    assert (split.mode, split.train, split.val, split.test) == ("sequence", "01", "", "02")
    assert report.blocks == {"train": 8, "val": 1, "test": 12, "gap": 3}


def test_split_by_frames(drawn: Path, tmp_path: Path) -> None:
    config = NewConfig.of(dataset=str(drawn), train_frames="0-3", val_frames="5", test_frames="7-8,10")
    assert new(tmp_path / "s", config).blocks == {"train": 8, "val": 2, "test": 6, "gap": 8}


@pytest.mark.parametrize("shard", [0, 64])
def test_shards_are_asked_for_at_the_start(drawn: Path, tmp_path: Path, shard: int) -> None:
    store = new(tmp_path / "s", NewConfig.of(dataset=str(drawn), shard=shard)).store
    assert store.recipe.arrays.shard == shard
    # versions that know no shards read a recipe that has none
    assert ("shard" in tomllib.loads((store.path / "store.toml").read_text())["arrays"]) == bool(shard)


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ({"train_frames": "0-3", "train_sequences": ("01",)}, RecipeError, "one of the two"),
        ({"test_sequences": ("02",)}, RecipeError, "add --train-sequence"),
        ({"tile": "big"}, RecipeError, "expected auto, none or an edge length"),
        ({"tile": "10"}, RecipeError, "views.tile"),
        ({"codec": "zst"}, RecipeError, "did you mean 'zstd'"),
        ({"shard": 1}, RecipeError, "arrays.shard .* is 1, expected 2 to 4096"),
        ({"train_frames": "50-60"}, SplitError, "holds no frame"),
        ({"train_frames": "0-4", "test_frames": "4-5"}, SplitError, "overlap"),
        ({"sequences": ("09",)}, DatasetError, "no such folder"),
        ({"labels": "GT"}, DatasetError, "use --labels ST"),
        ({"encoder": "vit_b", "checkpoint": "nowhere.pth"}, CheckpointError, "no checkpoint at"),
        ({"dataset": "nowhere"}, DatasetError, "no such folder"),
    ],
)
@pytest.mark.parametrize("synthetic", [False, True])
def test_what_fails_leaves_nothing(
    drawn: Path, tmp_path: Path, choices: dict[str, object], error: type[Exception], words: str, synthetic: bool
) -> None:
    if synthetic and choices.keys() & {"sequences", "labels", "dataset"}:
        pytest.skip("drawn as asked for")
    dataset = "synthetic" if synthetic else str(drawn)
    with pytest.raises(error, match=words):
        new(tmp_path / "s", NewConfig.of(**({"dataset": dataset, "synthetic": SMALL} | choices)))
    assert not (tmp_path / "s").exists()


def test_nothing_is_overwritten(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/notes.txt").write_text("mine")
    with pytest.raises(SplitError):
        new(tmp_path / "s", NewConfig.of(dataset="synthetic", synthetic=SMALL, train_frames="99"))
    assert [path.name for path in (tmp_path / "s").rglob("*") if path.is_file()] == ["notes.txt"]
    new(tmp_path / "s", NewConfig.of(dataset=str(drawn)))
    before = (tmp_path / "s/store.toml").read_text()
    with pytest.raises(StoreError, match="is a store already"):
        new(tmp_path / "s", NewConfig.of(dataset="synthetic", synthetic=SMALL))
    assert (tmp_path / "s/store.toml").read_text() == before
    with pytest.raises(StoreError, match="a file in its place"):
        new(tmp_path / "s/notes.txt", NewConfig.of(dataset="synthetic", synthetic=SMALL))


def test_stills_are_split_by_their_names(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "stills" / folder).mkdir(parents=True)
    places = np.random.default_rng(0).integers(0, 60, (20, 2))
    for i, (row, col) in enumerate(places):
        label = np.zeros((80, 90), np.uint16)
        label[row : row + 20, col : col + 22] = 1
        tifffile.imwrite(tmp_path / f"stills/images/a{i}.tif", (label * 100 + i).astype(np.uint8))
        tifffile.imwrite(tmp_path / f"stills/masks/a{i}.tif", label)
    report = new(tmp_path / "s", NewConfig.of(dataset=str(tmp_path / "stills"), pixel_size_um=0.5, group="none"))
    assert report.store.recipe.split == SplitRecipe()
    assert sum(report.blocks.values()) == 20 and report.blocks["gap"] == 0
    assert "drawn by the frame's id" in (tmp_path / "s/store.toml").read_text()
    assert "um" in dict(report.facts())["cells"]


def test_stills_of_a_time_lapse_are_split_in_blocks_of_time(tmp_path: Path) -> None:
    image, label = draw(0)
    noise = np.random.default_rng(0)
    for well in "ab":
        for t in range(30):
            frame = (image + noise.normal(0, 20, image.shape)).clip(0).astype(np.uint16)
            save(tmp_path / f"stills/images/{well}_t{t:03}.tif", np.roll(frame, 9 * (well == "a"), 1))
            save(tmp_path / f"stills/masks/{well}_t{t:03}.tif", np.roll(label, 9 * (well == "a"), 1))
    report = new(tmp_path / "s", NewConfig.of(dataset=str(tmp_path / "stills")))
    split = report.store.recipe.split
    assert (split.train, split.val, split.test) == ("0-13,30-43", "17-19,47-49", "23-29,53-59")
    assert report.blocks == {"train": 28, "val": 6, "test": 14, "gap": 12}
    assert "the images seem to be a time-lapse" in dict(report.facts())["time-lapse"]
    assert "time-lapse" in (tmp_path / "s/store.toml").read_text()
    own = new(tmp_path / "o", NewConfig.of(dataset=str(tmp_path / "stills"), train_frames="0-9", test_frames="20-29"))
    assert own.store.recipe.split.train == "0-9"


def test_what_is_odd_is_in_the_report(tmp_path: Path) -> None:
    image, label = draw(0)
    save(tmp_path / "d/images/a.tif", image, photometric="miniswhite")
    save(tmp_path / "d/masks/a_mask.tif", label)
    (tmp_path / "d/images/b.czi").write_bytes(b"x")
    report = new(tmp_path / "s", NewConfig.of(dataset=str(tmp_path / "d")))
    shown = [text for what, text in report.facts() if what == "warning"]
    assert len(shown) == 2 and shown == report.to_json()["warnings"]
    assert "0 means white" in shown[1] and "b.czi is of a kind that is not read" in shown[0]


def test_the_views_that_new_prints_are_those_that_embed_plans(tmp_path: Path) -> None:
    for number, shape in enumerate([(96, 128)] * 5 + [(96, 240)] * 3 + [(64, 64)] * 4):
        image, labels = draw(number, shape)
        save(tmp_path / f"d/images/t{number:02}.tif", image)
        save(tmp_path / f"d/masks/t{number:02}.tif", labels)
    config = NewConfig.of(dataset=str(tmp_path / "d"), tile="96", overlap=16, variants=2)
    report = new(tmp_path / "s", config)
    assert report.planned == embed(report.store, EmbedConfig(dry_run=True)).planned
    assert dict(report.facts())["views"].startswith(f"{report.planned}: tiles of 96 px")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "tile", "split"),
    [
        ("Fluo-N2DL-HeLa", 512, ("0-54", "58-66", "70-91")),
        ("DIC-C2DH-HeLa", 0, ("0-21", "24-28", "31-39")),
    ],
)
def test_real_frames_get_the_blocks_of_the_measuring_rules(
    realdata: Path, tmp_path: Path, name: str, tile: int, split: tuple[str, str, str]
) -> None:
    recipe = new(tmp_path / "s", NewConfig.of(dataset=str(realdata / name))).store.recipe
    assert recipe.views.tile == tile
    assert (recipe.split.train, recipe.split.val, recipe.split.test) == split


# TOML holds no lone surrogates
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    name=text,
    path=text,
    sequences=st.lists(text, max_size=3),
    offset=st.floats(0, 1e6),
    size=st.none() | st.floats(1e-3, 9),
)
def test_a_recipe_as_text_reads_back_the_same(
    name: str, path: str, sequences: list[str], offset: float, size: float | None
) -> None:
    dataset = DatasetRecipe(
        path=path, sequences=tuple(sequences), offset=offset, pixel_size_um=size, axis="t", channel=1
    )
    recipe = Recipe(name=name, dataset=dataset, normalise=NormaliseRecipe(method="clahe"))
    assert parse_recipe(recipe_text(recipe, ["found:\n two", "lines"])) == recipe
    by_sequence = replace(recipe, split=SplitRecipe(mode="sequence", train="01", test="02", gap=0, val_share=0.25))
    by_sequence = replace(
        by_sequence, encoder=EncoderRecipe(architecture="vit_b", checkpoint="x", precision="bfloat16")
    )
    assert parse_recipe(recipe_text(by_sequence)) == by_sequence
    folds = replace(recipe, split=SplitRecipe(mode="folds", folds=4, fold=3, gap=5, val_share=0.2))
    assert parse_recipe(recipe_text(folds)) == folds


def test_a_recipe_as_text_holds_every_key() -> None:
    dataset = DatasetRecipe(path="x", axis="t", channel=0, pixel_size_um=1.0)
    values = tomllib.loads(recipe_text(Recipe(name="x", dataset=dataset)))
    assert set(values) == set(Recipe.__dataclass_fields__)
    assert set(values["dataset"]) == set(DatasetRecipe.__dataclass_fields__)
    # `cut` names embeddings of their own beside the recipe's, and is refused in a store.toml
    assert set(values["encoder"]) == set(EncoderRecipe.__dataclass_fields__) - {"cut"}


def test_sections_and_flat_names_say_the_same() -> None:
    split, tiles = NewSplit(train_frames="0-3"), NewTiles(tile="512", overlap=8)
    nested = NewConfig(dataset="d", split=split, tiles=tiles, encoder=NewEncoder(encoder="vit_b"))
    assert nested == NewConfig.of(dataset="d", train_frames="0-3", tile="512", overlap=8, encoder="vit_b")
    with pytest.raises(RecipeError, match=r"'overlp' is unknown.*did you mean overlap"):
        NewConfig.of(dataset="d", overlp=8)
