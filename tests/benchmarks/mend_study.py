"""What mending is worth: masks of several tools before and after, with injected errors, and perfect masks left alone.

    python tests/benchmarks/mend_study.py --data ../shared/data/Fluo-N2DL-HeLa --tile 512 --out /tmp/mend-fluo --unet --split test
    python tests/benchmarks/mend_study.py --data ../shared/data/DIC-C2DH-HeLa --tile none --out /tmp/mend-dic --unet --split test

Tools are ``degraded`` (rule "mask prompts"), ``perfect`` (the labels), ``injected`` (the labels, of which one in ten has one
of six errors; ``--split-merge`` is on), the tuned classical baseline, and with ``--unet`` the U-Net. Decoders are tuned for
mask prompts, one a seed; for the classical baseline and the U-Net also with ``--errors-like``. Each folder of masks has all
frames of the validation block and of ``--split``, and every sixth training frame, on which error models are fitted. What is
chosen here may not look at test: without ``--split test`` the validation block is reported, on which the gate was fitted, too.
Prints Markdown, one row a tool and decoder, means over seeds. One store under ``--out`` is kept: the same command again does
only what is missing. ``--tiny`` tries everything on a drawn sequence.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import tifffile
from hela_store_cli.output import bars
from scipy import ndimage

from hela_store.base.aliases import LabelArray
from hela_store.base.rng import generator
from hela_store.baselines.classical import classical
from hela_store.baselines.config import ClassicalConfig, UnetConfig
from hela_store.baselines.rows import BaselineResult
from hela_store.embedding.embed import embed
from hela_store.errors import AlreadyComplete
from hela_store.evaluation.frames import context_of, frame_cells
from hela_store.evaluation.sequences import run_labels
from hela_store.mending.config import MendConfig
from hela_store.mending.mend import mend
from hela_store.metrics.boundaries import signed_distance
from hela_store.metrics.overlap import equivalent_diameter
from hela_store.prompts.degraded import draw_degraded_mask
from hela_store.runs.finished import find_finished
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

FAULTS = ("shifted", "eroded", "dilated", "cut", "merged", "half-plane")
SHARE = 0.1
"""Share of the masks that get an injected error."""
EVERY = 6
"""Of the training frames, every so many are in a folder of masks."""
ROWS = """
    SELECT frame, label, iou_before AS before, iou_after AS after FROM changes
    WHERE run = '{run}' AND split = '{split}' AND label IS NOT NULL
"""
Row = dict[str, Any]


def make_store(arguments: argparse.Namespace) -> Store:
    path = arguments.out / "store"
    if not (path / "store.toml").exists():
        if arguments.tiny:
            drawn = SyntheticConfig(frames=24, shape=(192, 256), cells=10)
            blocks = {"train_frames": "0-5", "val_frames": "7-20", "test_frames": "22-23"}
            new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
        else:
            how = {"encoder": arguments.encoder, "checkpoint": arguments.checkpoint, "tile": arguments.tile}
            new(path, NewConfig.of(dataset=str(arguments.data), sequences=("01",), **how))
    store = Store.open(path)
    embed(store, progress=bars)
    return store


def frames_of(store: Store, split: str, every: int) -> list[str]:
    blocks, labelled = store.blocks(), set(store.cells_table()["frame"].to_pylist())
    train = [frame for frame, block in blocks.items() if block == "train" and frame in labelled][::every]
    return [*train, *(frame for frame, block in blocks.items() if block in ("val", split) and frame in labelled)]


def degraded(store: Store, frame: str) -> LabelArray:
    part = next(iter(frame_cells(store, [frame])))
    label = np.zeros(part.shape, np.int32)
    for cell in part.cells:
        drawn = draw_degraded_mask(generator("mend study", cell.cell), context_of(part, cell))
        (x, y), (rows, columns) = drawn.origin, drawn.mask.shape
        place = label[y : y + rows, x : x + columns]
        place[drawn.mask & (place == 0)] = cell.label
    return label


def injected(store: Store, frame: str) -> tuple[LabelArray, dict[int, str]]:
    """Return the labels with errors in some of them, and which."""
    part = next(iter(frame_cells(store, [frame])))
    label, faults = part.label.copy(), dict[int, str]()
    free = int(label.max())
    for cell in part.cells:
        rng = generator("injected", cell.cell)
        if rng.random() >= SHARE or cell.label in faults or not (label == cell.label).any():
            continue
        fault = FAULTS[int(rng.integers(len(FAULTS)))]
        mask = label == cell.label
        d = equivalent_diameter(int(mask.sum()))
        angle = rng.uniform(0, 2 * np.pi)
        towards = np.array([np.sin(angle), np.cos(angle)])
        rows, columns = np.indices(mask.shape)
        middle = np.argwhere(mask).mean(0)
        beyond = (rows - middle[0]) * towards[0] + (columns - middle[1]) * towards[1] > 0
        if fault == "merged":
            other = next((value for value in nearest(label, cell.label, d) if value not in faults), None)
            if other is None:
                continue
            label[label == other] = cell.label
        elif fault == "cut":
            free += 1
            label[mask & beyond] = free
        elif fault == "half-plane":
            label[mask & beyond] = 0
        else:
            distance = signed_distance(mask)
            if fault == "shifted":
                changed = ndimage.shift(distance, 0.3 * d * towards, order=1, mode="nearest") > 0
            else:
                changed = distance > (0.12 * d if fault == "eroded" else -0.15 * d)
            label[mask] = 0
            label[changed & (label == 0)] = cell.label
        faults[cell.label] = fault
    return label, faults


def nearest(label: LabelArray, value: int, reach: float) -> list[int]:
    distance = ndimage.distance_transform_edt(label != value)
    near = {int(v): float(distance[label == v].min()) for v in np.unique(label[distance < reach / 2])}
    return [v for v in sorted(near, key=near.__getitem__) if v not in (0, value)]


def write_tool(folder: Path, store: Store, frames: list[str], make: Callable[[str], LabelArray]) -> Path:
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}")
        for frame in bars(frames, total=len(frames), what=folder.name):
            path = partial / f"{frame}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, make(frame).astype(np.uint16), compression="zlib")
        partial.rename(folder)
    return folder


def run_tool(folder: Path, store: Store, frames: list[str], results: list[BaselineResult]) -> Path:
    found = {row.frame: label for result in results for row, label in run_labels(store, result.run)}
    return write_tool(folder, store, frames, lambda frame: found[frame])


def tools(store: Store, arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    frames = frames_of(store, arguments.split, 1 if arguments.tiny else EVERY)
    place = arguments.out / f"masks-{arguments.split}"
    blocks = list(dict.fromkeys(("train", "val", arguments.split)))
    yield "degraded", write_tool(place / "degraded", store, frames, lambda frame: degraded(store, frame))
    yield "perfect", write_tool(place / "perfect", store, frames, store.pixels.label)
    yield "injected", write_tool(place / "injected", store, frames, lambda frame: injected(store, frame)[0])
    budget = {"budget": 4} if arguments.tiny else {}
    made = [classical(store, ClassicalConfig(split=block, **budget), progress=bars) for block in blocks]
    yield "classical", run_tool(place / "classical", store, frames, made)
    if arguments.unet:
        from hela_store.baselines.unet import unet

        config = UnetConfig(steps=20) if arguments.tiny else UnetConfig()
        made = [unet(store, config, split=block, progress=bars) for block in blocks]
        yield "unet", run_tool(place / "unet", store, frames, made)


def mended(store: Store, folder: Path, checkpoint: str, arguments: argparse.Namespace) -> str:
    out = arguments.out / f"mended-{arguments.split}" / f"{folder.name}-{checkpoint[-4:]}"
    out.parent.mkdir(exist_ok=True)
    config = MendConfig(out=out, checkpoint=checkpoint, split_merge=folder.name == "injected")
    try:
        return mend(store, folder, config, progress=bars).run
    except AlreadyComplete:
        wanted = {"checkpoint": checkpoint, "origin": folder.name}
        run = find_finished(store.path, "mend", lambda run: wanted.items() <= run.config.items())
        assert run is not None
        return run.id


def scores(rows: list[Row]) -> dict[str, float]:
    found = [row for row in rows if row["before"] is not None]
    before, after = (np.array([row[name] for row in found]) for name in ("before", "after"))
    shares = {"worse": np.mean(after < before), "worse by 0.02": np.mean(after < before - 0.02)}
    return {"n": len(found), "before": before.mean(), "after": after.mean(), **shares}


def faults_mended(store: Store, rows: list[Row]) -> dict[str, list[bool]]:
    """Return, by kind of error, whether mending at least halved what was missing to IoU 1."""
    of_frame: dict[str, dict[int, str]] = {}
    found: dict[str, list[bool]] = {fault: [] for fault in FAULTS}
    for row in rows:
        if row["frame"] not in of_frame:
            of_frame[row["frame"]] = injected(store, row["frame"])[1]
        faults = of_frame[row["frame"]]
        if row["label"] in faults:
            known = row["before"] is not None
            found[faults[row["label"]]].append(known and 1 - row["after"] <= (1 - row["before"]) / 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tile", default="512", type=lambda text: text if text == "none" else int(text))
    parser.add_argument("--encoder", default="nano")
    parser.add_argument("--checkpoint")
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--unet", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = make_store(arguments)
    seeds = range(1 if arguments.tiny else arguments.seeds)
    steps = 2 if arguments.tiny else arguments.steps
    columns = ("n", "before", "after", "worse", "worse by 0.02")
    print(f"| masks | decoder | {' | '.join(columns)} | seeds |\n|{'---|' * (len(columns) + 3)}", flush=True)
    kinds: dict[str, list[bool]] = {}
    for name, folder in tools(store, arguments):
        for like in (None, str(folder.absolute())) if name in ("classical", "unet") else (None,):
            found = []
            for seed in seeds:
                config = FinetuneConfig.of(prompt="mask", steps=steps, seed=seed, errors_like=like)
                run = mended(store, folder, finetune(store, config, progress=bars).run, arguments)
                rows = store.sql(ROWS.format(run=run, split=arguments.split)).to_arrow_table().to_pylist()
                found.append(scores(rows))
                if name == "injected":
                    for fault, part in faults_mended(store, rows).items():
                        kinds.setdefault(fault, []).extend(part)
            means = [f"{fmean(one[column] for one in found):.4f}" for column in columns[1:]]
            after = ", ".join(f"{one['after']:.4f}" for one in found)
            decoder = "generic errors" if like is None else "errors like these"
            print(f"| {name} | {decoder} | {int(found[0]['n'])} | {' | '.join(means)} | {after} |", flush=True)
    every = [done for part in kinds.values() for done in part]
    by_kind = {fault: f"{np.mean(part):.1%} of {len(part)}" for fault, part in kinds.items() if part}
    print(f"\ninjected errors at least halved: {np.mean(every):.1%} of {len(every)}; {json.dumps(by_kind)}")


if __name__ == "__main__":
    main()
