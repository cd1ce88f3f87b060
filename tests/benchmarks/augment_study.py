"""Does augmentation help the decoder: 0, 2 and 8 variants, on all training frames and on five labelled ones.

    python tests/benchmarks/augment_study.py --data ../shared/data/Fluo-N2DL-HeLa --out /tmp/augment
    python tests/benchmarks/augment_study.py --data ... --out ... --frames 5 --amplitudes literal rms max

Every arm tunes for the same number of steps, keeps the best by validation, and is scored once on test; the arms of one
seed share batches' seeds and prompts. One store under ``--out`` and ``results.jsonl`` beside it are kept: the same command
again does only what is missing. Prints Markdown: means and single seeds, the gain over no variants with its 95 % interval
over tracks, frames and seeds (`hela_store.metrics.intervals`), and the cost in encoder passes.
``--tiny`` tries everything on a drawn sequence.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from hela_store_cli.output import bars

from hela_store.augment.ranges import Amplitude, AugmentRecipe, Elastic
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.recipe.recipe import SplitRecipe
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig


def make_store(out: Path, arguments: argparse.Namespace) -> Store:
    path = out / "store"
    if not (path / "store.toml").exists():
        if arguments.tiny:
            drawn = SyntheticConfig(frames=14, shape=(192, 256), cells=10)
            blocks = {"train_frames": "0-5", "val_frames": "7-7", "test_frames": "9-13"}
            new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
        else:
            new(path, NewConfig.of(dataset=str(arguments.data), sequences=("01",), tile="512"))
    return Store.open(path)


def arm_store(store: Store, amplitude: Amplitude, most: int, few: str) -> Store:
    """Return the store with an amplitude's variants and, where ``few`` is not "all", only so many training frames."""
    augment = AugmentRecipe(variants=most, frames="train", elastic=Elastic(amplitude=amplitude))
    recipe = replace(store.recipe, augment=augment)
    if few != "all":
        numbers = {row["frame"]: row["time"] for row in store.frames_table().to_pylist()}
        blocks = store.blocks()
        train = [numbers[frame] for frame, block in blocks.items() if block == "train"]
        picked = np.unique(np.linspace(0, len(train) - 1, int(few)).round().astype(int))
        split: SplitRecipe = recipe.split
        recipe = replace(recipe, split=replace(split, train=",".join(str(train[i]) for i in picked)))
    return Store(store.path, recipe)


def run_arm(store: Store, arm: dict[str, object], arguments: argparse.Namespace) -> dict[str, object]:
    config = FinetuneConfig.of(
        prompt=arguments.prompt,
        steps=arguments.steps,
        seed=int(str(arm["seed"])),
        variants=int(str(arm["variants"])),
        workers=arguments.workers,
        evaluate_every=max(1, arguments.steps // arguments.validations),
        validation_cells=arguments.validation_cells,
    )
    tuned = finetune(store, config, progress=bars)
    seen = evaluate(store, tuned, _scoring(arguments), progress=bars)
    score = seen.prompts[arguments.prompt]
    found = {"run": tuned.run, "evaluation": seen.run, "best_step": tuned.best_step, "val": tuned.tuned.mean_iou}
    return arm | found | {"iou": score.mean_iou, "dice": score.mean_dice, "free": score.image_free_iou, "n": score.n}


def _scoring(arguments: argparse.Namespace) -> EvaluateConfig:
    return EvaluateConfig(split="test", prompts=(arguments.prompt,), prompt_seeds=arguments.prompt_seeds)


def points(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})"


def report(store: Store, results: list[dict[str, object]], passes: dict[str, int]) -> None:
    print(
        "| labelled frames | amplitude | variants | seeds | val IoU | test IoU | test Dice | image-free | "
        "gain over 0 variants (95 %) | verdict | encoder passes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in results:
        groups.setdefault((row["frames"], row["amplitude"], row["variants"]), []).append(row)
    for (frames, amplitude, variants), rows in groups.items():
        mean = {name: float(np.mean([float(str(r[name])) for r in rows])) for name in ("val", "iou", "dice", "free")}
        base = {r["seed"]: r for r in results if r["frames"] == frames and r["variants"] == 0}
        paired = [(r, base[r["seed"]]) for r in rows if r["seed"] in base]
        gain, word = "", ""
        if variants and paired:
            both = [[str(r["evaluation"]) for r in part] for part in zip(*paired, strict=True)]
            found = next(each for each in compare(store, both[::-1]).rows if each.subset == "all")
            low, high = found.per_cell.low, found.per_cell.high
            gain, word = f"{found.mean:+.4f} ({low:+.4f} to {high:+.4f})", found.word
        spread = points([float(str(r["iou"])) for r in rows])
        shown = amplitude if variants else "-"
        cost = passes[str(frames)] * (1 + int(str(variants)))
        print(
            f"| {frames} | {shown} | {variants} | {len(rows)} | {mean['val']:.4f} | {spread} | {mean['dice']:.4f} | "
            f"{mean['free']:.4f} | {gain} | {word} | {cost} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", type=int, nargs="*", default=[0, 2, 8])
    parser.add_argument("--amplitudes", nargs="*", default=["rms"], choices=["literal", "rms", "max"])
    parser.add_argument(
        "--frames", nargs="*", default=["all", "5"], help="training frames with labels: all, or how many"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--validations", type=int, default=5)
    parser.add_argument("--validation-cells", type=int, default=300)
    parser.add_argument("--prompt", default="box")
    parser.add_argument("--prompt-seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if not arguments.tiny and arguments.data is None:
        parser.error("--data is missing (or give --tiny)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = make_store(arguments.out, arguments)
    log = arguments.out / "results.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    names = ("frames", "amplitude", "variants", "seed", "steps", "prompt")
    have = {tuple(row[name] for name in names) for row in done}
    if not any((store.path / "ingest").glob("frames-*")):
        embed(store, EmbedConfig(limit=1), progress=bars)
    passes, wanted = {}, []
    for frames in arguments.frames:
        for amplitude in arguments.amplitudes:
            part = arm_store(store, amplitude, max(arguments.variants), frames)
            for note in embed(part, progress=bars).notes:
                print(f"note: {note}", file=sys.stderr)
            blocks, rows = part.blocks(), part.views_table().to_pylist()
            passes[frames] = sum(blocks[row["frame"]] == "train" and row["variant"] == 0 for row in rows)
            for variants in arguments.variants:
                if variants == 0 and amplitude != arguments.amplitudes[0]:
                    continue  # without variants there is no amplitude
                for seed in range(arguments.seeds):
                    arm = dict(zip(names, (frames, amplitude if variants else "", variants, seed), strict=False))
                    arm |= {"steps": arguments.steps, "prompt": arguments.prompt}
                    wanted.append(tuple(arm.values()))
                    if wanted[-1] not in have:
                        with log.open("a") as file:
                            file.write(json.dumps(run_arm(part, arm, arguments)) + "\n")
    rows = {tuple(row[name] for name in names): row for row in map(json.loads, log.read_text().splitlines())}
    report(store, [rows[key] for key in wanted], passes)


if __name__ == "__main__":
    main()
