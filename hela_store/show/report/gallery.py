"""Say which cells are shown as pictures: the worst, the median, the most changed and random ones of each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from hela_store.base.progress import Progress
from hela_store.errors import StoreError
from hela_store.show.cards import draw_cards

from .choice import Choice, Pair, Row
from .page import Section

MOST_CARDS = 240
"""Of all prompts together; a card takes 5 to 15 kB of the page."""
SHARES = {"worst": 0.25, "median": 0.15, "changed": 0.25, "random": 0.35}
FACTS = ("iou", "dice", "before", "change", "predicted_iou", "prompt_iou", "diameter", "mean_intensity", "time")
EXTRA = ("boundary_iou", "hd95", "spill", "failure")

CELLS = """,
    before AS (SELECT cell, prompt, prompt_seed, iou AS before FROM scored WHERE run = $first),
    one AS (
        SELECT s.*, b.before, s.iou - b.before AS change
        FROM scored s LEFT JOIN before b USING (cell, prompt, prompt_seed)
        WHERE s.run = $after AND s.prompt = $prompt
        QUALIFY row_number() OVER (PARTITION BY s.cell ORDER BY s.prompt_seed) = 1),
    ranked AS (
        SELECT *, row_number() OVER (ORDER BY iou, cell) AS worst,
               row_number() OVER (ORDER BY abs(iou - (SELECT median(iou) FROM one)), cell) AS median,
               row_number() OVER (ORDER BY abs(change) DESC NULLS LAST, cell) AS changed,
               row_number() OVER (ORDER BY hash(cell)) AS random
        FROM one)
    SELECT * FROM ranked
    WHERE worst <= $worst OR median <= $middle OR (changed <= $changed AND change IS NOT NULL) OR random <= $random
    ORDER BY cell
"""
DRAWN = """
    SELECT q.cell, c.x0, c.y0, c.x1, c.y1, p.origin, p.kind, [p.x0, p.y0, p.x1, p.y1] AS box, p.points,
           p.point_labels, q.rle, q.rle_height, q.rle_width, old.rle AS before_rle, c.frame
    FROM (SELECT unnest($cells) AS cell, unnest($seeds) AS prompt_seed) k
    JOIN predictions q ON q.run = $after AND q.cell = k.cell AND q.prompt = $prompt AND q.prompt_seed = k.prompt_seed
    JOIN prompts p ON p.run = q.run AND p.prompt_id = q.prompt_id
    JOIN runs r ON r.id = q.run
    JOIN cells_at c ON c.cell = q.cell AND c.labels_version = r.labels_version
    LEFT JOIN predictions old ON old.run = $first AND old.cell = q.cell AND old.prompt = q.prompt
        AND old.prompt_seed = q.prompt_seed
    ORDER BY q.cell
"""


def gallery(choice: Choice, progress: Progress) -> Section | None:
    """Return the section; None without scores."""
    found: list[Row] = []
    for pair in choice.pairs:
        found += _picked(choice, pair, MOST_CARDS // len(choice.pairs))
    if not found:
        return None
    found.sort(key=lambda row: (row["frame"], row["cell"]))
    drawn = draw_cards(choice.store, [row | {"before": row["before_rle"]} for row in found])
    cards, notes = [], []
    try:
        for row, card in zip(found, progress(drawn, total=len(found), what="gallery"), strict=True):
            cards.append(card.to_json() | _about(row))
    except StoreError as error:
        # the catalog outlives the arrays; the numbers are worth having without the pictures
        notes.append(f"the gallery ends here: {error}")
    text = (
        "Left as acquired, right with outlines: truth, prompt, prediction and the prediction before. Each crop is "
        "stretched to its own contrast, so brightness cannot be compared between cells."
    )
    return Section(id="gallery", title="Gallery", text=text, cards=cards, notes=notes)


def _picked(choice: Choice, pair: Pair, most: int) -> list[Row]:
    counts = {tag: max(1, int(share * most)) for tag, share in SHARES.items()}
    asked = {
        "after": pair.after.run,
        "first": pair.before.run if pair.before else "",
        "prompt": pair.prompt,
        "worst": counts["worst"],
        "middle": counts["median"],
        "changed": counts["changed"],
        "random": counts["random"],
    }
    lines = [line for line in (pair.before, pair.after) if line is not None]
    rows = choice.scored(CELLS, lines, **asked)
    keys = {"cells": [row["cell"] for row in rows], "seeds": [row["prompt_seed"] for row in rows]}
    drawn = choice.rows(DRAWN, **keys, **{name: asked[name] for name in ("after", "first", "prompt")})
    for row, more in zip(rows, drawn, strict=True):
        row |= more
        row["name"], row["old"] = pair.after.name, pair.before.name if pair.before else ""
        row["tags"] = [
            tag for tag in SHARES if row[tag] <= counts[tag] and (tag != "changed" or row["change"] is not None)
        ]
    return rows


def _about(row: Row) -> Row:
    names: Sequence[str] = (*FACTS, *(name for name in EXTRA if name in row))
    facts = {name: round(v, 4) if isinstance(v := row[name], float) else v for name in names if row[name] is not None}
    return {
        "facts": facts,
        "prompt_kind": row["prompt"],
        "run": row["name"],
        "old": row["old"],
        "tags": row["tags"],
        "touching": bool(row["touches_neighbour"]),
    }
