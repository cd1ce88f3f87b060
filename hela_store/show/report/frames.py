"""Show the frames with the worst scores, whole, with the outlines of labels and predictions."""

from __future__ import annotations

from typing import Any

from hela_store.errors import StoreError
from hela_store.recipe.splits import SPLIT_NAMES
from hela_store.show.cards import data_address
from hela_store.show.viewer.frames import frame_content, grey_picture

from .choice import Choice
from .page import Section

MOST = 6
"""Frames in the report; one takes 50 to 300 kB of the page."""
MOST_SIDE = 1400
"""Side to which the pictures of larger frames are reduced, px."""
WORST = """
    SELECT frame, avg(iou) AS iou, min(iou) AS worst, count(DISTINCT cell) AS cells, min(prompt_seed) AS seed
    FROM scored GROUP BY frame ORDER BY iou, frame LIMIT $most
"""


def worst_frames(choice: Choice) -> Section | None:
    """Return the section; None without scores."""
    if not choice.pairs:
        return None
    line = choice.pairs[0].after
    frames: list[dict[str, Any]] = []
    notes = []
    try:
        for row in choice.scored(WORST, [line], most=MOST):
            content = frame_content(choice.store, row["frame"], line.run, line.prompt, row["seed"])
            words = f"mean IoU {row['iou']:.3f} of {row['cells']} cells, worst {row['worst']:.3f}"
            picture = data_address(grey_picture(choice.store, row["frame"]), MOST_SIDE)
            frames.append(content | {"caption": f"{row['frame']}: {words}", "image": picture})
    except StoreError as error:
        # the catalog outlives the arrays; the numbers are worth having without the pictures
        notes.append(f"the frames end here: {error}")
    if not frames:
        return None
    text = (
        f"Up to {MOST} {SPLIT_NAMES[choice.split]} frames, those with the lowest mean IoU first: {line.name}, prompt "
        f"{line.prompt}. "
        "Solid outlines are labels, dashed ones predictions. Point at a cell to read its IoU; drag to pan; click the "
        "frame, then turn the wheel to zoom."
    )
    return Section(id="frames", title="Worst frames", text=text, frames=frames, notes=notes)
