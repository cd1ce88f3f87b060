"""What micro-sam left, brought in: the same values under a key of their own, or one clear line and nothing written."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
import zarr
from click.testing import CliRunner
from hela_store_cli.main import main
from narrow_vit_b import build
from segment_anything import SamPredictor, sam_model_registry

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import CheckpointError, HelaError, RecipeError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.exchange.micro_sam_export import export_micro_sam
from hela_store.exchange.micro_sam_import import MicroSamImport, import_micro_sam
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.recipe.recipe import EncoderRecipe
from hela_store.segmentation.config import SegmentConfig
from hela_store.segmentation.segment import segment
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

FRAMES = 3
Pixels = npt.NDArray[Any]


@pytest.fixture(scope="module", autouse=True)
def vit_b() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sam_model_registry, "vit_b", build)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint, a store of three frames with it, and what micro-sam makes of these."""
    folder = tmp_path_factory.mktemp("micro")
    torch.manual_seed(0)
    sam = build()
    torch.save(sam.state_dict(), folder / "vit_b.pth")
    drawn = SyntheticConfig(frames=FRAMES, shape=(192, 256), cells=10)
    blocks = {"train_frames": "0-0", "val_frames": "1-1", "test_frames": "2-2"}
    config = NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, encoder="vit_b", **blocks)
    new(folder / "store", replace(config, encoder=replace(config.encoder, checkpoint=str(folder / "vit_b.pth"))))
    pixels = images(folder / "store")
    write(folder / "embeddings.zarr", encoded(sam, pixels), pixels)
    return folder


def images(store: Path) -> Pixels:
    return np.stack([tifffile.imread(path) for path in sorted((store / "data/01").glob("*.tif"))])


def encoded(sam: Any, pixels: Pixels) -> Pixels:
    """As ``precompute_image_embeddings`` does it, with segment-anything's own predictor."""
    predictor, found = SamPredictor(sam), []
    for image in pixels.astype(np.float32):
        unit = (image - image.min()) / (image.max() - image.min() + 1e-7)
        predictor.set_image(np.stack([(unit * 255).astype(np.uint8)] * 3, axis=-1))
        found.append(predictor.get_image_embedding().numpy())
    return np.stack(found)


def write(path: Path, features: Pixels, pixels: Pixels, zarr_format: Any = 3, **changes: Any) -> Path:
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    chunks = (1, *features.shape[1:])
    root.create_array("features", shape=features.shape, chunks=chunks, dtype=features.dtype)[...] = features
    size = list(pixels.shape[-2:])
    about = {
        "data_signature": hashlib.sha1(pixels.tobytes()).hexdigest(),
        "tile_shape": None,
        "halo": None,
        "model_type": "vit_b",
        "model_name": "vit_b",
        "micro_sam_version": "1.8.14",
        "model_hash": "xxh128:0",
        "input_size": [768, 1024],
        "original_size": size,
    }
    root.attrs.update({name: value for name, value in (about | changes).items() if value != "left out"})
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(made / "store", tmp_path / "store"))


@pytest.fixture
def features(made: Path) -> Pixels:
    found = zarr.open_array(made / "embeddings.zarr", path="features", mode="r")
    return np.asarray(found[:])


def brought(made: Path, store: Store) -> Store:
    """Import all, and return the store with the printed line in its recipe."""
    import_micro_sam(store, made / "embeddings.zarr", "01", device="cpu")
    recipe = store.path / "store.toml"
    recipe.write_text(recipe.read_text().replace('source = ""', 'source = "micro-sam"'))
    return Store.open(store.path)


@pytest.mark.ci
def test_the_values_are_micro_sams_under_a_key_of_their_own(made: Path, store: Store, features: Pixels) -> None:
    found = import_micro_sam(store, made / "embeddings.zarr", "01", device="cpu")
    assert found.key.startswith("vit_b-micro-sam-") and found.key != store.key
    expected = MicroSamImport(key=found.key, source="micro-sam", views=3, done_before=0, done_now=3, left=0)
    assert found == expected
    assert not store.committed() and len(store.committed(found.key)) == 3
    with pytest.raises(StoreError, match="not embedded yet"):
        store.embedding("01/t000")
    there = store.with_encoder(source="micro-sam")
    for number in range(FRAMES):
        np.testing.assert_array_equal(there.embedding(f"01/t{number:03d}"), features[number, 0].astype(np.float16))
    assert verify(there).whole
    again = import_micro_sam(store, made / "embeddings.zarr", "01", device="cpu")
    assert (again.done_before, again.done_now) == (3, 0)


@pytest.mark.ci
def test_tuning_and_scoring_need_no_encoder(made: Path, store: Store, tmp_path: Path) -> None:
    there = brought(made, store)
    weights = made / "vit_b.pth"
    hidden = weights.rename(weights.with_suffix(".hidden"))
    try:
        tuned = finetune(there, FinetuneConfig.of(prompt="box", steps=1, cells=1, workers=0, evaluate_every=1))
        evaluate(there, tuned.run, EvaluateConfig(prompts=("box-exact",), prompt_seeds=1))
        query = f"SELECT count(*), count(DISTINCT encoder) FROM cell_metrics WHERE encoder = '{there.key}'"
        ((cells, encoders),) = there.sql(query).fetchall()
        assert cells > 0 and encoders == 1
        assert verify(there).whole
    finally:
        hidden.rename(weights)
    # the encoder of a stock checkpoint is the one micro-sam ran
    done = export_checkpoint(there, tuned.run, tmp_path / "tuned.pth")
    state = torch.load(done.path, weights_only=True)
    assert torch.equal(
        state["image_encoder.pos_embed"], torch.load(weights, weights_only=True)["image_encoder.pos_embed"]
    )


@pytest.mark.ci
def test_one_frame_as_zarr_2_and_back_out_again(made: Path, store: Store, features: Pixels, tmp_path: Path) -> None:
    pixels = images(store.path)
    path = write(tmp_path / "one.zarr", features[1], pixels[1], zarr_format=2)
    found = import_micro_sam(store, path, "01/t001", device="cpu")
    assert (found.views, found.done_now, found.left) == (1, 1, 2)
    found = import_micro_sam(store, made / "embeddings.zarr", "01", device="cpu")
    assert (found.views, found.done_before, found.done_now, found.left) == (3, 1, 2, 0)
    out = export_micro_sam(store.with_encoder(source="micro-sam"), "01", tmp_path / "out")
    other = Store.open(shutil.copytree(made / "store", tmp_path / "other"))
    import_micro_sam(other, out.embeddings, "01", device="cpu")
    for view, row in store.committed(found.key).items():
        there = other.arrays.embedding(found.key, other.committed(found.key)[view])
        np.testing.assert_array_equal(there, store.arrays.embedding(found.key, row))


def test_frames_with_the_same_pixels_share_one_embedding(
    made: Path, store: Store, features: Pixels, tmp_path: Path
) -> None:
    shutil.copy(store.path / "data/01/t000.tif", store.path / "data/01/t001.tif")
    path = write(tmp_path / "twins.zarr", features[[0, 0, 2]], images(store.path))
    found = import_micro_sam(store, path, "01", device="cpu")
    assert (found.views, found.done_now, found.left) == (2, 2, 0)


def holds(store: Store) -> tuple[bool, ...]:
    """Whether there is anything of an import in a store."""
    return tuple(any((store.path / name).glob("*")) for name in ("ledger", "encoders", "arrays.zarr/embeddings"))


def pickled(path: Path, features: Pixels, pixels: Pixels) -> None:
    write(path, features, pixels, zarr_format=2)
    about = path / "features/.zarray"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"filters": [numcodecs.Pickle().get_config()]}))


def unwritten(path: Path, features: Pixels, pixels: Pixels) -> None:
    write(path, features, pixels)
    shutil.rmtree(path / "features/c/1")


def cut_short(path: Path, features: Pixels, pixels: Pixels) -> None:
    write(path, features, pixels)
    chunk = path / "features/c/2/0/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:1000])


def with_(**changes: Any) -> Callable[[Path, Pixels, Pixels], None]:
    return lambda path, features, pixels: void(write(path, features, pixels, **changes))


def void(_: object) -> None:
    return None


def nan(path: Path, features: Pixels, pixels: Pixels) -> None:
    features[1, 0, 5, 6, 7] = np.nan
    write(path, features, pixels)


BAD: dict[str, tuple[Callable[[Path, Pixels, Pixels], object], str]] = {
    "nothing there": (lambda path, *_: None, "no embeddings at"),
    "no zarr": (lambda path, *_: path.mkdir(), "is not what precompute_image_embeddings writes"),
    "empty": (lambda path, *_: void(zarr.open_group(path, mode="w")), "is not finished"),
    "unfinished": (with_(input_size="left out", model_type="left out"), "the same save_path again, it goes on"),
    "tiled": (with_(tile_shape=[64, 64]), "is of tiles with a halo"),
    "tiles": (lambda path, *_: void(zarr.open_group(path, mode="w").create_group("features")), "is of tiles"),
    "another model": (with_(model_type="vit_l"), "is of vit_l, this store's encoder is vit_b"),
    "a shape": (lambda path, f, p: write(path, f[:, :, :, :32], p), r"shape \(3, 1, 256, 32, 64\), expected \(1, 256"),
    "a dtype": (lambda path, f, p: write(path, f.astype(np.float16), p), "are float16, expected float32"),
    "pickled": (pickled, "or is damaged"),
    "fewer": (lambda path, f, p: write(path, f[:2], p[:2]), "holds 2 frames, 01 is 3 frames"),
    "one": (lambda path, f, p: write(path, f[0], p[0]), "holds a single image, 01 is 3 frames"),
    "other pixels": (lambda path, f, p: write(path, f, p + 1), "of other pixels: .* 192 x 256 px, uint16"),
    "another order": (lambda path, f, p: write(path, f, p[::-1]), "of other pixels"),
    "another dtype": (lambda path, f, p: write(path, f, p.astype(np.float32)), "of other pixels"),
    "not finite": (nan, "frame 1 of .* has values that are not finite"),
    "never written": (unwritten, "frame 1 of .* is 0 everywhere, so never written"),
    "cut short": (cut_short, "frame 2 of .* is damaged"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_and_nothing_is_written(
    what: str, store: Store, features: Pixels, tmp_path: Path
) -> None:
    make, words = BAD[what]
    make(tmp_path / "bad.zarr", features, images(store.path))
    with pytest.raises(StoreError, match=words):
        import_micro_sam(store, tmp_path / "bad.zarr", "01", device="cpu")
    assert holds(store) == (False, False, False)


def test_a_store_that_is_of_something_else_is_refused(made: Path, store: Store) -> None:
    views, augment = store.recipe.views, store.recipe.augment
    recipes: list[tuple[Any, type[HelaError], str]] = [
        ({"views": replace(views, tile=64)}, StoreError, "views.tile is 64, .* make a store with --tile none"),
        ({"augment": replace(augment, variants=2)}, RecipeError, "augment.variants is 2"),
        ({"encoder": EncoderRecipe()}, RecipeError, "micro-sam has no nano"),
        ({"encoder": replace(store.recipe.encoder, precision="bfloat16")}, RecipeError, "micro-sam encodes in float32"),
    ]
    for changes, kind, words in recipes:
        other = Store(store.path, replace(store.recipe, **changes))
        with pytest.raises(kind, match=words):
            import_micro_sam(other, made / "embeddings.zarr", "01", device="cpu")
    with pytest.raises(StoreError, match=r"no sequence and no frame '02' .* sequences 01 and frames such as 01/t000"):
        import_micro_sam(store, made / "embeddings.zarr", "02", device="cpu")
    with pytest.raises(StoreError, match="holds 3 frames, 01/t001 is one frame"):
        import_micro_sam(store, made / "embeddings.zarr", "01/t001", device="cpu")
    assert holds(store) == (False, False, False)


@pytest.mark.ci
def test_embeddings_of_another_checkpoint_are_refused(store: Store, tmp_path: Path) -> None:
    torch.manual_seed(1)
    pixels = images(store.path)
    path = write(tmp_path / "other.zarr", encoded(build(), pixels), pixels)
    with pytest.raises(CheckpointError, match=r"was made with another checkpoint: its frame 0 is \d"):
        import_micro_sam(store, path, "01", device="cpu")
    assert holds(store) == (False, False, False)


def test_nothing_here_encodes_as_micro_sam_does(made: Path, store: Store) -> None:
    there = brought(made, store)
    line = "encoder.source is micro-sam, .* `hela-store import micro-sam`"
    for config in (EmbedConfig(), EmbedConfig(dry_run=True), EmbedConfig(cut=2), EmbedConfig(workers=2)):
        with pytest.raises(RecipeError, match=line):
            embed(there, config)
    with pytest.raises(RecipeError, match=line):
        verify(there, VerifyConfig(deep=True))
    with pytest.raises(RecipeError, match=line):
        segment(there, [store.path / "data/01"], SegmentConfig(out=store.path / "segmented"))
    assert not (store.path / "segmented").exists()
    for changes in ({"cut": 2}, {"adapter": "run", "adapter_sha256": "0" * 64}):
        with pytest.raises(RecipeError, match="leave --cut, --adapter"):
            there.with_encoder(**changes)
    with pytest.raises(RecipeError, match=r"encoder.source is 'microsam', .* did you mean 'micro-sam'"):
        there.with_encoder(source="microsam")


@pytest.mark.ci
def test_what_is_damaged_comes_from_the_file_again(made: Path, store: Store) -> None:
    there = brought(made, store)
    row = there.committed()[str(there.view("01/t001").view)]
    chunk = there.arrays.chunk_path(there.key, row)
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (there.encoder_folder() / "decoder.safetensors").unlink()
    assert {fault.kind for fault in verify(there).faults} == {"damaged", "flipped"}
    with pytest.raises(
        StoreError, match=r"1 embeddings of .* are damaged, .* give `hela-store import micro-sam` again"
    ):
        verify(there, VerifyConfig(repair=True, device="cpu"))
    # the decoder is from the checkpoint
    assert [fault.kind for fault in verify(there).faults] == ["flipped"]
    found = import_micro_sam(there, made / "embeddings.zarr", "01", device="cpu")
    assert (found.done_before, found.done_now) == (2, 1) and chunk.read_bytes() == whole
    assert verify(there).whole


@pytest.mark.ci
@pytest.mark.parametrize("points", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_anywhere_it_goes_on(made: Path, tmp_path: Path, store: Store, points: int) -> None:
    expected = brought(made, store)
    base = shutil.copytree(made / "store", tmp_path / "base")
    script = Path(__file__).parents[1] / "helpers/narrow_vit_b.py"
    command = [sys.executable, str(script), str(base), str(made / "embeddings.zarr"), str(points)]
    done = forked.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    committed = []
    for line in done.stdout.splitlines():
        path, status = line.split()
        assert int(status) == signal.SIGKILL
        killed = Store.open(path).with_encoder(source="micro-sam")
        before = len(killed.committed())
        found = import_micro_sam(killed, made / "embeddings.zarr", "01", device="cpu")
        assert (found.done_before, found.done_now) == (before, FRAMES - before)
        assert verify(killed).whole
        assert killed.ledger().entries() == expected.ledger().entries()
        committed.append(before)
    assert committed == sorted(committed) and committed[0] == 0 and 0 < committed[-1] < FRAMES


@pytest.mark.ci
def test_the_command(made: Path, store: Store) -> None:
    where = ["-s", str(store.path)]
    done = CliRunner().invoke(main, ["import", "micro-sam", str(made / "embeddings.zarr"), "01", *where])
    assert done.exit_code == 0, done.output
    assert (
        'set under [encoder] in store.toml source = "micro-sam"' in " ".join(done.stdout.split())
        and "0 done before, 3 now" in done.stdout
    )
    there = brought(made, store)
    done = CliRunner().invoke(main, ["import", "micro-sam", str(made / "embeddings.zarr"), "01", "--json", *where])
    assert json.loads(done.stdout) == {
        "key": there.key,
        "source": "micro-sam",
        "views": 3,
        "done_before": 3,
        "done_now": 0,
        "left": 0,
    }
    for command in (["embed"], ["verify", "--deep"], ["import", "micro-sam", str(made), "01"]):
        done = CliRunner().invoke(main, [*command, *where])
        assert done.exit_code == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
