"""Draw the pages' pictures from the store of ``hela-store demo``.

    hela-store demo --out stores/demo
    hela-store detect train -s stores/demo
    hela-store evaluate -s stores/demo --prompt detected
    python tests/benchmarks/picture.py outlines --store stores/demo --prompt mask --out tests/benchmarks/outlines.png
    python tests/benchmarks/picture.py mended --store stores/demo --prompt mask --out tests/benchmarks/mended.png
    python tests/benchmarks/picture.py found --store stores/demo --out tests/benchmarks/found.png

``mended``: the test frame with the most failures, by the newest zero-shot and tuned evaluation of that prompt; the crops
are the cells whose IoU rose most. ``outlines``: a test frame with the masks of the newest evaluation of detected prompts,
and the same crops. ``found``: the crops that the query in ``notebooks/queries.md`` finds. Truth green, prediction magenta,
prompt yellow. Use drawn frames: pixels of a data set belong to its owners.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from score_nano import frame_pixels

from hela_store.images.rle import decode_crop, paste
from hela_store.store.store import Store

NEWEST = """
    SELECT run FROM cell_metrics WHERE prompt = '{prompt}' AND kind = 'evaluate' AND split = 'test'
    AND (checkpoint = 'zero-shot') = {zero_shot} ORDER BY run DESC LIMIT 1
"""
PAIRS = """
    SELECT b.cell, b.frame, c.label, c.x0, c.y0, c.x1, c.y1, b.iou AS before, a.iou AS after, b.rle AS rle_before,
           a.rle AS rle_after, b.rle_height, b.rle_width, q.points, [q.x0, q.y0, q.x1, q.y1] AS box
    FROM predictions b JOIN predictions a USING (cell, prompt, prompt_seed) JOIN cells c ON c.cell = b.cell
    JOIN prompts q ON q.run = b.run AND q.prompt_id = b.prompt_id
    WHERE b.run = '{before}' AND a.run = '{after}' AND prompt = '{prompt}' AND prompt_seed = 0
    ORDER BY a.iou - b.iou DESC
"""
FOUND = """
    SELECT m.cell, m.prompt, m.iou AS after, m.failure, p.rle AS rle_after, p.rle_height, p.rle_width, p.frame,
           c.label, c.x0, c.y0, c.x1, c.y1, q.points, [q.x0, q.y0, q.x1, q.y1] AS box
    FROM ({query}) m JOIN predictions p USING (run, cell, prompt, prompt_seed) JOIN cells c ON c.cell = m.cell
    JOIN prompts q ON q.run = p.run AND q.prompt_id = p.prompt_id ORDER BY after
"""
FAILED = 0.8
SHOWN = 5
MARGIN = 12


def pairs(store: Store, prompt: str) -> list[dict[str, Any]]:
    runs = []
    for zero_shot in (True, False):
        found = store.sql(NEWEST.format(prompt=prompt, zero_shot=zero_shot)).fetchall()
        if not found:
            raise SystemExit(f"{store.path} has no {'zero-shot' if zero_shot else 'tuned'} evaluation of {prompt}")
        runs.append(found[0][0])
    query = PAIRS.format(prompt=prompt, before=runs[0], after=runs[1])
    rows: list[dict[str, Any]] = store.sql(query).to_arrow_table().to_pylist()
    return rows


def shown_query() -> str:
    """Return the query over one run that the page on queries shows."""
    text = (Path(__file__).parents[2] / "notebooks/queries.md").read_text()
    query: str = text.split("```sql\n")[1].split("```")[0]
    return query.replace("SELECT cell,", "SELECT run, prompt_seed, cell,", 1)


def outline(axis: Axes, mask: np.ndarray, color: str) -> None:
    if mask.any():
        where = (-1.5, mask.shape[1] + 0.5, -1.5, mask.shape[0] + 0.5)
        axis.contour(np.pad(mask, 1), [0.5], colors=color, linewidths=1.2, extent=where)


def prediction(row: dict[str, Any], when: str, top: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    mask, origin = decode_crop(row[f"rle_{when}"], row["rle_height"], row["rle_width"])
    return paste(mask, origin, shape, (left, top))


def draw_frame(axis: Axes, image: np.ndarray, label: np.ndarray, rows: list[dict[str, Any]]) -> None:
    axis.imshow(image, cmap="gray")
    failed = 0
    for row in rows:
        wrong = row["before"] < FAILED
        failed += wrong
        outline(axis, prediction(row, "before", 0, 0, label.shape), "red" if wrong else "deepskyblue")
    axis.set_title(f"{rows[0]['frame']}: {failed} of {len(rows)} cells below IoU {FAILED}, zero-shot", fontsize=9)


def draw_crop(axis: Axes, image: np.ndarray, label: np.ndarray, row: dict[str, Any], when: str) -> None:
    top, left = max(row["y0"] - MARGIN, 0), max(row["x0"] - MARGIN, 0)
    cut = slice(top, row["y1"] + MARGIN), slice(left, row["x1"] + MARGIN)
    axis.imshow(image[cut], cmap="gray")
    outline(axis, label[cut] == row["label"], "lime")
    outline(axis, prediction(row, when, top, left, image[cut].shape), "magenta")
    if row["points"]:
        axis.plot(row["points"][0] - left, row["points"][1] - top, "+", color="yellow", ms=9)
    elif row["box"][0] is not None:
        x0, y0, x1, y1 = row["box"]
        axis.add_patch(Rectangle((x0 - left - 0.5, y0 - top - 0.5), x1 - x0, y1 - y0, fill=False, color="yellow"))
    axis.set_title(f"{'zero-shot' if when == 'before' else 'tuned'} {row[when]:.2f}", fontsize=9)


def found(store: Store) -> Figure:
    """Draw the cells that the shown query finds, one crop each."""
    rows = store.sql(FOUND.format(query=shown_query())).to_arrow_table().to_pylist()
    figure, axes = plt.subplots(1, len(rows), figsize=(13, 2.7), layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        draw_crop(axis, *frame_pixels(store, row["frame"]), row, "after")
        axis.set_title(
            f"{row['cell']}, {row['prompt']}\n{row['after']:.2f}, {row['failure'] or 'no failure'}", fontsize=8
        )
        axis.axis("off")
    return figure


DETECTED = """
    SELECT p.cell, p.iou, p.rle AS rle_after, p.rle_height, p.rle_width FROM predictions p
    WHERE p.run = (SELECT max(run) FROM cell_metrics WHERE prompt = 'detected' AND split = 'test')
    AND p.frame = '{frame}' AND p.rle IS NOT NULL
"""


def outlines(store: Store, prompt: str) -> Figure:
    """Draw a test frame with the masks that were found without prompts, and cells before and after fine-tuning."""
    rows = pairs(store, prompt)
    frame = min(row["frame"] for row in rows)
    image, label = frame_pixels(store, frame)
    figure = plt.figure(figsize=(12, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 5)
    whole = figure.add_subplot(grid[:, :2])
    whole.imshow(image, cmap="gray")
    for number in np.unique(label[label > 0]):
        outline(whole, label == number, "lime")
    for row in store.sql(DETECTED.format(frame=frame)).to_arrow_table().to_pylist():
        outline(whole, prediction(row, "after", 0, 0, label.shape), "magenta")
    whole.set_title("synthetic frame: found without prompts", fontsize=10)
    whole.axis("off")
    for k, row in enumerate(rows[:3]):
        for i, when in enumerate(("before", "after")):
            axis = figure.add_subplot(grid[i, 2 + k])
            draw_crop(axis, *frame_pixels(store, row["frame"]), row, when)
            axis.set_title(f"{'zero-shot' if when == 'before' else 'fine-tuned'} {row[when]:.2f}", fontsize=10)
            axis.axis("off")
    return figure


def mended(store: Store, prompt: str) -> Figure:
    """Draw a frame with its failures, and the cells that tuning mends most, before and after."""
    rows = pairs(store, prompt)
    frames = sorted({row["frame"] for row in rows})
    frame = max(frames, key=lambda name: sum(row["before"] < FAILED for row in rows if row["frame"] == name))
    image, label = frame_pixels(store, frame)
    figure = plt.figure(figsize=(13, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, SHOWN + 2)
    whole = figure.add_subplot(grid[:, :2])
    draw_frame(whole, image, label, [row for row in rows if row["frame"] == frame])
    whole.axis("off")
    for k, row in enumerate(rows[:SHOWN]):
        for i, when in enumerate(("before", "after")):
            axis = figure.add_subplot(grid[i, 2 + k])
            draw_crop(axis, *frame_pixels(store, row["frame"]), row, when)
            axis.axis("off")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("outlines", "mended", "found"))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--prompt", default="mask")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    store = Store.open(arguments.store)
    draw = {"outlines": outlines, "mended": mended}
    figure = found(store) if arguments.what == "found" else draw[arguments.what](store, arguments.prompt)
    figure.savefig(arguments.out, dpi=80, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
