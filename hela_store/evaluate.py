"""Score every cell of a block: one immutable run of prompts, predictions and metrics.

The decoder's weights are the only ones loaded; embeddings come from the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from . import catalog
from .cell_scores import CellScores
from .errors import PromptError, RecipeError
from .failures import FAILURES
from .leaks import check_untouched
from .metrics import skill
from .own_prompts import OwnPrompts, own_questions, read_own_prompts
from .predict import DEFAULT_WINDOW, check_window
from .progress import Progress, silent
from .prompts import check_prompt_kind
from .runs import RunFolder, RunInfo, load_run, new_run
from .sam.decoder import SamDecoder
from .sam.encoder import pick_device
from .scoring import (
    PREDICTION_SCHEMA,
    PROMPT_SCHEMA,
    FrameCells,
    Question,
    Score,
    answer,
    frame_cells,
    labelled_frames,
    median_training_radius,
    prediction_row,
    prompt_row,
    truth_questions,
    with_details,
    with_foreign_embeddings,
)
from .store import Store
from .subset_scores import SubsetScore, subset_scores
from .tuned import decoder_of, store_of
from .types import HEADLINE_PROMPTS, ROBUSTNESS_PROMPTS

SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is scored.

    Attributes
    ----------
    split : ``"train"``, ``"val"``, ``"test"`` or ``"all"``
    prompts : kinds drawn from the truth; none where own prompts are given
    prompt_seeds : how many draws of each kind a cell gets
    prompt_table : own boxes or points, Parquet or CSV, see :func:`hela_store.user_prompts.read_prompt_table`
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
class PromptScore:
    """Means over the cells and seeds of one prompt kind.

    Attributes
    ----------
    n : predictions scored
    mean_iou, mean_dice : empty predictions count as 0
    empty : share of empty predictions
    image_free_iou, image_free_dice : of the answers that do not look at the image, to the same prompts
    skill : ``(IoU - IoU_free) / (1 - IoU_free)``
    prompt_iou : mean IoU of mask prompts themselves; None for other kinds
    made_worse : share of mask prompts that were better than the answer; None for other kinds
    oracle_iou : with the best of three masks chosen by the truth: an oracle, never ranked; None where one was asked for
    mean_boundary_iou : None, as all that follow, where only overlaps were asked for
    mean_nsd1, mean_nsd2 : normalised surface Dice at 1 and 2 px
    mean_spill : share of the predicted pixels on other cells
    mean_hd95 : px; empty predictions count as the cell's diameter (measuring rule 8)
    mean_hd95_found, n_found : the same without empty predictions, and how many that are
    failures : how many predictions failed each way, see :mod:`hela_store.failures`
    """

    n: int
    mean_iou: float
    mean_dice: float
    empty: float
    image_free_iou: float
    image_free_dice: float
    skill: float
    prompt_iou: float | None = None
    made_worse: float | None = None
    oracle_iou: float | None = None
    mean_boundary_iou: float | None = None
    mean_nsd1: float | None = None
    mean_nsd2: float | None = None
    mean_spill: float | None = None
    mean_hd95: float | None = None
    mean_hd95_found: float | None = None
    n_found: int | None = None
    failures: dict[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without what there is not."""
        return {name: value for name, value in asdict(self).items() if value is not None}


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
    """

    run: str
    checkpoint: str
    split: str
    prompts: dict[str, PromptScore]
    subsets: dict[str, dict[str, SubsetScore]]
    test_scorings: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store evaluate --json`` prints."""
        prompts = {kind: score.to_json() for kind, score in self.prompts.items()}
        return asdict(self) | {"prompts": prompts}


def summarise(scores: Iterable[Score]) -> dict[str, PromptScore]:
    """Return the means by prompt kind, in the order the kinds appear."""
    kinds: dict[str, list[Score]] = {}
    for score in scores:
        kinds.setdefault(score.question.prompt.kind, []).append(score)
    return {kind: mean_score(part) for kind, part in kinds.items()}


def mean_score(scores: Sequence[Score]) -> PromptScore:
    """Return the means over all scores, whatever their kinds."""
    iou, free = np.mean([s.iou for s in scores]), np.mean([s.question.free[0] for s in scores])
    own = [(s.prompt_iou, s.iou < s.prompt_iou) for s in scores if s.prompt_iou is not None]
    oracle = [s.oracle_iou for s in scores if s.oracle_iou is not None]
    return PromptScore(
        n=len(scores),
        mean_iou=float(iou),
        mean_dice=float(np.mean([s.dice for s in scores])),
        empty=float(np.mean([s.prediction.is_empty for s in scores])),
        image_free_iou=float(free),
        image_free_dice=float(np.mean([s.question.free[1] for s in scores])),
        skill=skill(float(iou), float(free)),
        prompt_iou=float(np.mean([iou for iou, _ in own])) if own else None,
        made_worse=float(np.mean([worse for _, worse in own])) if own else None,
        oracle_iou=float(np.mean(oracle)) if len(oracle) == len(scores) else None,
        **_detail_means([s.detail for s in scores if s.detail is not None]),
    )


_MEANS = ("boundary_iou", "nsd1", "nsd2", "spill")


def _detail_means(details: Sequence[CellScores]) -> dict[str, Any]:
    if not details:
        return {}
    distances = [d.hd95 for d in details if d.failure != "empty"]
    counted = Counter(d.failure for d in details)
    return {
        **{f"mean_{name}": float(np.mean([getattr(d, name) for d in details])) for name in _MEANS},
        "mean_hd95": float(np.mean([d.hd95 for d in details])),
        "mean_hd95_found": float(np.mean(distances)) if distances else None,
        "n_found": len(distances),
        "failures": {name: counted[name] for name in FAILURES},
    }


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
    info = None if run is None else load_run(store.path, run if isinstance(run, str) else run.run, "finetune")
    store = store_of(store, info)
    checkpoint = None if info is None else info.id
    config = replace(config, window=config.window or _window_of(store, info))
    decoder = decoder_of(store, info, pick_device(config.device))
    own = read_own_prompts(store, config.prompt_table, config.prompt_masks)
    frames = labelled_frames(store, config.split)
    check_untouched(store, info, frames, config.split)
    folder = _start(store, config, checkpoint, own)
    with folder.tidied():
        parts = with_foreign_embeddings(store, frames) if config.foreign else frame_cells(store, frames)
        shown = progress(parts, total=len(frames), what=f"evaluate {config.split}")
        scores = _score_frames(store, decoder, shown, _asker(store, config, own), folder)
        folder.publish()
    return EvaluateResult(
        run=folder.id,
        checkpoint=checkpoint or "zero-shot",
        split=config.split,
        prompts=summarise(scores),
        subsets=subset_scores(store, folder.id),
        test_scorings=_test_scorings(store),
    )


def _start(store: Store, config: EvaluateConfig, checkpoint: str | None, own: OwnPrompts | None) -> RunFolder:
    about = asdict(config) | {"encoder": store.key, "checkpoint": checkpoint, "seeds": list(range(config.prompt_seeds))}
    about |= {"prompts": list(config.prompts) if own is None else own.kinds}
    about |= {"prompt_table": str(config.prompt_table or ""), "prompt_masks": str(config.prompt_masks or "")}
    kind = "control" if config.foreign else "robustness" if config.robustness else "evaluate"
    return new_run(store.path, kind, about, parent=checkpoint, label=config.split)


def _asker(store: Store, config: EvaluateConfig, own: OwnPrompts | None) -> Callable[[FrameCells], Sequence[Question]]:
    radius = median_training_radius(store)
    if own is not None:
        return lambda frame: own_questions(own, frame, radius)
    return lambda frame: truth_questions(frame, config.prompts, range(config.prompt_seeds), radius)


def _score_frames(
    store: Store,
    decoder: SamDecoder,
    frames: Iterable[FrameCells],
    asker: Callable[[FrameCells], Sequence[Question]],
    folder: RunFolder,
) -> list[Score]:
    window = int(folder.info.config["window"])
    scores: list[Score] = []
    prompts, predictions = [], []
    for frame in frames:
        for score in with_details(answer(store, decoder, asker(frame), window), frame.label):
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


def _window_of(store: Store, info: RunInfo | None) -> int:
    if info is not None:
        return int(info.config["window"])
    return DEFAULT_WINDOW[store.recipe.encoder.architecture]


def _test_scorings(store: Store) -> int:
    counted = catalog.query(store.path, "SELECT coalesce(sum(scorings), 0)::BIGINT AS n FROM test_scorings")
    return int(counted["n"][0].as_py())
