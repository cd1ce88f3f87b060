"""The image-free answers as a run of their own, so that SQL and ``compare`` have them beside every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hela_store.base.progress import Progress, silent
from hela_store.errors import PromptError
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.questions import Question, Score, truth_questions, with_details
from hela_store.evaluation.rows import prediction_row, prompt_row
from hela_store.prompts.image_free import image_free_mask
from hela_store.prompts.kinds import IMAGE_FREE_PROMPTS
from hela_store.sam.predict import Prediction
from hela_store.store.store import Store

from .rows import BaselineResult, BaselineRun, once, write_run


def image_free(
    store: Store,
    *,
    split: str = "test",
    prompts: Sequence[str] = IMAGE_FREE_PROMPTS,
    prompt_seeds: int = 3,
    fresh: bool = False,
    progress: Progress = silent,
) -> BaselineResult:
    """Answer the prompts that ``evaluate`` gives without the image (rule "image-free rows").

    Parameters
    ----------
    split : ``"train"``, ``"val"``, ``"test"`` or ``"all"``
    prompts : any of :data:`~hela_store.prompts.kinds.IMAGE_FREE_PROMPTS`
    prompt_seeds : draws a cell and kind
    fresh : make another run, even if this very one is finished

    Raises
    ------
    PromptError
        A kind that no image-free answer is made for.
    SplitError, StoreError
        Nothing to score, not embedded yet.
    """
    for kind in prompts:
        if kind not in IMAGE_FREE_PROMPTS:
            raise PromptError(
                f"prompt {kind!r} has no image-free answer, expected one of {', '.join(IMAGE_FREE_PROMPTS)}"
            )
    asked = {"method": "image-free", "split": split, "prompts": list(prompts), "prompt_seeds": prompt_seeds}

    def make(asked: Mapping[str, Any]) -> BaselineResult:
        return _make(store, asked, progress)

    return once(store, asked | {"encoder": store.key}, make, fresh=fresh, progress=progress)


def _make(store: Store, asked: Mapping[str, Any], progress: Progress) -> BaselineResult:
    split, prompts = asked["split"], asked["prompts"]
    radius, run = median_training_radius(store), BaselineRun()
    frames = labelled_frames(store, split)
    for frame in progress(frame_cells(store, frames), total=len(frames), what=f"image-free {split}"):
        questions = truth_questions(frame, prompts, range(asked["prompt_seeds"]), radius)
        answers = [_answer(question, radius, frame.shape) for question in questions]
        for score in with_details(answers, frame.label):
            number = f"{len(run.prompts):06d}"
            run.prompts.append(prompt_row(score, number, frame.split))
            run.predictions.append(prediction_row(score, number, frame.shape) | {"predicted_iou": None})
    config = {name: asked[name] for name in ("split", "prompts", "prompt_seeds")}
    config |= {"checkpoint": "image-free", "radius": radius, "asked": asked}
    return write_run(store, config, run, label=f"image-free {split}")


def _answer(question: Question, radius: float, shape: tuple[int, int]) -> Score:
    mask, origin = image_free_mask(question.prompt, radius, shape)
    logits = np.zeros((0, 0), np.float32)
    prediction = Prediction(mask=mask, origin=origin, predicted_iou=0.0, logits=logits, corner=(0, 0))
    free = question.free
    own = free.iou if question.prompt.mask is not None else None
    return Score(question=question, prediction=prediction, iou=free.iou, dice=free.dice, prompt_iou=own)
