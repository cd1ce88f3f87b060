"""The main job in one go, offline: what `hela-store demo` does, and an example of the Python interface."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.catalog import index as catalog
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.runs.folder import run_ids
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune

from .drawn import DATA_FOLDER
from .new import new
from .new_config import SYNTHETIC, NewConfig, SyntheticConfig

SEQUENCE = SyntheticConfig(frames=24, shape=(512, 512), cells=32)
PROMPTS = ("box", "point", "mask")
STEPS = 80
SCORES = """
    SELECT run, p.kind AS prompt, count(*) AS n, avg(free_iou) AS free, avg(iou) AS iou, avg(dice) AS dice
    FROM prompts p JOIN predictions USING (run, prompt_id) GROUP BY run, p.kind
"""
QUERY = """\
SELECT prompt, checkpoint = 'zero-shot' AS zero_shot, touches_neighbour, count(*) AS cells,
       round(avg(iou), 3) AS mean_iou, round(avg(dice), 3) AS mean_dice
FROM cell_metrics WHERE split = 'test' GROUP BY ALL ORDER BY ALL"""


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """Scores of one prompt kind on the test block, by a decoder before and after it was tuned for that kind.

    Attributes
    ----------
    prompt, run : str
        Kind, and the fine-tuning run.
    n : int
        Cells.
    image_free_iou, zero_shot_iou, tuned_iou : float
    zero_shot_dice, tuned_dice : float
    """

    prompt: str
    run: str
    n: int
    image_free_iou: float
    zero_shot_iou: float
    tuned_iou: float
    zero_shot_dice: float
    tuned_dice: float


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """Describe what the demo made.

    Attributes
    ----------
    store : str
    trained : bool
        False where nano ships without trained weights, so that the scores mean nothing.
    rows : tuple of DemoRow
    query : str
    answer : list of dict
    reused : int
        Runs of an earlier demo that were kept.
    """

    store: str
    trained: bool
    rows: tuple[DemoRow, ...]
    query: str
    answer: list[dict[str, Any]]
    reused: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def demo(folder: Path, progress: Progress = silent) -> DemoReport:
    """Draw a sequence, embed it, tune the decoder for each prompt kind, score it before and after, ask one question.

    What an earlier demo in that folder finished is kept; what it left is done.

    Parameters
    ----------
    folder : Path
        The store; made where it does not exist.

    Raises
    ------
    StoreError
        The folder holds something else.
    """
    store = _store(folder, progress)
    embed(store, EmbedConfig(), progress)
    before = run_ids(store.path)
    zero = _scored(store, None, PROMPTS, progress)
    # fewer cells than the default: two cores, and a few minutes for everything
    configs = [FinetuneConfig.of(prompt=prompt, steps=STEPS, cells=8, evaluate_every=20) for prompt in PROMPTS]
    tuned = {config.prompt: finetune(store, config, progress=progress).run for config in configs}
    after = {prompt: _scored(store, run, (prompt,), progress) for prompt, run in tuned.items()}
    scores = {(row["run"], row["prompt"]): row for row in catalog.query(store.path, SCORES).to_pylist()}
    return DemoReport(
        store=str(store.path),
        trained=store.is_trained,
        rows=tuple(_row(tuned[p], scores[zero, p], scores[after[p], p]) for p in PROMPTS),
        query=QUERY,
        answer=catalog.query(store.path, QUERY).to_pylist(),
        reused=len({zero, *tuned.values(), *after.values()} & {*before}),
    )


def _store(folder: Path, progress: Progress) -> Store:
    if not (folder / RECIPE_FILE).exists():
        return new(folder, NewConfig(dataset=SYNTHETIC, synthetic=SEQUENCE), progress).store
    store = Store.open(folder)
    if store.recipe.dataset.path != DATA_FOLDER or not (folder / DATA_FOLDER).is_dir():
        raise StoreError(f"{folder} is a store, but not one of this demo; choose another folder with --out")
    return store


def _scored(store: Store, checkpoint: str | None, prompts: tuple[str, ...], progress: Progress) -> str:
    """Return the id of the evaluation of a checkpoint on the test block."""
    config = EvaluateConfig(split="test", prompts=prompts, prompt_seeds=1)
    return evaluate(store, checkpoint, config, progress=progress).run


def _row(run: str, zero: dict[str, Any], tuned: dict[str, Any]) -> DemoRow:
    return DemoRow(
        prompt=zero["prompt"],
        run=run,
        n=zero["n"],
        image_free_iou=zero["free"],
        zero_shot_iou=zero["iou"],
        tuned_iou=tuned["iou"],
        zero_shot_dice=zero["dice"],
        tuned_dice=tuned["dice"],
    )
