"""From the head's output to detections: peaks, boxes, click points and coarse masks, in frame coordinates."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from hela_store.images.geometry import Rect
from hela_store.images.rle import Rle, encode

from .detections import Detections, join, merge_tiles, no_detections
from .head import GridHead, HeadOutput, on_cpu
from .losses import boxes_at, local_peaks
from .targets import HEAD_POSITIONS, position_px

MOST = 400
"""Most detections of a tile, best first: bounds memory and time of a head that has learnt nothing."""
LEAST_SCORE = 0.05
"""Detections below are not worth a row; thresholds are chosen well above."""
VOTE_REACH = 0.75
"""A position belongs to a detection only if its vote falls within this many box sides of that centre."""


@torch.inference_mode()
def detect_tile(
    head: GridHead, embedding: Tensor, rect: Rect, shape: tuple[int, int], tile: int, least: float = LEAST_SCORE
) -> Detections:
    """Find the cells of one view.

    Parameters
    ----------
    head : on the device of ``embedding``
    embedding : float32, (256, 64, 64)
    rect : of the view, ``(x0, y0, width, height)`` px, frame
    shape : (rows, cols) of the frame, px
    tile : number of the view among the frame's tiles
    least : lowest score that counts
    """
    output = on_cpu(head(embedding[None]))
    pitch = position_px(rect)
    probability = output.centre.sigmoid()
    score = (probability * output.quality.sigmoid()).sqrt()
    rows, columns = min(HEAD_POSITIONS, round(rect[3] / pitch)), min(HEAD_POSITIONS, round(rect[2] / pitch))
    peaks = local_peaks(probability) & (score >= least)
    peaks[:, rows:], peaks[:, :, columns:] = False, False
    flat = torch.nonzero(peaks[0].flatten()).flatten()
    values = score[0].flatten()[flat]
    order = values.argsort(descending=True)[:MOST]
    flat, values = flat[order], values[order]
    if len(flat) == 0:
        return no_detections()
    boxes = boxes_at(output, 0, flat).double().numpy()
    return _in_frame(output, flat, boxes, values.double().numpy(), rect, shape, tile)


def _in_frame(
    output: HeadOutput,
    flat: Tensor,
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    rect: Rect,
    shape: tuple[int, int],
    tile: int,
) -> Detections:
    pitch, corner = position_px(rect), np.asarray(rect[:2], float)
    place = torch.stack([flat % HEAD_POSITIONS, flat // HEAD_POSITIONS]) + 0.5 + output.click[0].flatten(1)[:, flat]
    limit = np.array([shape[1], shape[0]], float)
    points = (place.T.double().numpy() * pitch + corner - 0.5).clip(0, limit - 1)
    framed = boxes * pitch + np.tile(corner, 2)
    low = framed[:, :2].clip(0, limit - 1)
    high = np.maximum(framed[:, 2:].clip(0, limit), low + 1)
    return Detections(
        boxes=np.concatenate([low, high], 1),
        scores=scores,
        points=points,
        tiles=np.full(len(scores), tile, np.int64),
        masks=tuple(_coarse_masks(output, boxes, rect, shape)),
    )


def _coarse_masks(
    output: HeadOutput, boxes: npt.NDArray[np.float64], rect: Rect, shape: tuple[int, int]
) -> list[Rle | None]:
    """Give every inside position to the detection its vote falls nearest to; a mask for each detection that has any."""
    inside = output.inside[0] > 0
    rows, columns = (axis.numpy() for axis in torch.nonzero(inside, as_tuple=True))
    owner = np.zeros((HEAD_POSITIONS, HEAD_POSITIONS), np.int32)
    if len(rows):
        offset = output.offset[0][:, inside].numpy()
        votes = np.stack([columns + 0.5 + offset[0], rows + 0.5 + offset[1]], 1)
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1)
        far = np.linalg.norm(votes[:, None] - centres[None], axis=2) / np.maximum(sides, 1)[None]
        nearest = far.argmin(1)
        near = far[np.arange(len(far)), nearest] <= VOTE_REACH
        owner[rows[near], columns[near]] = nearest[near] + 1
    long = max(rect[2], rect[3])
    fine = interpolate(output.inside[:, None], (long, long), mode="bilinear", align_corners=False)[0, 0].numpy()
    place = ((np.arange(long) + 0.5) / position_px(rect)).astype(int)
    labels = owner[np.ix_(place[: rect[3]], place[: rect[2]])] * (fine[: rect[3], : rect[2]] > 0)
    masks: list[Rle | None] = []
    for i, found in enumerate(ndimage.find_objects(labels, max_label=len(boxes))):
        if found is None:
            masks.append(None)
            continue
        origin = (rect[0] + found[1].start, rect[1] + found[0].start)
        masks.append(encode(labels[found] == i + 1, origin, shape))
    return masks


def detect_frame(
    head: GridHead,
    embeddings: Iterable[Tensor],
    tiles: list[Rect],
    shape: tuple[int, int],
    least: float = LEAST_SCORE,
) -> Detections:
    """Find the cells of a frame: tile by tile, each cell once.

    Parameters
    ----------
    head : GridHead
    embeddings : float32, (256, 64, 64) each, of the frame's tiles in order
    tiles : (x0, y0, width, height) px, frame, each
    shape : (rows, cols) of the frame, px
    least : lowest score that counts
    """
    device = next(head.parameters()).device
    parts = [
        detect_tile(head, embedding.to(device), rect, shape, number, least)
        for number, (embedding, rect) in enumerate(zip(embeddings, tiles, strict=True))
    ]
    return merge_tiles(join(parts), tiles, shape)
