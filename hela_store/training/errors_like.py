"""The errors of a tool's masks, fitted where they overlap labelled training frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hela_store.base.aliases import LabelArray
from hela_store.datasets.tool_masks import ToolMasks, check_tool_masks, find_tool_masks
from hela_store.prompts.error_model import ErrorModel
from hela_store.prompts.fit_errors import LEAST_PAIRS, error_pairs, fit_errors
from hela_store.store.store import Store


def errors_like(store: Store, folder: Path) -> tuple[ErrorModel, str]:
    """Return the error model of a folder of masks, and where it is from, in words; as :func:`fitted_errors`.

    Raises
    ------
    PromptError, DatasetError
        The folder holds no label images of the store's frames, or wrong ones.
    """
    shapes = {name: frame.shape for name, frame in store.frame_records().items()}
    masks = find_tool_masks(folder, shapes)
    check_tool_masks(masks, shapes)
    return fitted_errors(store, masks)


def fitted_errors(store: Store, masks: ToolMasks) -> tuple[ErrorModel, str]:
    """Return the error model of masks and where it is from, in words; the generic one where too few can be fitted on.

    Only labelled frames of the training block are looked at.
    """
    blocks, records = store.blocks(), store.frame_records()
    frames = [frame for frame in masks.files if blocks[frame] == "train" and records[frame].has_label]
    if not frames:
        return ErrorModel(), "the generic error model, because no labelled training frame has one of these masks"

    def label_images() -> Iterator[tuple[str, LabelArray, LabelArray]]:
        for frame in frames:
            yield frame, store.pixels.label(frame), masks.read(frame)

    pairs = error_pairs(label_images())
    model = fit_errors(pairs)
    if not model.pairs:
        found = f"{pairs.count} masks fit a cell of {len(frames)} labelled training frames, expected {LEAST_PAIRS}"
        return model, f"the generic error model, because {found}"
    return model, str(model)
