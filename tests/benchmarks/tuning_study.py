"""What tuning choices are worth: arms of fine-tunings on one store, each with several seeds, in one table.

    python tests/benchmarks/tuning_study.py choices --store stores/fluo
    python tests/benchmarks/tuning_study.py losses  --store stores/fluo --jobs 2
    python tests/benchmarks/tuning_study.py windows --store stores/fluo
    python tests/benchmarks/tuning_study.py paper   --store stores/fluo --split test
    python tests/benchmarks/tuning_study.py curves  --store stores/fluo
    python tests/benchmarks/tuning_study.py cached  --store stores/fluo

``choices`` changes one thing at a time (rate, steps, averaging, views a step, masks of a point, second passes);
``losses`` and ``windows`` are the tables of their names; ``paper`` tunes as the study did and shows how the scores of its
mask prompts are spread; ``curves`` are the robustness curves, zero-shot and tuned; ``cached`` tunes
from the store and, on the same views, with the encoder in the loop. Scored on validation unless told otherwise: what is chosen here may not look at test. Runs and evaluations
that are there are used again, so the same command goes on. ``--prompt`` takes other kinds than box, ``--arms`` leaves
out the others; ``--tiny`` tries everything on a drawn sequence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hela_store_cli.output import bars

from hela_store.base.executors import processes
from hela_store.embedding.batches import Frames
from hela_store.embedding.embed import embed
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.runs.folder import list_runs
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.encoder import encode
from hela_store.sam.predict import WINDOWS
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store
from hela_store.studies.sweep import sweep
from hela_store.training.config import FinetuneConfig, paper_preset
from hela_store.training.data import TrainingStep, TrainingSteps
from hela_store.training.losses.names import LOSSES
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

Arm = tuple[str, FinetuneConfig | None, int | None]
"""Name, how it is tuned (None: zero-shot), and the window it is scored with (None: the default, or as tuned)."""

LIVE = "encoder in the loop"
MEANS = """
SELECT avg(m.iou) AS iou, avg(m.dice) AS dice, avg(p.free_iou) AS free, avg(m.boundary_iou) AS boundary,
    avg(m.hd95) AS hd95, avg(m.is_empty::INT) AS empty, avg((m.failure = 'merged')::INT) AS merged,
    avg((m.iou < p.prompt_iou)::INT) AS made_worse
FROM cell_metrics m
JOIN prompts p ON p.run = m.run AND p.kind = m.prompt AND p.prompt_seed = m.prompt_seed AND p.cell = m.cell
WHERE m.run = '{run}' AND m.prompt = '{prompt}'
"""
SPREAD = """
SELECT least(floor(iou * 10) / 10, 0.9) AS low, count(*) AS n FROM cell_metrics
WHERE run = '{run}' AND prompt = '{prompt}' AND NOT is_empty GROUP BY 1 ORDER BY 1
"""


def choices(base: FinetuneConfig) -> list[Arm]:
    one: dict[str, dict[str, Any]] = {
        "lr 3e-5": {"lr": 3e-5},
        "lr 1e-4": {"lr": 1e-4},
        "lr 1e-3": {"lr": 1e-3},
        "no averaging": {"ema": 0.0},
        "lr 1e-4, no averaging": {"lr": 1e-4, "ema": 0.0},
        "4 x steps": {"steps": 4 * base.optimiser.steps},
        "4 views a step": {"accumulate": 4},
        "second passes in half": {"refine": 0.5},
        "weight decay 0": {"weight_decay": 0.0},
    }
    if base.prompt == "point":
        one |= {"all masks": {"masks": "all"}}
    tuned = [(name, base.with_choices(**how), None) for name, how in one.items()]
    return [("zero-shot", None, None), ("default", base, None), *tuned]


def losses(base: FinetuneConfig) -> list[Arm]:
    return [("zero-shot", None, None), *((name, base.with_choices(loss=name), None) for name in LOSSES)]


def windows(base: FinetuneConfig) -> list[Arm]:
    pairs = [[(f"zero-shot, {w}", None, w), (f"tuned, {w}", base.with_choices(window=w), w)] for w in WINDOWS]
    return [arm for pair in pairs for arm in pair]


def paper(base: FinetuneConfig) -> list[Arm]:
    return [("zero-shot", None, 64), ("paper", paper_preset(base).with_choices(prompt="mask"), 64)]


def curves(base: FinetuneConfig) -> list[Arm]:
    return [("zero-shot", None, None), ("tuned", base, None)]


def cached(base: FinetuneConfig) -> list[Arm]:
    # the ramp means nothing to the default loss; it only keeps the two apart
    return [("from the store", base, None), (LIVE, base.with_choices(loss_ramp=0.25, workers=0), None)]


class LiveSteps(TrainingSteps):
    """The same steps, every embedding made anew by the encoder."""

    def __init__(self, store: Store, *args: Any, **kwargs: Any) -> None:
        super().__init__(store, *args, **kwargs)
        self.encoder = load_sam_encoder(store.recipe.encoder, torch.device("cpu"), base=store.path).encoder
        self.frames, self.precision = Frames(store), store.recipe.encoder.precision
        self.plan = {view.view: view for view in ViewRecord.of(store.views_table())}

    def __getitem__(self, index: int) -> TrainingStep:
        step = super().__getitem__(index)
        with torch.no_grad():
            made = encode(self.encoder, self.frames.stack([self.plan[step.view]]), self.precision)[0]
        return replace(step, embedding=made)


@contextmanager
def in_the_loop() -> Iterator[None]:
    module = sys.modules["hela_store.training.finetune"]
    usual, module.TrainingSteps = module.TrainingSteps, LiveSteps  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.TrainingSteps = usual  # type: ignore[attr-defined]


PARTS = {part.__name__: part for part in (choices, losses, windows, paper, curves, cached)}


def scored(store: Store, checkpoint: str | None, window: int | None, arguments: argparse.Namespace) -> str:
    """Return an evaluation of this checkpoint with these settings, made only if there is none."""
    robust = arguments.part == "curves"
    config = EvaluateConfig(
        split=arguments.split,
        prompts=() if robust else tuple(arguments.scored),
        prompt_seeds=arguments.prompt_seeds,
        robustness=robust,
        window=window,
    )
    same: dict[str, Any] = {"checkpoint": checkpoint, "split": config.split, "prompt_seeds": config.prompt_seeds}
    same |= {"robustness": robust, "foreign": False, "prompts": list(config.prompts)}
    same |= {} if window is None else {"window": window}
    for run in reversed(list_runs(store.path, "robustness" if robust else "evaluate")):
        if run.encoder == store.key and all(run.config.get(name) == value for name, value in same.items()):
            return run.id
    return evaluate(store, checkpoint, config, progress=bars).run


def table(store: Store, arms: list[tuple[str, list[str]]]) -> None:
    """Print means over seeds, and the gain over the first arm with its interval over tracks, frames and seeds."""
    heads = (
        "prompt|arm|seeds|IoU|Dice|image-free|boundary IoU|HD95, px|empty|merged|made worse|over the first arm (95 %)|"
    )
    print("|" + heads + "\n|" + "---|" * heads.count("|"))
    found = store.sql(f"SELECT DISTINCT prompt FROM cell_metrics WHERE run = '{arms[0][1][0]}' ORDER BY 1").fetchall()
    for (prompt,) in found:
        for name, runs in arms:
            rows = [store.sql(MEANS.format(run=run, prompt=prompt)).to_arrow_table().to_pylist()[0] for run in runs]
            mean = {key: np.mean([row[key] for row in rows]) for key in rows[0] if rows[0][key] is not None}
            spread = f" ({', '.join(format(row['iou'], '.4f') for row in rows)})" if len(rows) > 1 else ""
            worse = f"{mean['made_worse']:.1%}" if "made_worse" in mean else ""
            gain = "" if name == arms[0][0] else gain_of(store, arms[0][1], runs, prompt)
            print(
                f"| {prompt} | {name} | {len(rows)} | {mean['iou']:.4f}{spread} | {mean['dice']:.4f} | {mean['free']:.4f} | "
                f"{mean['boundary']:.4f} | {mean['hd95']:.2f} | {mean['empty']:.2%} | {mean['merged']:.2%} | {worse} | {gain} |"
            )


def gain_of(store: Store, first: list[str], runs: list[str], prompt: str) -> str:
    base: Any = first if len(first) == len(runs) else first[0]
    row = next(r for r in compare(store, [base, runs]).rows if r.prompt == prompt and r.subset == "all")
    part = row.per_cell
    return f"{part.mean:+.4f} ({part.low:+.4f} to {part.high:+.4f}), {part.word}"


def distribution(store: Store, name: str, run: str, prompt: str) -> None:
    """Print how the scores are spread: the share of empty masks, the mean of the rest, and tenths of IoU."""
    sums = "SELECT count(*), sum(is_empty::INT), avg(iou) FILTER (NOT is_empty), avg(dice) FILTER (NOT is_empty)"
    where = f"WHERE run = '{run}' AND prompt = '{prompt}'"
    ((n, empty, iou, dice),) = store.sql(f"{sums} FROM cell_metrics {where}").fetchall()
    rest = f"the rest has IoU {iou or 0:.4f}, Dice {dice or 0:.4f}"
    print(f"\n{name}, {prompt}: {n} predictions, {empty / n:.1%} empty, {rest}")
    for low, count in store.sql(SPREAD.format(run=run, prompt=prompt)).fetchall():
        print(f"  IoU {low:.1f} to {low + 0.1:.1f}: {count / n:6.1%} {'#' * round(50 * count / n)}")


def tiny(path: Path) -> Store:
    if not (path / "store.toml").exists():
        drawn = SyntheticConfig(frames=8, shape=(192, 256), cells=8)
        blocks = {"train_frames": "0-3", "val_frames": "5-5", "test_frames": "7-7"}
        new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, variants=1, **blocks))
    embed(Store.open(path), progress=bars)
    return Store.open(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--prompt", default="box")
    parser.add_argument("--scored", nargs="*", help="prompts to score; those tuned for, where not given")
    parser.add_argument("--split", default="val", choices=["val", "test"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompt-seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=0, help="fine-tunings at once")
    parser.add_argument("--arms", nargs="*", help="of these names only")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    prompt = "mask" if arguments.part == "paper" else arguments.prompt
    arguments.scored = arguments.scored or ["box", "box-exact"] * (prompt == "box") or [prompt]
    store = tiny(arguments.store) if arguments.tiny else Store.open(arguments.store)
    base = FinetuneConfig.of(prompt=prompt, steps=arguments.steps, workers=arguments.workers)
    seeds = list(range(arguments.seeds))
    arms = []
    with processes(arguments.jobs) if arguments.jobs else nullcontext() as executor:
        for name, config, window in PARTS[arguments.part](base):
            if arguments.arms and name not in arguments.arms:
                continue
            if config is None:
                arms.append((name, [scored(store, None, window, arguments)]))
                continue
            with in_the_loop() if name == LIVE else nullcontext():
                where = None if name == LIVE else executor
                rows = sweep(store, config, {"seed": seeds}, executor=where, progress=bars)
            for row in rows:
                if row.error:
                    print(f"{name}: {row.error}", file=sys.stderr)
            runs = [scored(store, row.run, window, arguments) for row in rows if row.run]
            if runs:
                arms.append((name, runs))
    table(store, arms)
    if arguments.part == "paper":
        for name, runs in arms:
            distribution(store, name, runs[0], "mask")


if __name__ == "__main__":
    main()
