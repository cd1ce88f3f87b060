import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from hela_store.errors import RecipeError
from hela_store.images.rle import filled, largest_piece, trim
from hela_store.prompts.prompt import Prompt
from hela_store.sam.decoder import SamPrompts, build_decoder, view_tokens
from hela_store.sam.predict import (
    check_window,
    frame_mask,
    predict_best,
    predict_view,
    sam_prompts,
    whole_logits,
    window_sizes,
)


def smooth_logits(seed: int, size: int = 256) -> np.ndarray:
    torch.manual_seed(seed)
    coarse = torch.randn(1, 1, size // 16, size // 16)
    return interpolate(coarse, (size, size), mode="bicubic")[0, 0].numpy()


@pytest.mark.parametrize("rect", [(0, 0, 512, 512), (40, 30, 512, 512), (0, 0, 1100, 700), (0, 0, 256, 192)])
def test_masks_are_what_sams_postprocessing_makes(rect: tuple[int, int, int, int]) -> None:
    """SAM resizes 256 -> 1024 -> cut padding -> frame. The same but for its rounding of the resized view's size."""
    logits = smooth_logits(3)
    x0, y0, width, height = rect
    scale = 1024 / max(width, height)
    whole = interpolate(torch.from_numpy(logits)[None, None], (1024, 1024), mode="bilinear", align_corners=False)
    inside = whole[..., : round(height * scale), : round(width * scale)]
    expected = interpolate(inside, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy() > 0
    mask, origin = frame_mask(logits, (0, 0), rect)
    found = np.zeros((height, width), bool)
    top, left = origin[1] - y0, origin[0] - x0
    found[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    assert (found & expected).sum() / (found | expected).sum() >= (0.999 if width == height else 0.99)


def test_a_window_gives_the_pixels_of_the_whole() -> None:
    logits = np.full((256, 256), -5, np.float32)
    logits[100:112, 60:75] = 5
    rect = (10, 20, 512, 512)
    mask, origin = frame_mask(logits, (0, 0), rect)
    part, corner = frame_mask(logits[80:144, 40:104], (10, 20), rect)
    assert origin == corner and np.array_equal(mask, part)


def test_an_empty_answer_is_empty_not_an_error() -> None:
    mask, origin = frame_mask(np.full((64, 64), -1, np.float32), (3, 4), (5, 6, 512, 512))
    assert mask.size == 0 and origin == (5, 6)


def test_windows_follow_from_the_prompt() -> None:
    boxes = torch.tensor([[0.0, 0, 60, 60], [0, 0, 200, 50], [0, 0, 900, 900]])
    assert window_sizes(SamPrompts(boxes=boxes), 8).tolist() == [8, 16, 64]
    with pytest.raises(RecipeError, match="window is 12"):
        check_window(12)


def test_predictions_keep_the_order_of_mixed_prompts_and_ignore_their_company() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("nano").eval()
    embedding, rect = torch.randn(256, 64, 64), (0, 0, 512, 512)
    square = np.ones((20, 20), bool)
    prompts = [
        Prompt(kind="point", points=np.array([[100.0, 80.0]]), point_labels=np.array([1])),
        Prompt(kind="box", box=np.array([30.0, 40.0, 60.0, 70.0])),
        Prompt(kind="mask", mask=square, mask_origin=(200, 210)),
        Prompt(kind="box", box=np.array([300.0, 40.0, 330.0, 75.0])),
    ]
    together = predict_view(decoder, embedding, rect, prompts, window=8)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = predict_view(decoder, embedding, rect, [prompt], window=8)
        assert alone.origin == found.origin and np.array_equal(alone.mask, found.mask)
        assert alone.predicted_iou == pytest.approx(found.predicted_iou, abs=1e-4)


def test_the_best_mask_alone_is_the_same_one() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("nano").eval()
    embedding, rect = torch.randn(256, 64, 64), (0, 0, 512, 512)
    point = Prompt(kind="point", points=np.array([[100.0, 80.0]]), point_labels=np.array([1]))
    for window in (8, 64):
        (every,) = predict_view(decoder, embedding, rect, [point], window=window)
        best = predict_best(decoder, view_tokens(embedding), rect, point, window=window)
        assert len(every.others) == 2 and best.others == ()
        assert best.origin == every.origin and np.array_equal(best.mask, every.mask)
        assert best.predicted_iou == every.predicted_iou and np.array_equal(best.logits, every.logits)


def test_logits_of_a_first_pass_come_back_where_they_were() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("nano").eval()
    prompt = Prompt(kind="box", box=np.array([30.0, 40.0, 60.0, 70.0]))
    (found,) = predict_view(decoder, torch.randn(256, 64, 64), (0, 0, 512, 512), [prompt], window=8)
    whole = whole_logits(found)
    x, y = found.corner[0] * 4, found.corner[1] * 4
    size = found.logits.shape[0]
    assert np.array_equal(whole[y : y + size, x : x + size], found.logits)
    assert np.count_nonzero(whole != -10) <= size * size


def test_prompts_reach_sams_input_pixel_by_pixel() -> None:
    rect = (100, 50, 512, 512)
    prompt = Prompt(kind="box", box=np.array([100.0, 50.0, 612.0, 562.0]))
    boxes = sam_prompts([prompt], rect).boxes
    assert boxes is not None and boxes.tolist() == [[-0.5, -0.5, 1023.5, 1023.5]]
    point = Prompt(kind="point", points=np.array([[100.0, 51.0]]), point_labels=np.array([1]))
    points = sam_prompts([point], rect).points
    assert points is not None and points.tolist() == [[[0.5, 2.5]]]


def test_a_cell_is_one_piece_the_one_that_was_asked_for() -> None:
    torch.manual_seed(0)
    decoder, embedding = build_decoder("nano").eval(), torch.randn(256, 64, 64)
    drawn = np.zeros((512, 512), bool)
    drawn[64:70, 50:60] = True
    prompts = (
        (Prompt(kind="box", box=np.array([30.0, 40.0, 90.0, 100.0])), (slice(40, 100), slice(30, 90))),
        (Prompt(kind="box", box=np.array([29.5, 60.2, 40.0, 64.5])), (slice(60, 65), slice(29, 40))),
        (Prompt(kind="point", points=np.array([[60.0, 70.0]]), point_labels=np.array([1])), (70, 60)),
        (
            Prompt(
                kind="point",
                points=np.array([[60.0, 70.0], [80.0, 75.0], [40.0, 40.0]]),
                point_labels=np.array([1, 1, 0]),
            ),
            ([70, 75], [60, 80]),
        ),
        (Prompt(kind="mask", mask=drawn[60:80, 45:70], mask_origin=(45, 60)), drawn),
    )
    asked_for = []
    for prompt, place in prompts:
        (whole,) = predict_view(decoder, embedding, (0, 0, 512, 512), [prompt], window=16, one_piece=False)
        (kept,) = predict_view(decoder, embedding, (0, 0, 512, 512), [prompt], window=16)
        frame, within = np.zeros((512, 512), bool), np.zeros((512, 512), bool)
        (x, y), (height, width) = whole.origin, whole.mask.shape
        frame[y : y + height, x : x + width] = whole.mask
        within[place] = True
        assert ndimage.label(frame)[1] > 1  # random weights draw specks
        mask, origin = trim(filled(largest_piece(frame, within)))
        assert kept.origin == origin and np.array_equal(kept.mask, mask) and ndimage.label(kept.mask)[1] == 1
        assert kept.predicted_iou == whole.predicted_iou and np.array_equal(kept.logits, whole.logits)
        asked_for.append(not np.array_equal(mask, trim(filled(largest_piece(frame)))[0]))
    assert any(asked_for)
