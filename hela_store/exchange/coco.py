"""A run's masks as COCO: boxes, run-length codes and scores (the format of Lin et al. 2014, pycocotools).

Three files: the masks as a data set, the same as a list of results, which ``COCO.loadRes`` reads, and the labels of
these frames as the truth that the results are scored against.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hela_store.base.progress import Progress, silent
from hela_store.evaluation.sequences import run_labels
from hela_store.images.assemble import Answer
from hela_store.images.rle import bbox, decode_crop, encode
from hela_store.runs.info import to_json
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

from .target import Targets

CATEGORY = {"id": 1, "name": "cell"}


@dataclass(frozen=True, kw_only=True)
class CocoExport:
    """A file that was written.

    Attributes
    ----------
    path : Path
    results : list for ``COCO(truth).loadRes(results)``; where there is a truth only of frames with labels
    truth : labels of these frames as a data set; None where no frame has labels
    run : str
    images, annotations : how many are in it
    empty : masks without a pixel, which COCO cannot hold and which were left out
    """

    path: Path
    results: Path
    truth: Path | None
    run: str
    images: int
    annotations: int
    empty: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        truth = None if self.truth is None else str(self.truth)
        return asdict(self) | {"path": str(self.path), "results": str(self.results), "truth": truth}


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
    or detection. ``<out>.results.json`` and ``<out>.truth.json``, with ``out`` less its ending, have the same ids of
    images; a mask without a score counts as 1 there, because pycocotools asks for one.

    Parameters
    ----------
    run, prompt, prompt_seed
        As in :func:`hela_store.evaluation.sequences.run_labels`.
    out : Path
        Of the JSON file; another file must not be there yet, nor at the others.

    Raises
    ------
    AlreadyComplete
        All of it is there already.
    RunError
        Nothing to export, or another file is there.
    StoreError
        No space, no permission.
    """
    results, truth = (out.with_name(f"{out.stem}.{what}.json") for what in ("results", "truth"))
    targets, labels = Targets(), run_labels(store, run, prompt, prompt_seed)
    frames = [row for row in store.frame_records().values() if row.frame in labels.answers]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    asked = sum(len(labels.answers[row.frame]) for row in frames)
    for number, row in enumerate(progress(frames, total=len(frames), what="export"), start=1):
        images.append({"id": number, "file_name": row.frame, "height": row.height, "width": row.width})
        found = [_annotation(answer, row.shape) for answer in labels.answers[row.frame]]
        annotations += [{"image_id": number} | each for each in found if each is not None]
    annotations = [{"id": number} | each for number, each in enumerate(annotations, start=1)]
    about = {"description": f"hela-store run {labels.info.id}", "prompt": labels.prompt, "seed": labels.prompt_seed}
    if labelled := {number: row for number, row in enumerate(frames, start=1) if row.has_label}:
        targets.file(truth, _truth_page(store, labelled, images, progress))
    scored = [_result(each) for each in annotations if not labelled or each["image_id"] in labelled]
    targets.file(results, to_json(scored).encode())
    targets.file(out, _page(about, images, annotations))
    targets.finish()
    return CocoExport(
        path=out,
        results=results,
        truth=truth if labelled else None,
        run=labels.info.id,
        images=len(images),
        annotations=len(annotations),
        empty=asked - len(annotations),
    )


def _truth_page(
    store: Store, labelled: dict[int, FrameRecord], images: list[dict[str, Any]], progress: Progress
) -> bytes:
    shown = progress(labelled.items(), total=len(labelled), what="truth")
    cells = [cell for number, row in shown for cell in _truth(store, row, number)]
    cells = [{"id": number} | cell for number, cell in enumerate(cells, start=1)]
    return _page({"description": "labels"}, [image for image in images if image["id"] in labelled], cells)


def _page(about: dict[str, Any], images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bytes:
    page = {"info": about, "images": images, "annotations": annotations, "categories": [CATEGORY]}
    return to_json(page).encode()


def _result(annotation: dict[str, Any]) -> dict[str, Any]:
    kept = {name: annotation[name] for name in ("image_id", "category_id", "bbox", "segmentation", "cell")}
    return kept | {"score": 1.0 if annotation["score"] is None else annotation["score"]}


def _truth(store: Store, row: FrameRecord, image: int) -> Iterator[dict[str, Any]]:
    """Yield the labelled cells of a frame."""
    label = store.pixels.label(row.frame)
    for number, part in enumerate(ndimage.find_objects(label), start=1):
        if part is None:
            continue
        code = encode(label[part] == number, (part[1].start, part[0].start), label.shape).counts
        found = _annotation(Answer(id=f"{row.frame}#{number}", score=None, rle=code), label.shape)
        assert found is not None
        yield {"image_id": image} | {name: value for name, value in found.items() if name != "score"}


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
