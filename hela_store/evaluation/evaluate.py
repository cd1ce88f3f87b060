"""Score every cell of a block: one immutable run of prompts, predictions and metrics.

The decoder's weights are the only ones loaded; embeddings come from the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.progress import Progress, silent
from hela_store.errors import PromptError
from hela_store.runs.folder import RunFolder, RunInfo, new_run
from hela_store.sam.devices import pick_device
from hela_store.sam.informed import informed_by
from hela_store.sam.registry import in_domain
from hela_store.store.store import Store

from .checkpoint import Checkpoint, resolve_checkpoint
from .config import EvaluateConfig
from .foreign import Swap, filled, foreign_cells, load_vector, swap_of
from .frames import FrameCells, frame_cells, labelled_frames, median_training_radius
from .leaks import check_untouched
from .own_prompts import FittedPrompts, OwnPrompts, OwnPromptsFit, fit_prompts, own_questions, read_own_prompts
from .questions import BATCH, REPEATABLE, Question, Score, answer, truth_questions, with_details
from .reads import data_read
from .reuse import claim_scoring
from .rows import PREDICTION_SCHEMA, PROMPT_SCHEMA, prediction_row, prompt_row
from .scores import PromptScore, summarise
from .scorings import store_scorings
from .subsets import SubsetScore, pending_subsets
from .tracks import store_protocol, unseen_cells


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
    test_scorings : how often this store's test block has been scored so far, this time included; points of studies of
        budgets are not counted
    own_prompts : how the prompts that the user brought fit the cells; None where they were drawn from the truth
    pending : why the catalog, which ``subsets`` come from, cannot be read now; empty where it can
    protocol : what a score on this block means, such as ``"train 01, test 02"``
    informed : what of a zero-shot encoder was chosen beside this data set; empty where nothing is known
    reused : whether the run was finished before it was asked for
    in_domain : says that the encoder was trained on this data set; empty where that is not known
    uncounted : damaged runs, of which nobody knows whether they scored test
    same_nuclei : says that the test block shows the same nuclei, later; empty where no sequence of it was trained on
    """

    run: str
    checkpoint: str
    split: str
    prompts: dict[str, PromptScore]
    subsets: dict[str, dict[str, SubsetScore]]
    test_scorings: int
    own_prompts: OwnPromptsFit | None = None
    pending: str = ""
    reused: bool = False
    same_nuclei: str = ""
    in_domain: str = ""
    protocol: str = ""
    informed: str = ""
    uncounted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store evaluate --json`` prints."""
        prompts = {kind: score.to_json() for kind, score in self.prompts.items()}
        own = None if self.own_prompts is None else self.own_prompts.to_json()
        return asdict(self) | {"prompts": prompts, "own_prompts": own}


def evaluate(
    store: Store,
    run: str | HasRun | None = None,
    config: EvaluateConfig | None = None,
    *,
    split: str | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> EvaluateResult:
    """Score every labelled cell of a block and keep prompts, masks and scores as a run.

    What this very version scored before, on the same frames and with the same prompts, is not scored again: the
    finished run is returned as it is, and test counts as scored once. Where another process is at it, it is waited for.

    Parameters
    ----------
    store : with all views of the block embedded
    run : a fine-tuning run (or its result) whose weights are scored, on the embeddings of the encoder it adapted, if it
        did; None for zero-shot
    config : what is scored; the headline prompts on test by default
    split : in place of ``config.split``
    fresh : score again and keep that as another run
    progress : shown frame by frame

    Returns
    -------
    EvaluateResult

    Raises
    ------
    SplitError, StoreError, RunError, PromptError
        Nothing to score, not embedded; a run that is unknown, unfit or saw these frames; prompts that fit no cell.
    """
    config = config or EvaluateConfig()
    checkpoint = resolve_checkpoint(store, run if run is None or isinstance(run, str) else run.run)
    store, window = checkpoint.store, config.window or checkpoint.window
    config = replace(config, window=window, split=config.split if split is None else split)
    decoder = checkpoint.load_decoder(pick_device(config.device), floor=True)
    own = read_own_prompts(store, config.prompt_table, config.prompt_masks)
    frames = labelled_frames(store, config.split)
    check_untouched(store, checkpoint.run, frames, config.split)
    fitted = None if own is None else _fitted(store, own, frames, progress)
    kind = "control" if config.foreign else "robustness" if config.robustness else "evaluate"
    about = _about(checkpoint, config, fitted)
    with claim_scoring(store, kind, about, fresh=fresh, progress=progress) as done:
        if done is not None:
            return _result(checkpoint, done, config.split, fitted, reused=True)
        folder = new_run(store.path, kind, about, parent=checkpoint.id, label=config.split)
        with folder.tidied():
            parts = foreign_cells(store, frames, config.foreign)
            expected, what = _expected(store, config, frames, fitted), f"evaluate {config.split}, prompts"
            shown = partial(progress, total=expected, what=what)
            answered = partial(answer, store, decoder, window=window, swap=_swap(checkpoint, frames, config))
            start = time.monotonic()
            scores = summarise(score_frames(parts, _asker(store, config, fitted), answered, folder, shown))
            folder.log(
                seconds=time.monotonic() - start, result={"prompts": {k: v.to_json() for k, v in scores.items()}}
            )
            folder.publish()
        return _result(checkpoint, folder.info, config.split, fitted)


def _fitted(store: Store, own: OwnPrompts, frames: Sequence[str], progress: Progress) -> FittedPrompts:
    return fit_prompts(store, own, progress(frame_cells(store, frames), total=len(frames), what="match prompts"))


def _swap(checkpoint: Checkpoint, frames: Sequence[str], config: EvaluateConfig) -> Swap | None:
    """Return what an image-blind decoder, or one under a control, is given in place of embeddings."""
    if not checkpoint.is_blind or checkpoint.run is None:
        return swap_of(checkpoint.store, frames, config.foreign)
    if config.foreign:
        raise PromptError(f"run {checkpoint.id} is image-blind and reads no embedding; leave out --foreign")
    return filled(load_vector(checkpoint.run))


def _result(
    checkpoint: Checkpoint, run: RunInfo, split: str, fitted: FittedPrompts | None, *, reused: bool = False
) -> EvaluateResult:
    store = checkpoint.store
    unseen = unseen_cells(store, labelled_frames(store, split)) if split == "test" else None
    scorings, uncounted = store_scorings(store)
    subsets, pending = pending_subsets(store, run.id, unseen)
    return EvaluateResult(
        run=run.id,
        checkpoint=checkpoint.name,
        split=split,
        prompts={kind: PromptScore.of(score) for kind, score in run.result()["prompts"].items()},
        subsets=subsets,
        test_scorings=sum(not scored.is_point for scored in scorings),
        uncounted=uncounted,
        own_prompts=None if fitted is None else fitted.fit,
        pending=pending,
        reused=reused,
        same_nuclei=_same_nuclei(unseen, run),
        in_domain=in_domain(store.recipe),
        protocol=store_protocol(store, split),
        informed=informed_by(store.recipe.encoder.architecture, store.recipe.dataset.path),
    )


def _same_nuclei(unseen: Sequence[str] | None, run: RunInfo) -> str:
    if unseen is None:
        return ""
    cells = {row["cell"] for row in run.rows("predictions", ["cell"])}
    return f"the same nuclei, later: {len(cells & set(unseen))} of {len(cells)} test cells are in no training frame"


def _about(checkpoint: Checkpoint, config: EvaluateConfig, fitted: FittedPrompts | None) -> dict[str, Any]:
    about = asdict(config) | {"encoder": checkpoint.key, "checkpoint": checkpoint.id}
    # False where there is no control: as runs of earlier versions have it, in which True is another frame
    about |= {"foreign": config.foreign or False}
    about |= {"seeds": list(range(config.prompt_seeds))}
    about |= {"prompts": list(config.prompts) if fitted is None else fitted.own.kinds}
    about |= {"prompt_table": str(config.prompt_table or ""), "prompt_masks": str(config.prompt_masks or "")}
    if fitted is not None:
        about |= {"own_prompts": {"sum": fitted.own.digest, "given": fitted.fit.given, "scored": fitted.fit.scored}}
    return about | data_read(checkpoint.store, ("train", config.split))


def _asker(
    store: Store, config: EvaluateConfig, fitted: FittedPrompts | None
) -> Callable[[FrameCells], Sequence[Question]]:
    radius = median_training_radius(store)
    if fitted is not None:
        return lambda frame: own_questions(fitted, frame, radius)
    return lambda frame: truth_questions(frame, config.prompts, range(config.prompt_seeds), radius)


def score_frames(
    frames: Iterable[FrameCells],
    asker: Callable[[FrameCells], Sequence[Question]],
    answered: Callable[[Sequence[Question]], list[Score]],
    folder: RunFolder,
    shown: Callable[[Iterable[None]], Iterable[None]],
) -> list[Score]:
    """Score frames, write their rows and return the scores.

    Parameters
    ----------
    frames : the frames, with the cells that are scored
    asker : makes the prompts of a frame
    answered : decodes and scores prompts
    folder : of the run, which gets its two tables
    shown : gets an item for every prompt that is scored
    """
    scores: list[Score] = []
    prompts: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []

    def steps() -> Iterator[None]:
        for frame in frames:
            questions, found = asker(frame), dict[int, Score]()
            for index in _batches(questions):
                part = with_details(answered([questions[i] for i in index]), frame.label)
                for i, score in zip(index, part, strict=True):
                    found[i] = score
                    yield
            for i in range(len(questions)):
                number = f"{len(scores):06d}"
                prompts.append(prompt_row(found[i], number, frame.split))
                predictions.append(prediction_row(found[i], number, frame.shape))
                scores.append(_light(found[i]))

    for _ in shown(steps()):
        pass
    folder.write_table("prompts", pa.Table.from_pylist(prompts, PROMPT_SCHEMA))
    folder.write_table("predictions", pa.Table.from_pylist(predictions, PREDICTION_SCHEMA))
    return scores


def _batches(questions: Sequence[Question]) -> Iterator[list[int]]:
    """Yield the places of questions of one tile, at most :data:`BATCH`, so that progress shows every second or so."""
    by_row: dict[int, list[int]] = {}
    for i, question in enumerate(questions):
        by_row.setdefault(question.tile.row, []).append(i)
    for index in by_row.values():
        yield from (index[start : start + BATCH] for start in range(0, len(index), BATCH))


def _expected(store: Store, config: EvaluateConfig, frames: Sequence[str], fitted: FittedPrompts | None) -> int:
    """Return how many prompts will be scored."""
    if fitted is not None:
        return fitted.fit.scored
    cells = int(pc.sum(pc.is_in(store.cells_table()["frame"], pa.array(frames))).as_py() or 0)
    return cells * sum(1 if kind in REPEATABLE else config.prompt_seeds for kind in config.prompts)


def _light(score: Score) -> Score:
    # means need no masks; a long evaluation should not keep them
    empty = np.zeros((0, 0), np.float32)
    return replace(score, prediction=replace(score.prediction, logits=empty, others=()))
