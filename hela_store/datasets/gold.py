"""Say what labels say and where they say nothing: gold over the reference, the field of interest, valid pixels.

The tracker reference is the result of a public tracking tool, complete but imitating one tool's style. Gold was
drawn by people for some of the cells.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray
from hela_store.images.labels import Labels, SharedPixels, shared_pixels
from hela_store.metrics.matching import majority


def gold_over_reference(gold: Labels, reference: Labels) -> tuple[Labels, BoolArray]:
    """Put gold nuclei in the place of the reference ones they match; the rest of the frame stays as it is.

    - A gold nucleus matches the reference one that holds more than half of its pixels (the challenge's rule for SEG),
      replaces it and takes its number. Where several gold nuclei match one of them (the tool had merged these), the
      largest overlap takes the number, the others get new ones.
    - Pixels of a replaced reference nucleus that no gold nucleus covers become background. Where they are more than
      half of that reference nucleus it probably held another cell that nobody drew in gold: these pixels are not valid.
    - A gold nucleus that matches nothing is added with a new number (above all numbers of both).
    - Gold wins every pixel. A reference nucleus more than half of which is taken without a match was a fragment of the
      same nucleus and is removed; any other keeps what is left of it.

    Parameters
    ----------
    gold, reference : int32, (row, col)
        0 is background.

    Returns
    -------
    label : int32, (row, col)
    valid : bool, (row, col)
    """
    pairs = shared_pixels(gold, reference)
    held = majority(pairs)
    taken = np.bincount(pairs.second, pairs.shared, minlength=len(pairs.second_labels))
    replaced = np.zeros(len(pairs.second_labels), bool)
    replaced[held.second] = True
    gone = replaced | (2 * taken > pairs.second_areas)
    doubtful = replaced & (2 * (pairs.second_areas - taken) > pairs.second_areas)
    label = np.where(np.isin(reference, pairs.second_labels[gone]), 0, reference).astype(np.int32)
    drawn = gold > 0
    label[drawn] = _numbers(held)[np.searchsorted(held.first_labels, gold[drawn])]
    return label, ~(np.isin(reference, pairs.second_labels[doubtful]) & ~drawn)


def _numbers(held: SharedPixels) -> npt.NDArray[np.int64]:
    """Return the label value each gold nucleus gets: its reference one's, or a new one above all there are."""
    heir: dict[int, int] = {}
    for pair in np.argsort(held.shared, kind="stable"):
        heir[int(held.second[pair])] = int(held.first[pair])
    highest = max(held.first_labels.max(initial=0), held.second_labels.max(initial=0))
    new = np.ones(len(held.first_labels), bool)
    new[list(heir.values())] = False
    numbers = np.zeros(len(held.first_labels), np.int64)
    numbers[new] = highest + 1 + np.arange(new.sum())
    numbers[list(heir.values())] = held.second_labels[list(heir)]
    return numbers
