"""A run's masks as one COCO file: boxes, run-length codes and scores (the format of Lin et al. 2014, pycocotools)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.base.files import write_atomic
from hela_store.base.progress import Progress, silent
from hela_store.evaluation.sequences import run_labels
from hela_store.images.assemble import Answer
from hela_store.images.rle import bbox, decode_crop
from hela_store.runs.info import to_json
from hela_store.store.store import Store

from .target import check_free

CATEGORY = {"id": 1, "name": "cell"}


@dataclass(frozen=True, kw_only=True)
class CocoExport:
    """A file that was written.

    Attributes
    ----------
    path : Path
    run : str
    images, annotations : how many are in it
    empty : masks without a pixel, which COCO cannot hold and which were left out
    """

    path: Path
    run: str
    images: int
    annotations: int
    empty: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"path": str(self.path)}


def export_coco(
    store: Store,
    run: str,
    out: Path,
    *,
    prompt: str | None = None,
    prompt_seed: int | None = None,
    progress: Progress = silent,
) -> CocoExport:
    """Write a run's stored masks, each as it was predicted, so two may overlap.

    ``file_name`` of an image is its frame, e.g. ``"01/t012"``. An annotation has ``bbox`` (``[x, y, width, height]``
    px, frame), ``segmentation`` (compressed run lengths), ``area`` (px), ``score``, and ``cell``: the id of the cell
    or detection.

    Parameters
    ----------
    run, prompt, prompt_seed
        As in :func:`hela_store.evaluation.sequences.run_labels`.
    out : Path
        Of the JSON file, which must not be there yet.

    Raises
    ------
    RunError
        Nothing to export, or the file is there.
    StoreError
        No space, no permission.
    """
    check_free(out)
    labels = run_labels(store, run, prompt, prompt_seed)
    frames = [row for row in store.frame_records().values() if row.frame in labels.answers]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    empty = 0
    for number, row in enumerate(progress(frames, total=len(frames), what="export"), start=1):
        images.append({"id": number, "file_name": row.frame, "height": row.height, "width": row.width})
        for answer in labels.answers[row.frame]:
            found = _annotation(answer, row.shape)
            if found is None:
                empty += 1
            else:
                annotations.append({"id": len(annotations) + 1, "image_id": number} | found)
    about = {"description": f"hela-store run {labels.info.id}", "prompt": labels.prompt, "seed": labels.prompt_seed}
    page = {"info": about, "images": images, "annotations": annotations, "categories": [CATEGORY]}
    write_atomic(out, to_json(page).encode())
    return CocoExport(path=out, run=labels.info.id, images=len(images), annotations=len(annotations), empty=empty)


def _annotation(answer: Answer, shape: tuple[int, int]) -> dict[str, Any] | None:
    mask, origin = decode_crop(answer.rle, *shape)
    if not mask.size:
        return None
    x0, y0, x1, y1 = bbox(mask, origin)
    return {
        "category_id": CATEGORY["id"],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(np.count_nonzero(mask)),
        "segmentation": {"size": list(shape), "counts": answer.rle},
        "iscrowd": 0,
        "score": answer.score,
        "cell": answer.id,
    }
