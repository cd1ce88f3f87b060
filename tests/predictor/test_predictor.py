"""The predictor answers as segment-anything's own does, and callers written for that one run on it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frames import draw
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from skimage.measure import regionprops

import hela_store as hs
from hela_store.errors import DatasetError, NoImageError, PromptError, RunError, StoreError
from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.predictor.answers import resampled
from hela_store.sam.predict import predict_view
from hela_store.store.store import Store

SMALL = draw(0, (150, 210), 8)
LARGE = draw(1, (600, 700), 30)


def boxes_of(label: np.ndarray) -> np.ndarray:
    return np.array([[r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]] for r in regionprops(label.astype(int))], float)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def whole(found: Any, shape: tuple[int, int]) -> np.ndarray:
    mask, (x, y) = np.zeros(shape, bool), found.origin
    mask[y : y + found.mask.shape[0], x : x + found.mask.shape[1]] = found.mask
    return mask


@pytest.fixture(scope="module")
def full() -> hs.Predictor:
    """Return nano reading all of an embedding, as SamPredictor does."""
    return hs.load("nano", window=64, device="cpu")


@pytest.fixture(scope="module")
def nano() -> hs.Predictor:
    return hs.load("nano", device="cpu")


PROMPTS: list[dict[str, Any]] = [
    {"box": np.array([60, 40, 90, 75]), "multimask_output": False},
    {"point_coords": np.array([[50.0, 60.0]]), "point_labels": np.array([1])},
    {"point_coords": np.array([[50.0, 60.0], [10, 10]]), "point_labels": np.array([0, 0]), "multimask_output": False},
    {
        "box": np.array([60, 40, 90, 75]),
        "point_coords": np.array([[70.0, 60.0], [61, 41]]),
        "point_labels": np.array([1, 0]),
        "mask_input": np.where(np.arange(256) < 100, 4.0, -4.0)[None, None].repeat(256, 1).astype(np.float32),
    },
]


@pytest.mark.parametrize("prompt", PROMPTS, ids=["box", "click", "background", "all"])
def test_with_the_whole_embedding_it_is_sam_predictor(full: hs.Predictor, prompt: dict[str, Any]) -> None:
    full.set_image(SMALL[0])
    theirs = SamPredictor(full.model)
    theirs.features, theirs.is_image_set = full.features, True
    theirs.original_size, theirs.input_size = full.original_size, full.input_size
    for logits in (False, True):
        ours, peer = full.predict(**prompt, return_logits=logits), theirs.predict(**prompt, return_logits=logits)
        for a, b in zip(ours, peer, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            assert np.mean(a != b) < 1e-4 if a.dtype == bool else np.allclose(a, b, atol=1e-3)


def test_its_masks_are_those_of_the_library(nano: hs.Predictor) -> None:
    image, label = LARGE
    boxes = boxes_of(label)
    found = nano.predict_boxes(image, boxes)
    truth = [label == value for value in np.unique(label)[1:]]
    assert np.mean([iou(whole(one, label.shape), mask) for one, mask in zip(found, truth, strict=True)]) > 0.8
    nano.set_image(image)
    alone = [nano.predict(box=box, multimask_output=False) for box in boxes[:6]]
    # SamPredictor's coordinates lie half a pixel of SAM's input off
    assert all(iou(masks[0], whole(one, label.shape)) > 0.9 for (masks, _, _), one in zip(alone, found, strict=False))
    assert all(iou(masks[0], mask) > 0.7 for (masks, _, _), mask in zip(alone, truth, strict=False))


def test_tiles_are_hidden(nano: hs.Predictor) -> None:
    image, label = LARGE
    nano.set_image(image)
    assert nano.original_size == (600, 700) and nano.is_image_set
    boxes = boxes_of(label)
    sent = torch.from_numpy(nano.transform.apply_boxes(boxes, (600, 700))).float()
    masks, ious, low = nano.predict_torch(None, None, boxes=sent, multimask_output=False)
    assert masks.shape == (len(boxes), 1, 600, 700) and low.shape == (len(boxes), 1, 256, 256)
    for number, box in enumerate(boxes):
        mask, score, _ = nano.predict(box=box, multimask_output=False)
        assert iou(mask[0], masks[number, 0].numpy()) > 0.999 and score[0] == pytest.approx(
            float(ious[number]), abs=1e-4
        )
        again, _, _ = nano.predict(box=box, mask_input=low[number].numpy(), multimask_output=False)
        assert iou(again[0], mask[0]) > 0.8
    logits, _, _ = nano.predict(box=boxes[0], multimask_output=False, return_logits=True)
    assert iou(logits[0] > 0, masks[0, 0].numpy()) > 0.999
    with pytest.raises(PromptError, match=r"4 tiles with an embedding each.*tile=0"):
        nano.get_image_embedding()
    with pytest.raises(PromptError, match="needs a click in the object or a box"):
        nano.predict(mask_input=low[0].numpy())
    with pytest.raises(PromptError, match="shows nothing where the click or box is"):
        nano.predict(box=boxes[0], mask_input=np.full((1, 256, 256), -5, np.float32))


def test_grids_of_tiles_and_images_are_brought_to_each_other() -> None:
    rows, columns = np.mgrid[:256, :256]
    # a plane that rises to the right and below, in px of the image
    tile, image = (188, 88, 512, 512), (0, 0, 700, 600)
    in_tile = (tile[0] + (columns + 0.5) * 2 + 3 * (tile[1] + (rows + 0.5) * 2)).astype(np.float32)
    found = resampled(in_tile[None], tile, image)[0]
    x, y = (np.arange(256) + 0.5) * 700 / 256, (np.arange(256) + 0.5) * 700 / 256
    expected = x[None] + 3 * y[:, None]
    inside = np.ix_((y > 94) & (y < 594), (x > 194) & (x < 694))
    # averages on a grid that is coarser by no whole number lie up to a seventh of a px off
    assert np.abs(found - expected)[inside].max() < 0.5
    assert (found[y > 600] == -10).all() and (found[:, x < 188] == -10).all()
    back = resampled(np.where(found == -10, 0, found)[None], image, tile)[0]
    assert np.abs(back - in_tile)[10:-10, 10:-10].max() < 0.5


@pytest.mark.ci
def test_segment_anythings_mask_generator_runs_on_it(nano: hs.Predictor) -> None:
    image, label = SMALL
    generator = SamAutomaticMaskGenerator(nano.model, points_per_side=10, stability_score_thresh=0.8)
    generator.predictor = nano
    shown = np.repeat((image / image.max() * 255).astype(np.uint8)[..., None], 3, axis=2)
    found = [record["segmentation"] for record in generator.generate(shown)]
    cells = [label == value for value in np.unique(label)[1:]]
    assert sum(max(iou(mask, cell) for mask in found) > 0.6 for cell in cells) >= len(cells) / 2
    assert not nano.is_image_set


def test_a_stored_frame_needs_no_encoder(scored: Path, tmp_path: Path) -> None:
    """The recipe's checkpoint is gone: only prompts on stored frames can be answered."""
    shutil.copytree(scored, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    frame = store.frames_table()["frame"][7].as_py()
    boxes = np.array([list(c.values()) for c in store.cells_table().select(["x0", "y0", "x1", "y1"]).to_pylist()[-3:]])
    toml = tmp_path / "store/store.toml"
    lost = toml.read_text().replace('checkpoint = ""', 'checkpoint = "gone.pth"')
    assert lost != toml.read_text()
    toml.write_text(lost)
    model = hs.load(tmp_path / "store", device="cpu")
    model.set_view(frame)
    checkpoint = resolve_checkpoint(store, None)
    embedding = torch.from_numpy(store.embedding(frame)).float()
    assert torch.equal(model.get_image_embedding()[0], embedding) and model.original_size == (192, 256)
    assert checkpoint.window == model.parts.window
    found, named = model.predict_boxes(None, boxes), model.predict_boxes(frame, boxes)
    assert [one.mask.tobytes() for one in found] == [one.mask.tobytes() for one in named]
    with pytest.raises(hs.HelaError, match=r"no checkpoint at .*gone.pth"):
        model.set_image(SMALL[0])
    assert not model.is_image_set


def test_runs_are_loaded_by_folder_and_by_id(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(scored)
    (run,) = [path.name for path in (scored / "runs").iterdir() if "-finetune-" in path.name]
    frame = store.frames_table()["frame"][7].as_py()
    by_folder = hs.load(scored / "runs" / run, device="cpu")
    monkeypatch.chdir(scored)
    by_id = hs.load(run, device="cpu")
    assert by_folder.model_name == by_id.model_name == run
    decoder = resolve_checkpoint(store, run).load_decoder("cpu")
    box = np.array([20.0, 30, 50, 60])
    from hela_store.prompts.prompt import Prompt

    rect = (0, 0, 256, 192)
    embedding = torch.from_numpy(store.embedding(frame)).float()
    (expected,) = predict_view(decoder, embedding, rect, [Prompt(kind="box", box=box)], window=by_id.parts.window)
    (found,) = by_id.predict_boxes(frame, box)
    assert found.origin == expected.origin and np.array_equal(found.mask, expected.mask)
    evaluation = next(path.name for path in (scored / "runs").iterdir() if "-evaluate-" in path.name)
    with pytest.raises(RunError, match="of kind evaluate, expected finetune"):
        hs.load(evaluation)
    monkeypatch.chdir("/")
    with pytest.raises(RunError, match=rf"no run {run} in the 0 stores here; give its folder"):
        hs.load(run)
    with pytest.raises(
        StoreError, match=r"nothing to load at 'nanoo', expected the folder of a store .* or a name .* such as nano"
    ):
        hs.load("nanoo")


def test_a_run_of_another_encoder_is_refused(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "store")
    toml = tmp_path / "store/store.toml"
    toml.write_text(toml.read_text().replace("high = 99.8", "high = 99.0"))
    (run,) = [path for path in (tmp_path / "store/runs").iterdir() if "-finetune-" in path.name]
    with pytest.raises(RunError, match=r"was tuned on embeddings of nano-.*, this recipe asks for nano-"):
        hs.load(run)


def test_views_that_are_not_there(store: Store, nano: hs.Predictor) -> None:
    model = hs.load(store, device="cpu")
    frame = store.frames_table()["frame"][7].as_py()
    with pytest.raises(StoreError, match="no frame '01/t0' in"):
        model.set_view("01/t0")
    row = store.committed()[store.views_table().to_pylist()[7]["view"]]
    (last,) = [p for p in store.ledger().path.iterdir() if json.loads(p.read_text().splitlines()[-1])["row"] == row]
    last.unlink()
    with pytest.raises(StoreError, match=rf"1 of 1 views of {frame} are not embedded yet; run `hela-store embed`"):
        hs.load(Store.open(store.path), device="cpu").set_view(frame)
    with pytest.raises(PromptError, match="nano has no store"):
        nano.set_view(frame)


@pytest.mark.parametrize(
    "dtype",
    [
        np.uint8,
        np.int64,
        np.float16,
        np.float32,
        bool,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (np.uint16, np.int32, np.float64)),
    ],
)
def test_images_of_any_type(nano: hs.Predictor, dtype: Any) -> None:
    grey = (SMALL[0] / SMALL[0].max() * 250).astype(np.uint8)
    image = (grey > 100) if dtype is bool else grey.astype(dtype)
    nano.set_image(image)
    found = nano.features
    nano.set_image(image.astype(np.uint16))
    assert found is not None and nano.features is not None and torch.allclose(found, nano.features, atol=0.02)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.random.default_rng(0).integers(0, 99, (20, 30, 3)), r"3 channels that differ.*image\[\.\.\., 0\]"),
        (np.zeros((2, 20, 30)), r"shape \(2, 20, 30\), expected one grey plane"),
        ([np.zeros((20, 30)), np.zeros((20, 30))], r"shape \(2, 20, 30\), expected one grey plane"),
        (np.full((20, 30), np.nan), "600 pixels are NaN or infinite"),
        (np.zeros((0, 30)), "at least one pixel"),
        (np.full((3, 3), "a"), "values of type <U1"),
        (np.zeros(9), r"shape \(9,\)"),
    ],
)
def test_bad_images(nano: hs.Predictor, image: Any, message: str) -> None:
    nano.set_image(SMALL[0])
    for ask in (nano.set_image, lambda image: nano.predict_boxes(image, [[1, 1, 9, 9]]), hs.segment):
        with pytest.raises(DatasetError, match=message):
            ask(image)
    with pytest.raises(NoImageError, match="no image is set"):
        nano.predict(box=np.array([1, 1, 9, 9]))  # the image before must not answer


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "no prompt, expected at least one of points, a box and a mask_input"),
        ({"box": [10, 180, 60, 209]}, r"frame of 150 rows and 210 columns, .*in \(row, col\) order it would fit"),
        ({"box": [300, 20, 340, 60]}, "expected .* inside of the frame"),
        ({"box": [60, 20, 40, 60]}, "x0 < x1 and y0 < y1"),
        ({"box": [1, 2, 3]}, r"boxes have shape \(.*3,?\), expected"),
        ({"box": [1, 2, np.nan, 4]}, "box 0 is"),
        ({"point_coords": [[20, 190]], "point_labels": [1]}, r"in \(row, col\) order it would fit"),
        ({"point_coords": [[20, 19]]}, "1 points without point_labels"),
        ({"point_coords": [[20, 19]], "point_labels": [1, 1]}, r"point_labels have shape \(2,\), expected \(1,\)"),
        ({"point_coords": [[20, 19]], "point_labels": [7]}, "a point has label 7"),
        ({"point_coords": [20, 19], "point_labels": [1]}, r"points have shape \(2,\)"),
        ({"mask_input": np.zeros((150, 210))}, "mask_input has shape"),
        ({"mask_input": np.full((1, 256, 256), np.nan)}, "mask_input has NaN"),
    ],
)
def test_bad_prompts(nano: hs.Predictor, prompt: dict[str, Any], message: str) -> None:
    nano.set_image(SMALL[0])
    with pytest.raises(PromptError, match=message):
        nano.predict(**prompt)
    if "box" in prompt:
        with pytest.raises(PromptError, match=message):
            nano.predict_boxes(None, [prompt["box"]])


def test_before_an_image_is_set() -> None:
    model = hs.load("nano", device="cpu")
    for ask in (lambda: model.predict(box=np.array([1, 1, 9, 9])), model.get_image_embedding):
        with pytest.raises(
            RuntimeError, match="no image is set, expected one before any prompt; call set_image or set_view"
        ):
            ask()
    assert model.features is None and not model.is_image_set and model.original_size is None
    with pytest.raises(DatasetError, match="image_format is 'CMYK'"):
        model.set_image(SMALL[0], "CMYK")


def test_one_image_replaces_another_as_a_whole(scored: Path) -> None:
    model = hs.load(scored, device="cpu")
    frame = Store.open(scored).frames_table()["frame"][7].as_py()
    other = draw(4, (120, 100), 4)[0]
    model.set_image(other)
    model.set_view(frame)
    assert model.original_size == (192, 256)
    expected = {}
    for name, set_one in (("image", lambda: model.set_image(other)), ("view", lambda: model.set_view(frame))):
        set_one()
        expected[model.predict(box=np.array([20, 30, 50, 60]), multimask_output=False)[0].tobytes()] = name

    seen, swaps = 0, [0, 0]

    def swap(number: int) -> None:
        while swaps[number] < 2 or not seen:
            for set_one in (lambda: model.set_image(other), lambda: model.set_view(frame)):
                set_one()
                time.sleep(0.02)  # the image is set for a moment, however busy the machine is
            swaps[number] += 1

    threads = [threading.Thread(target=swap, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        try:
            answer = model.predict(box=np.array([20, 30, 50, 60]), multimask_output=False)[0].tobytes()
        except NoImageError:
            continue
        seen += 1
        assert answer in expected
    assert seen


def test_embeddings_that_a_caller_kept_are_taken_back(nano: hs.Predictor) -> None:
    """As micro-sam does: attributes of SamPredictor are read and assigned one by one."""
    box = np.array([60, 40, 90, 75])
    nano.set_image(SMALL[0])
    assert nano.features is not None
    assert nano.original_size is not None and nano.input_size is not None
    kept = (nano.features.clone(), nano.original_size, nano.input_size)
    expected = nano.predict(box=box, multimask_output=False)
    nano.set_image(LARGE[0])
    nano.features, nano.original_size, nano.input_size = kept
    nano.is_image_set = True
    for a, b in zip(nano.predict(box=box, multimask_output=False), expected, strict=True):
        assert np.array_equal(a, b)
    nano.reset_image()
    assert not nano.is_image_set


def test_an_image_prepared_by_the_caller(full: hs.Predictor) -> None:
    shown = np.repeat((SMALL[0] / SMALL[0].max() * 255).astype(np.uint8)[..., None], 3, axis=2)
    theirs = SamPredictor(full.model)
    theirs.set_image(shown)
    prepared = torch.from_numpy(full.transform.apply_image(shown)).permute(2, 0, 1)[None]
    full.set_torch_image(prepared, shown.shape[:2])
    assert full.features is not None and torch.allclose(full.features, theirs.features, atol=1e-3)
    with pytest.raises(DatasetError, match="expected a long side of 1024 px"):
        full.set_torch_image(torch.zeros(1, 3, 100, 100), (100, 100))
