"""Evaluation prompts of a frame, the decoder's answers, and their scores against the truth.

One frame at a time is in memory. A prompt is decoded in the tile where the *prompt* is most interior, so the choice
never sees the truth; a cell that no tile holds whole is scored against its full area and flagged ``cut``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from .cell_scores import CellScores, score_cell
from .errors import SplitError, StoreError
from .failures import label_areas
from .geometry import Rect, holds_whole, scoring_tile
from .image_free import image_free_score
from .masks import encode, paste
from .metrics import overlap
from .plan import blocks_of
from .predict import Logits, Prediction, predict_view, whole_logits
from .prompts import CellContext, DrawnPrompt, cell_context, clicks_of, corrective_click, make_prompt
from .sam.decoder import SamDecoder
from .splits import Block, members
from .store import Store
from .types import LabelArray, Prompt
from .user_prompts import prompt_rectangle
from .view_inputs import ViewReader, embed_command, readable_views

REPEATABLE = ("box-exact", "box@0", "point-centre", "mask-perfect")
"""Kinds that draw nothing: one seed is enough."""

FIRST = {"mask-previous": "box", "point-clicks": "point"}
"""What kinds that take several passes begin with."""

Row = dict[str, Any]
Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A view as acquired: its id, rectangle ``(x0, y0, width, height)`` px, frame, and row in the embeddings array."""

    view: str
    rect: Rect
    row: int


@dataclass(frozen=True, kw_only=True)
class FrameCells:
    """A labelled frame with its cells and tiles.

    Attributes
    ----------
    frame : str
    split : str
        Which block the frame belongs to.
    shape : (int, int)
        ``(rows, cols)`` px.
    label : int32, (row, col)
    cells : rows of the cells table
    tiles : in the order of the plan
    """

    frame: str
    split: Block
    shape: tuple[int, int]
    label: LabelArray
    cells: list[Row]
    tiles: list[Tile]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt for one cell, and where it is answered.

    Attributes
    ----------
    prompt : Prompt, frame coordinates
    origin : str
        Who made it: ``"truth"``, or the file or folder it came from.
    seed : int
    cell : row of the cells table
    context : the cell's truth
    tile : where it is decoded
    cut : no tile holds the cell whole
    free : (iou, dice) of the image-free answer
    """

    prompt: Prompt
    origin: str
    seed: int
    cell: Row
    context: CellContext
    tile: Tile
    cut: bool
    free: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A question, its answer, and how good that is.

    ``oracle_iou`` is that of the best of three masks by the truth, None where there was one; ``detail`` is there where
    it was asked for, see :func:`with_details`.
    """

    question: Question
    prediction: Prediction
    iou: float
    dice: float
    prompt_iou: float | None
    oracle_iou: float | None = None
    detail: CellScores | None = None


def labelled_frames(store: Store, split: str) -> list[str]:
    """Return the frames of a block that can be scored.

    Raises
    ------
    SplitError
        The block is empty, or none of its frames has a labelled cell.
    """
    asked = set(members(blocks_of(store), split))
    with_cells = set(store.cells_table()["frame"].to_pylist())
    found = [frame for frame in store.frames_table()["frame"].to_pylist() if frame in asked & with_cells]
    if not found:
        raise SplitError(f"split {split!r} holds no labelled cell in {store.path}; choose another split or add labels")
    return found


def median_training_radius(store: Store) -> float:
    """Return the median equivalent radius, px, of the cells of training frames (of all, where none is labelled)."""
    cells, blocks = store.cells_table(), blocks_of(store)
    diameters = np.asarray(cells["diameter"])
    train = np.array([blocks[frame] == "train" for frame in cells["frame"].to_pylist()])
    return float(np.median(diameters[train] if train.any() else diameters)) / 2


def frame_cells(store: Store, frames: Sequence[str]) -> Iterator[FrameCells]:
    """Yield frames with their cells and embedded tiles.

    Raises
    ------
    StoreError
        A tile of the frame is not embedded yet.
    """
    blocks, committed = blocks_of(store), readable_views(store)
    views, cells = store.views_table(), store.cells_table()
    about = {row["frame"]: row for row in store.frames_table().to_pylist()}
    views = views.filter(pc.equal(views["variant"], 0))
    tiles, inside = _by_frame(views, frames), _by_frame(cells, frames)
    for frame in frames:
        missing = [row for row in tiles[frame] if row["view"] not in committed]
        if missing or not tiles[frame]:
            raise StoreError(f"{len(missing)} views of {frame} are not embedded yet; run `{embed_command(store)}`")
        row = about[frame]
        yield FrameCells(
            frame=frame,
            split=blocks[frame],
            shape=(row["height"], row["width"]),
            label=store.arrays.label(row["group"], row["row"]),
            cells=inside[frame],
            tiles=[
                Tile(view=t["view"], rect=(t["x0"], t["y0"], t["width"], t["height"]), row=committed[t["view"]])
                for t in tiles[frame]
            ],
        )


def with_foreign_embeddings(store: Store, frames: Sequence[str]) -> Iterator[FrameCells]:
    """Yield frames as :func:`frame_cells`, but every tile with the embedding of the same tile of another frame.

    The other frame is half the list away, of the same size. What a score keeps under this control comes from the prompt
    alone, not from the image (measuring rule 4).

    Raises
    ------
    SplitError
        No other frame of the same size is there to swap with.
    """
    tiles = {part.frame: (part.shape, part.tiles) for part in frame_cells(store, frames)}
    for number, part in enumerate(frame_cells(store, frames)):
        order = [frames[(number + len(frames) // 2 + i) % len(frames)] for i in range(len(frames))]
        other = next((f for f in order if f != part.frame and tiles[f][0] == part.shape), None)
        if other is None:
            raise SplitError(f"no other frame of {part.shape} px to take embeddings from in place of {part.frame}'s")
        foreign = [replace(tile, row=theirs.row) for tile, theirs in zip(part.tiles, tiles[other][1], strict=True)]
        yield replace(part, tiles=foreign)


def _by_frame(table: pa.Table, frames: Sequence[str]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {frame: [] for frame in frames}
    for row in table.filter(pc.is_in(table["frame"], value_set=pa.array(frames))).to_pylist():
        rows[row["frame"]].append(row)
    return rows


def context_of(frame: FrameCells, cell: Row) -> CellContext:
    """Return a cell with its surroundings."""
    box = (cell["x0"], cell["y0"], cell["x1"], cell["y1"])
    return cell_context(frame.label, cell["label"], cell["cell"], box)


def ask(frame: FrameCells, cell: Row, context: CellContext, prompt: Prompt, how: tuple[str, int, float]) -> Question:
    """Make a question of a prompt; ``how`` is (origin, seed, median training radius in px)."""
    origin, seed, radius = how
    rects = [tile.rect for tile in frame.tiles]
    box = (cell["x0"], cell["y0"], cell["x1"], cell["y1"])
    return Question(
        prompt=prompt,
        origin=origin,
        seed=seed,
        cell=cell,
        context=context,
        tile=frame.tiles[scoring_tile(prompt_rectangle(prompt), rects, frame.shape)],
        cut=not any(holds_whole(box, rect) for rect in rects),
        free=image_free_score(prompt, context.mask, context.origin, radius, frame.shape),
    )


def truth_questions(frame: FrameCells, kinds: Sequence[str], seeds: Sequence[int], radius: float) -> list[Question]:
    """Ask for every cell of a frame, with prompts drawn from the truth (measuring rules 3 and 4).

    ``"mask-previous"`` is asked with a jittered box here and ``"point-clicks"`` with its first click; :func:`answer`
    feeds the logits of a pass back, and clicks where it was wrong.
    """
    questions = []
    for cell in frame.cells:
        context = context_of(frame, cell)
        for kind in kinds:
            for seed in seeds[:1] if kind in REPEATABLE else seeds:
                first = FIRST.get(kind.partition("@")[0], kind)
                prompt = replace(make_prompt(first, context, seed), kind=kind)
                questions.append(ask(frame, cell, context, prompt, ("truth", seed, radius)))
    return questions


def answer(
    store: Store, decoder: SamDecoder, questions: Sequence[Question], window: int, embed: Embed = lambda x: x
) -> list[Score]:
    """Decode and score questions, tile by tile; in their order.

    Parameters
    ----------
    embed : makes an embedding, (256, 64, 64), of what the store holds of a view, where that is not one already
    """
    scores: dict[int, Score] = {}
    device, read = str(next(decoder.parameters()).device), ViewReader(store)
    by_row: dict[int, list[int]] = {}
    for i, question in enumerate(questions):
        by_row.setdefault(question.tile.row, []).append(i)
    for row, index in by_row.items():
        with torch.no_grad():
            embedding = embed(read(row).to(device))
        part = [questions[i] for i in index]
        for i, score in zip(index, _answer_tile(decoder, embedding, part, window), strict=True):
            scores[i] = score
    return [scores[i] for i in range(len(questions))]


def _answer_tile(
    decoder: SamDecoder, embedding: torch.Tensor, questions: Sequence[Question], window: int
) -> list[Score]:
    rect = questions[0].tile.rect
    found = predict_view(decoder, embedding, rect, [q.prompt for q in questions], window=window)
    asked = list(questions)
    todo = list(range(len(questions)))
    while following := {i: more for i in todo if (more := _again(asked[i], found[i])) is not None}:
        todo = list(following)
        masks: list[Logits | None] = [whole_logits(found[i]) for i in following]
        prompts = [question.prompt for question in following.values()]
        predictions = predict_view(decoder, embedding, rect, prompts, window=window, logits=masks)
        for (i, question), prediction in zip(following.items(), predictions, strict=True):
            asked[i], found[i] = question, prediction
    return [_score(question, prediction) for question, prediction in zip(asked, found, strict=True)]


def _again(question: Question, prediction: Prediction) -> Question | None:
    """Return what is asked after this answer; None where that was the last pass."""
    prompt, context = question.prompt, question.context
    if prompt.kind == "mask-previous" and prompt.mask is None and not prediction.is_empty:
        own = overlap(prediction.mask, context.mask, prediction.origin, context.origin)
        return replace(question, prompt=_previous(prediction), free=(own.iou, own.dice))
    if prompt.points is None or len(prompt.points) >= clicks_of(prompt.kind):
        return None
    seen = paste(prediction.mask, prediction.origin, context.mask.shape, context.origin)
    click = corrective_click(seen, context.mask, context.origin)
    if click is None or prompt.point_labels is None:
        return None
    points = np.concatenate([prompt.points, click[0][None]])
    labels = np.append(prompt.point_labels, click[1])
    return replace(question, prompt=replace(prompt, points=points, point_labels=labels))


def _previous(first: Prediction) -> DrawnPrompt:
    return DrawnPrompt(kind="mask-previous", mask=first.mask, mask_origin=first.origin, params={"first": "box"})


def _score(question: Question, prediction: Prediction) -> Score:
    context = question.context
    shared = overlap(prediction.mask, context.mask, prediction.origin, context.origin)
    own = question.free[0] if question.prompt.mask is not None else None
    others = [overlap(mask, context.mask, origin, context.origin).iou for mask, origin in prediction.others]
    return Score(
        question=question,
        prediction=prediction,
        iou=shared.iou,
        dice=shared.dice,
        prompt_iou=own,
        oracle_iou=max(shared.iou, *others) if others else None,
    )


def with_details(scores: Sequence[Score], labels: LabelArray) -> list[Score]:
    """Add what takes the whole frame's labels, integer (row, col), to the scores of that frame."""
    areas = label_areas(labels)
    found = []
    for score in scores:
        row, prediction = score.question.cell, score.prediction
        cell = row["label"], (row["x0"], row["y0"], row["x1"], row["y1"])
        detail = score_cell(prediction.mask, prediction.origin, labels, cell, areas)
        found.append(replace(score, detail=detail))
    return found


def prompt_row(score: Score, prompt_id: str, split: str) -> Row:
    """Return the row of ``prompts.parquet``."""
    question, prompt = score.question, score.question.prompt
    box = [None] * 4 if prompt.box is None else [float(value) for value in prompt.box]
    points = [] if prompt.points is None else [float(value) for value in prompt.points.ravel()]
    labels = [] if prompt.point_labels is None else [int(value) for value in prompt.point_labels]
    return {
        "prompt_id": prompt_id,
        "kind": prompt.kind,
        "origin": question.origin,
        "prompt_seed": question.seed,
        "split": split,
        "cell": question.cell["cell"],
        "frame": question.cell["frame"],
        "view": question.tile.view,
        **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
        "points": points,
        "point_labels": labels,
        "params": json.dumps(getattr(prompt, "params", {})),
        "prompt_iou": score.prompt_iou,
        "free_iou": question.free[0],
        "free_dice": question.free[1],
        "cut": question.cut,
    }


def prediction_row(score: Score, prompt_id: str, shape: tuple[int, int]) -> Row:
    """Return the row of ``predictions.parquet``; ``shape`` is the frame's ``(rows, cols)``."""
    question, prediction = score.question, score.prediction
    return {
        "prompt_id": prompt_id,
        "cell": question.cell["cell"],
        "frame": question.cell["frame"],
        "view": question.tile.view,
        "iou": score.iou,
        "dice": score.dice,
        "predicted_iou": prediction.predicted_iou,
        "is_empty": prediction.is_empty,
        **({} if score.detail is None else asdict(score.detail)),
        "rle": encode(prediction.mask, prediction.origin, shape).counts,
        "rle_height": shape[0],
        "rle_width": shape[1],
    }


PROMPT_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("prompt_id", "kind", "origin")],
        ("prompt_seed", pa.int64()),
        *[(name, pa.string()) for name in ("split", "cell", "frame", "view")],
        *[(name, pa.float64()) for name in ("x0", "y0", "x1", "y1")],
        ("points", pa.list_(pa.float64())),
        ("point_labels", pa.list_(pa.int64())),
        ("params", pa.string()),
        *[(name, pa.float64()) for name in ("prompt_iou", "free_iou", "free_dice")],
        ("cut", pa.bool_()),
    ]
)
PREDICTION_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("prompt_id", "cell", "frame", "view")],
        *[(name, pa.float64()) for name in ("iou", "dice", "predicted_iou")],
        ("is_empty", pa.bool_()),
        *[(name, pa.float64()) for name in ("boundary_iou", "hd95", "nsd1", "nsd2", "spill")],
        ("failure", pa.string()),
        ("rle", pa.string()),
        ("rle_height", pa.int64()),
        ("rle_width", pa.int64()),
    ]
)
