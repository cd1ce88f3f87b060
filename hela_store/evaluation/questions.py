"""Evaluation prompts of a frame, the decoder's answers, and their scores against the truth.

One frame at a time is in memory. A prompt is decoded in the tile where the *prompt* is most interior, so the choice
never sees the truth; a cell that no tile holds whole is scored against its full area and flagged ``cut``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hela_store.base.aliases import LabelArray
from hela_store.base.progress import Progress, silent
from hela_store.embedding.reader import ViewReader
from hela_store.images.geometry import holds_whole, scoring_tile
from hela_store.images.rle import paste
from hela_store.metrics.cell import CellScores, score_cell
from hela_store.metrics.failures import label_areas
from hela_store.metrics.overlap import Overlap, overlap
from hela_store.prompts.draw import CellContext, DrawnPrompt, clicks_of, corrective_click, make_prompt
from hela_store.prompts.error_model import GENERIC, ErrorModel
from hela_store.prompts.image_free import ellipse_score, image_free_score
from hela_store.prompts.prompt import Prompt, prompt_rectangle
from hela_store.sam.decoder import SamDecoder
from hela_store.sam.predict import Logits, Prediction, predict_view, whole_logits
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .foreign import Swap
from .frames import FrameCells, Tile, context_of

REPEATABLE = ("box-exact", "box@0", "point-centre", "mask-perfect")
"""Kinds that draw nothing: one seed is enough."""

BATCH = 32
"""Prompts that are decoded between two moves of a progress bar."""

FIRST = {"mask-previous": "box", "point-clicks": "point"}
"""What kinds that take several passes begin with."""

Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt for one cell, and where it is answered.

    Attributes
    ----------
    prompt : Prompt, frame coordinates
    origin : str
        Who made it: ``"truth"``, or the file or folder it came from.
    seed : int
    cell : the cell that is asked for
    context : the cell's truth
    tile : where it is decoded
    cut : no tile holds the cell whole
    free : the image-free answer against the cell's truth
    ellipse : the same of the ellipse that a mask prompt's moments and the median training cell make; None without a
        mask, and where the mask is an earlier answer
    """

    prompt: Prompt
    origin: str
    seed: int
    cell: CellRecord
    context: CellContext
    tile: Tile
    cut: bool
    free: Overlap
    ellipse: Overlap | None = None


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


def ask(
    frame: FrameCells,
    cell: CellRecord,
    context: CellContext,
    prompt: Prompt,
    *,
    radius: float,
    origin: str = "truth",
    seed: int = 0,
) -> Question:
    """Make a question of a prompt.

    Parameters
    ----------
    frame : the frame that holds the cell
    cell : the cell that is asked for
    context : its truth
    prompt : in frame coordinates
    radius : median radius of the training cells, px: size of the image-free answer to a point
    origin : who made the prompt: ``"truth"``, or the file or folder it came from
    seed : prompt seed
    """
    rects = [tile.rect for tile in frame.tiles]
    return Question(
        prompt=prompt,
        origin=origin,
        seed=seed,
        cell=cell,
        context=context,
        tile=frame.tiles[scoring_tile(prompt_rectangle(prompt), rects, frame.shape)],
        cut=not any(holds_whole(cell.box, rect) for rect in rects),
        free=image_free_score(prompt, context.mask, context.origin, radius, frame.shape),
        ellipse=ellipse_score(prompt, context.mask, context.origin, radius, frame.shape),
    )


def truth_questions(
    frame: FrameCells, kinds: Sequence[str], seeds: Sequence[int], radius: float, errors: ErrorModel = GENERIC
) -> list[Question]:
    """Ask for every cell of a frame, with prompts drawn from the truth (rules "prompts" and "mask prompts").

    ``"mask-previous"`` is asked with a jittered box here and ``"point-clicks"`` with its first click; :func:`answer`
    feeds the logits of a pass back, and clicks where it was wrong. ``errors`` says how mask prompts differ from the
    truth.
    """
    questions = []
    for cell in frame.cells:
        context = context_of(frame, cell)
        for kind in kinds:
            for seed in seeds[:1] if kind in REPEATABLE else seeds:
                first = FIRST.get(kind.partition("@")[0], kind)
                prompt = replace(make_prompt(first, context, seed, model=errors), kind=kind)
                questions.append(ask(frame, cell, context, prompt, radius=radius, seed=seed))
    return questions


def answer(
    store: Store,
    decoder: SamDecoder,
    questions: Sequence[Question],
    window: int,
    embed: Embed = lambda x: x,
    swap: Swap | None = None,
    progress: Progress = silent,
) -> list[Score]:
    """Decode and score questions, tile by tile; in their order.

    Parameters
    ----------
    embed : makes an embedding, (256, 64, 64), of what the store holds of a view, where that is not one already
    swap : returns what is decoded in place of that, see :mod:`hela_store.evaluation.foreign`; None for itself
    progress : moves every few prompts, where a caller shows nothing itself
    """
    scores: dict[int, Score] = {}
    device, read = str(next(decoder.parameters()).device), ViewReader(store)
    by_row: dict[int, list[int]] = {}
    for i, question in enumerate(questions):
        by_row.setdefault(question.tile.row, []).append(i)

    def answered() -> Iterator[int]:
        for row, index in by_row.items():
            with torch.no_grad():
                embedding = embed(read(row).to(device))
            if swap is not None:
                embedding = swap(embedding, questions[index[0]].tile.rect)
            for start in range(0, len(index), BATCH):
                some = index[start : start + BATCH]
                scores.update(
                    zip(some, _answer_tile(decoder, embedding, [questions[i] for i in some], window), strict=True)
                )
                yield from some

    for _ in progress(answered(), total=len(questions), what="validate, prompts"):
        pass
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
        return replace(question, prompt=_previous(prediction), free=own)
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
    own = question.free.iou if question.prompt.mask is not None else None
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
        cell, prediction = score.question.cell, score.prediction
        detail = score_cell(prediction.mask, prediction.origin, labels, cell.label, cell.box, areas)
        found.append(replace(score, detail=detail))
    return found
