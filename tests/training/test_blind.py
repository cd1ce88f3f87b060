"""An image-blind decoder: it never sees an image, and its evaluation is the floor of a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hela_store.errors import PromptError, RecipeError, RunError
from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.foreign import BLIND_FILE, filled, load_vector
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.questions import answer, truth_questions
from hela_store.images.rle import encode
from hela_store.runs.default import default_run
from hela_store.runs.folder import load_run
from hela_store.store.store import Store
from hela_store.studies.study import StudyConfig, study
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune

QUICK = FinetuneConfig.of(steps=6, cells=4, workers=0, evaluate_every=3, lr=1e-3, window=8)
BLIND = QUICK.with_choices(blind=True)
BOXES = EvaluateConfig(prompts=("box",), prompt_seeds=1)


@pytest.mark.ci
def test_a_blind_decoder_is_a_run_of_its_own_and_never_the_default(store: Store) -> None:
    tuned = finetune(store, BLIND)
    assert tuned.blind and finetune(store, BLIND).run == tuned.run and finetune(store, QUICK).run != tuned.run
    info = load_run(store.path, tuned.run)
    assert info.config["blind"] is True and info.has(BLIND_FILE) and not default_run(store.path, store.key)


@pytest.mark.ci
def test_its_answers_do_not_depend_on_the_embedding(store: Store) -> None:
    run = finetune(store, BLIND).run
    rows = "select cell, rle from predictions where run = '{}' order by all"
    first = store.sql(rows.format(evaluate(store, run, BOXES).run)).fetchall()
    seen = store.sql(rows.format(evaluate(store, None, BOXES).run)).fetchall()
    assert first != seen
    checkpoint = resolve_checkpoint(store, run)
    assert checkpoint.run is not None
    decoder, swap = checkpoint.load_decoder(floor=True), filled(load_vector(checkpoint.run))
    (frame,) = frame_cells(store, labelled_frames(store, "test"))
    asked = truth_questions(frame, ("box",), [0], median_training_radius(store))
    answers = answer(store, decoder, asked, checkpoint.window, embed=torch.zeros_like, swap=swap)
    shape = frame.shape
    masks = {a.question.cell.cell: encode(a.prediction.mask, a.prediction.origin, shape).counts for a in answers}
    assert masks == dict(first)
    with pytest.raises(RunError, match="image-blind: it was trained without looking"):
        checkpoint.load_decoder()
    with pytest.raises(PromptError, match="leave out --foreign"):
        evaluate(store, run, replace(BOXES, foreign="turned"))
    with pytest.raises(RunError, match="image-blind"):
        finetune(store, QUICK.with_choices(init=run))


def test_settings_that_a_blind_decoder_has_not_are_refused_and_old_configurations_are_unchanged() -> None:
    with pytest.raises(RecipeError, match="leave out adapt and init"):
        FinetuneConfig.of(blind=True, adapt="decoder")
    assert "blind" not in QUICK.flat() and BLIND.flat()["blind"] is True
    assert FinetuneConfig.of(**BLIND.flat()) == BLIND


# in short: the tests above, and the rows of studies/test_study.py
@pytest.mark.slow
def test_a_study_has_the_floor_as_a_row(store: Store) -> None:
    done = study(store, StudyConfig(prompts=("box",), seeds=1, prompt_seeds=1, blind=True, tuning=QUICK))
    assert [row.method for row in done.rows if row.prompt == "box"] == [
        "image-free",
        "image-blind, tuned",
        "zero-shot",
        "tuned for box",
    ]
    assert not done.errors
