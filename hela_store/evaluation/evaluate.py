"""Score every cell of a block: one immutable run of prompts, predictions and metrics.

The decoder's weights are the only ones loaded; embeddings come from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from hela_store.base.progress import Progress, silent
from hela_store.catalog import index as catalog
from hela_store.errors import PromptError, RecipeError
from hela_store.prompts.draw import check_prompt_kind
from hela_store.prompts.kinds import HEADLINE_PROMPTS, ROBUSTNESS_PROMPTS
from hela_store.recipe.splits import SPLITS
from hela_store.runs.folder import RunFolder, new_run
from hela_store.sam.encoder import pick_device
from hela_store.sam.predict import check_window
from hela_store.store.store import Store

from .checkpoint import Checkpoint, resolve_checkpoint
from .frames import FrameCells, frame_cells, labelled_frames, median_training_radius, with_foreign_embeddings
from .leaks import check_untouched
from .own_prompts import OwnPrompts, own_questions, read_own_prompts
from .questions import Question, Score, answer, truth_questions, with_details
from .rows import PREDICTION_SCHEMA, PROMPT_SCHEMA, prediction_row, prompt_row
from .scores import PromptScore, summarise
from .subsets import SubsetScore, subset_scores
from .tracks import unseen_cells


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is scored.

    Attributes
    ----------
    split : ``"train"``, ``"val"``, ``"test"`` or ``"all"``
    prompts : kinds drawn from the truth; none where own prompts are given
    prompt_seeds : how many draws of each kind a cell gets
    prompt_table : own boxes or points, Parquet or CSV, see :func:`hela_store.prompts.table.read_prompt_table`
    prompt_masks : folder of own label images, matched to cells by overlap
    foreign : a control: every prompt is decoded with the embedding of *another* frame, so that what is left of the
        score comes from the prompt alone; the run's kind is ``"control"``
    robustness : curves in place of ``prompts``: box jitter of 0 to 30 %, click place, the mask prompt's own IoU; the
        run's kind is ``"robustness"``
    window : positions along each side that a prompt reads at least; None for the encoder's default
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    split: str = "test"
    prompts: tuple[str, ...] = HEADLINE_PROMPTS
    prompt_seeds: int = 3
    prompt_table: Path | None = None
    prompt_masks: Path | None = None
    foreign: bool = False
    robustness: bool = False
    window: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise RecipeError(f"split is {self.split!r}, expected one of {', '.join(SPLITS)}")
        for kind in self.prompts:
            check_prompt_kind(kind)
        if self.robustness:
            object.__setattr__(self, "prompts", ROBUSTNESS_PROMPTS)
        if self.robustness and (self.foreign or self.prompt_table or self.prompt_masks):
            raise PromptError("robustness curves make prompts of their own; leave out own prompts and the control")
        if not 1 <= self.prompt_seeds <= 100:
            raise RecipeError(f"prompt_seeds is {self.prompt_seeds}, expected 1 to 100")
        if self.window is not None:
            check_window(self.window)


class HasRun(Protocol):
    """Anything that names a run, such as the result of a fine-tuning."""

    @property
    def run(self) -> str:
        """Run id."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """An evaluation run and its means.

    Attributes
    ----------
    run : id of the new run
    checkpoint : run whose weights were scored, or ``"zero-shot"``
    split : block that was scored
    prompts : scores by prompt kind
    subsets : scores of touching, dim, and bright and small cells, and of mask prompts by their own IoU, by prompt kind
    test_scorings : how often this store's test block has been scored so far, this time included
    same_nuclei : says that the test block shows the same nuclei, later; empty where no sequence of it was trained on
    """

    run: str
    checkpoint: str
    split: str
    prompts: dict[str, PromptScore]
    subsets: dict[str, dict[str, SubsetScore]]
    test_scorings: int
    same_nuclei: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store evaluate --json`` prints."""
        prompts = {kind: score.to_json() for kind, score in self.prompts.items()}
        return asdict(self) | {"prompts": prompts}


def evaluate(
    store: Store,
    run: str | HasRun | None = None,
    config: EvaluateConfig | None = None,
    *,
    split: str | None = None,
    progress: Progress = silent,
) -> EvaluateResult:
    """Score every labelled cell of a block and keep prompts, masks and scores as a new run.

    Parameters
    ----------
    store : with all views of the block embedded
    run : a fine-tuning run (or its result) whose weights are scored, on the embeddings of the encoder it adapted, if it
        did; None for zero-shot
    config : what is scored; the headline prompts on test by default
    split : in place of ``config.split``
    progress : shown frame by frame

    Returns
    -------
    EvaluateResult

    Raises
    ------
    SplitError, StoreError, RunError, PromptError
        Nothing to score, not embedded yet, an unknown or unfitting run or one that trained on the frames to score, own
        prompts that fit no cell.
    """
    config = config or EvaluateConfig()
    config = config if split is None else replace(config, split=split)
    checkpoint = resolve_checkpoint(store, run if run is None or isinstance(run, str) else run.run)
    store, window = checkpoint.store, config.window or checkpoint.window
    config = replace(config, window=window)
    decoder = checkpoint.load_decoder(pick_device(config.device))
    own = read_own_prompts(store, config.prompt_table, config.prompt_masks)
    frames = labelled_frames(store, config.split)
    check_untouched(store, checkpoint.run, frames, config.split)
    folder = _start(checkpoint, config, own)
    with folder.tidied():
        parts = with_foreign_embeddings(store, frames) if config.foreign else frame_cells(store, frames)
        shown = progress(parts, total=len(frames), what=f"evaluate {config.split}")
        scores = _score_frames(
            shown, _asker(store, config, own), partial(answer, store, decoder, window=window), folder
        )
        folder.publish()
    unseen = unseen_cells(store, frames) if config.split == "test" else None
    return EvaluateResult(
        run=folder.id,
        checkpoint=checkpoint.name,
        split=config.split,
        prompts=summarise(scores),
        subsets=subset_scores(store, folder.id, unseen),
        same_nuclei=_same_nuclei(unseen, scores),
        test_scorings=_test_scorings(store),
    )


def _same_nuclei(unseen: Sequence[str] | None, scores: Sequence[Score]) -> str:
    if unseen is None:
        return ""
    cells = {score.question.cell.cell for score in scores}
    return f"the same nuclei, later: {len(cells & set(unseen))} of {len(cells)} test cells are in no training frame"


def _start(checkpoint: Checkpoint, config: EvaluateConfig, own: OwnPrompts | None) -> RunFolder:
    about = asdict(config) | {"encoder": checkpoint.key, "checkpoint": checkpoint.id}
    about |= {"seeds": list(range(config.prompt_seeds))}
    about |= {"prompts": list(config.prompts) if own is None else own.kinds}
    about |= {"prompt_table": str(config.prompt_table or ""), "prompt_masks": str(config.prompt_masks or "")}
    kind = "control" if config.foreign else "robustness" if config.robustness else "evaluate"
    return new_run(checkpoint.store.path, kind, about, parent=checkpoint.id, label=config.split)


def _asker(store: Store, config: EvaluateConfig, own: OwnPrompts | None) -> Callable[[FrameCells], Sequence[Question]]:
    radius = median_training_radius(store)
    if own is not None:
        return lambda frame: own_questions(own, frame, radius)
    return lambda frame: truth_questions(frame, config.prompts, range(config.prompt_seeds), radius)


def _score_frames(
    frames: Iterable[FrameCells],
    asker: Callable[[FrameCells], Sequence[Question]],
    answered: Callable[[Sequence[Question]], list[Score]],
    folder: RunFolder,
) -> list[Score]:
    scores: list[Score] = []
    prompts, predictions = [], []
    for frame in frames:
        for score in with_details(answered(asker(frame)), frame.label):
            number = f"{len(scores):06d}"
            prompts.append(prompt_row(score, number, frame.split))
            predictions.append(prediction_row(score, number, frame.shape))
            scores.append(_light(score))
    if not scores:
        raise PromptError("none of the given prompts fits a labelled cell of this split")
    folder.write_table("prompts", pa.Table.from_pylist(prompts, PROMPT_SCHEMA))
    folder.write_table("predictions", pa.Table.from_pylist(predictions, PREDICTION_SCHEMA))
    return scores


def _light(score: Score) -> Score:
    # means need no masks; a long evaluation should not keep them
    empty = np.zeros((0, 0), np.float32)
    return replace(score, prediction=replace(score.prediction, logits=empty, others=()))


def _test_scorings(store: Store) -> int:
    counted = catalog.query(store.path, "SELECT coalesce(sum(scorings), 0)::BIGINT AS n FROM test_scorings")
    return int(counted["n"][0].as_py())
