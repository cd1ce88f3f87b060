"""What mending is worth: masks of several tools before and after, with injected errors, and perfect masks left alone.

    python tests/benchmarks/mend_study.py --data ../shared/data/Fluo-N2DL-HeLa --out /tmp/mend-fluo --split test
    python tests/benchmarks/mend_study.py --store stores/fluo --out /tmp/mend-fluo --tools classical unet --split test
    python tests/benchmarks/mend_study.py --data ../shared/data/DIC-C2DH-HeLa --tile none --out /tmp/mend-dic --split test
    python tests/benchmarks/mend_study.py --store stores/fluo --out /tmp/mend-fluo --tools --masks cellpose=DIR --split test

Tools are ``degraded`` (rule "mask prompts"), ``perfect`` (the labels), ``injected`` (the labels, of which one in ten has one
of six errors; ``--split-merge`` is on), ``classical`` (the tuned classical baseline) and ``unet``. The last two are runs of
the store; those of ``hela-store study --classical --unet`` are used where ``--store`` has them. ``--masks`` adds a folder of
label images, such as one that ``hela-store export ctc RUN`` wrote. Decoders are tuned for mask prompts, one a seed; for tools
with errors of their own also with ``--errors-like``. Each folder of masks that is made here has all frames of the validation
block and of ``--split``, and every sixth training frame, on which error models are fitted. The U-Net was trained on these, so
its errors there are smaller than on test. What is chosen here may not look at test: without ``--split test`` the validation
block is reported, on which the gate was fitted, too.
Prints Markdown. A change is the mean over cells and seeds, with the interval of the repository (a cell in several frames
counts once, crossed with frames and seeds); so is the share of masks that became worse by more than 0.02. Everything that is
made is kept under ``--out`` or in the store: the same command again does only what is missing. ``--tiny`` tries everything on
a drawn sequence.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hela_store_cli.output import bars
from scipy import ndimage

from hela_store.base.aliases import LabelArray
from hela_store.base.rng import generator
from hela_store.baselines.classical import classical
from hela_store.baselines.config import ClassicalConfig, UnetConfig
from hela_store.embedding.embed import embed
from hela_store.evaluation.frames import context_of, frame_cells
from hela_store.evaluation.leaks import block_ranges
from hela_store.evaluation.sequences import run_labels
from hela_store.evaluation.tracks import CellTracks, cell_tracks
from hela_store.mending.config import MendConfig
from hela_store.mending.mend import mend
from hela_store.metrics.boundaries import signed_distance
from hela_store.metrics.intervals import Interval, crossed_interval
from hela_store.metrics.overlap import equivalent_diameter
from hela_store.prompts.degraded import draw_degraded_mask
from hela_store.runs.info import RunInfo
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

FAULTS = ("shifted", "eroded", "dilated", "cut", "merged", "half-plane")
TOOLS = ("degraded", "perfect", "injected", "classical", "unet")
SHARE = 0.1
"""Share of the masks that get an injected error."""
EVERY = 6
"""Of the training frames, every so many are in a folder of masks."""
ROWS = """
    SELECT frame, label, cell, iou_before AS before, iou_after AS after FROM changes
    WHERE run = '{run}' AND split = '{split}' AND label IS NOT NULL ORDER BY frame, label
"""
HEAD = """
| masks | decoder | cells | before | after, by seed | change (95 %) | verdict | worse | worse by 0.02 (95 %) |
|---|---|---|---|---|---|---|---|---|"""
Row = dict[str, Any]


def make_store(arguments: argparse.Namespace) -> Store:
    path = arguments.store or arguments.out / "store"
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


def run_tool(folder: Path, store: Store, frames: list[str], made: Callable[[str], str]) -> Path:
    """Write the masks of a baseline; ``made`` returns its run on a block."""
    if folder.exists():
        return folder
    blocks = dict.fromkeys(store.blocks()[frame] for frame in frames)
    found = {row.frame: label for block in blocks for row, label in run_labels(store, made(block))}
    return write_tool(folder, store, frames, lambda frame: found[frame])


def searched(store: Store, tiny: bool) -> Callable[[str], str]:
    budget = {"budget": 4} if tiny else {}
    return lambda block: classical(store, ClassicalConfig(split=block, **budget), progress=bars).run


def segmented(store: Store, tiny: bool) -> Callable[[str], str]:
    from hela_store.baselines.unet import score_unet

    info = trained_unet(store, tiny)
    return lambda block: score_unet(store, info, split=block, progress=bars).run


def trained_unet(store: Store, tiny: bool) -> RunInfo:
    """Return the best U-Net of the first seed on these blocks, as the study chooses it; a new one where there is none."""
    from hela_store.baselines.unet import train_unet
    from hela_store.runs.folder import list_runs

    blocks = block_ranges(store)
    there = [run for run in list_runs(store.path, "unet") if (run.config["frames"], run.config["seed"]) == (blocks, 0)]
    if not there:
        return train_unet(store, UnetConfig(steps=20) if tiny else UnetConfig(), progress=bars)
    return max(there, key=lambda run: run.result().get("val_seg") or 0.0)


def tools(store: Store, arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    frames = frames_of(store, arguments.split, 1 if arguments.tiny else EVERY)
    place = arguments.out / f"masks-{arguments.split}"
    drawn: dict[str, Callable[[str], LabelArray]] = {
        "degraded": lambda frame: degraded(store, frame),
        "perfect": store.pixels.label,
        "injected": lambda frame: injected(store, frame)[0],
    }
    for name in arguments.tools:
        if name in drawn:
            yield name, write_tool(place / name, store, frames, drawn[name])
        else:
            made = searched(store, arguments.tiny) if name == "classical" else segmented(store, arguments.tiny)
            yield name, run_tool(place / name, store, frames, made)
    for given in arguments.masks:
        name, _, folder = given.partition("=")
        yield name, Path(folder)


def mended(store: Store, name: str, folder: Path, checkpoint: str, arguments: argparse.Namespace) -> str:
    out = arguments.out / f"mended-{arguments.split}" / f"{name}-{checkpoint}"
    out.parent.mkdir(exist_ok=True)
    # the run is kept in the store, so that the label images are only written again
    shutil.rmtree(out, ignore_errors=True)
    config = MendConfig(out=out, checkpoint=checkpoint, split_merge=name == "injected")
    return mend(store, folder, config, progress=bars).run


def over(tracks: CellTracks, rows: list[Row], values: np.ndarray) -> Interval:
    """Return the mean of a value of each row with its interval, over cells, frames and seeds."""
    units = tracks.units([row["cell"] for row in rows], np.array([row["seed"] for row in rows], np.int64))
    return crossed_interval(values.astype(float), units)


def line(name: str, decoder: str, tracks: CellTracks, rows: list[Row]) -> str:
    found = [row for row in rows if row["before"] is not None]
    if not found:
        return f"| {name} | {decoder} | 0 | | | | | | |"
    before, after = (np.array([row[column] for row in found]) for column in ("before", "after"))
    seeds = np.array([row["seed"] for row in found])
    change = over(tracks, found, after - before).within(-1, 1)
    noticed = over(tracks, found, after < before - 0.02).within(0, 1)
    by_seed = ", ".join(f"{after[seeds == seed].mean():.4f}" for seed in np.unique(seeds))
    cells = int((seeds == seeds[0]).sum())
    return (
        f"| {name} | {decoder} | {cells} | {before.mean():.4f} | {by_seed} | {ends(change, '+.4f')} | "
        f"{change.word or 'none'} | {(after < before).mean():.2%} | {ends(noticed, '.2%')} |"
    )


def ends(interval: Interval, form: str) -> str:
    # values that are all alike, such as no case of many, say nothing of how far the share may be off
    if interval.low != interval.low or interval.low == interval.high:
        return f"{interval.mean:{form}} (no interval)"
    return f"{interval.mean:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def faults_mended(store: Store, rows: list[Row]) -> list[Row]:
    """Return the masks with an injected error, with ``fault``, and as ``done`` whether at least half of it was mended."""
    of_frame: dict[str, dict[int, str]] = {}
    found = []
    for row in rows:
        if row["frame"] not in of_frame:
            of_frame[row["frame"]] = injected(store, row["frame"])[1]
        fault = of_frame[row["frame"]].get(row["label"])
        if fault is not None:
            done = row["before"] is not None and 1 - row["after"] <= (1 - row["before"]) / 2
            # the mask is that of this cell, also where too little of it is left to stand for one
            found.append(row | {"fault": fault, "done": done, "cell": f"{row['frame']}#{row['label']}"})
    return found


def print_faults(tracks: CellTracks, rows: list[Row]) -> None:
    print("\n| injected error | cases | at least halved (95 %) |\n|---|---|---|")
    for fault in ("all", *FAULTS):
        part = [row for row in rows if fault in ("all", row["fault"])]
        if part:
            done = over(tracks, part, np.array([row["done"] for row in part])).within(0, 1)
            print(f"| {fault} | {len(part)} | {ends(done, '.1%')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--store", type=Path, help="Use this store, and the baselines that it has.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tile", default="512", type=lambda text: text if text == "none" else int(text))
    parser.add_argument("--encoder", default="nano")
    parser.add_argument("--checkpoint")
    parser.add_argument("--tools", nargs="*", choices=TOOLS, help="By default all; with --tiny all but the U-Net.")
    parser.add_argument("--masks", nargs="*", default=[], metavar="NAME=DIR", help="Label images of other tools.")
    parser.add_argument("--split", choices=["val", "test"], default="val")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.tiny or arguments.data or arguments.store):
        parser.error("give --data, --store or --tiny")
    if wrong := [given for given in arguments.masks if not all(given.partition("="))]:
        parser.error(f"--masks got {wrong[0]}, expected NAME=DIR")
    if arguments.tools is None:
        arguments.tools = TOOLS[:-1] if arguments.tiny else TOOLS
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = make_store(arguments)
    seeds = range(1 if arguments.tiny else arguments.seeds)
    steps = 2 if arguments.tiny else arguments.steps
    tracks = cell_tracks(
        store, [f for f in frames_of(store, arguments.split, 1) if store.blocks()[f] == arguments.split]
    )
    print(HEAD, flush=True)
    faults: list[Row] = []
    for name, folder in tools(store, arguments):
        drawn = name in TOOLS[:3]
        for like in (None,) if drawn else (None, str(folder.absolute())):
            rows: list[Row] = []
            for seed in seeds:
                config = FinetuneConfig.of(prompt="mask", steps=steps, seed=seed, errors_like=like)
                run = mended(store, name, folder, finetune(store, config, progress=bars).run, arguments)
                found = store.sql(ROWS.format(run=run, split=arguments.split)).to_arrow_table().to_pylist()
                rows += [row | {"seed": seed} for row in found]
            print(line(name, "generic errors" if like is None else "errors like these", tracks, rows), flush=True)
            if name == "injected":
                faults = faults_mended(store, rows)
    print(f"\n{tracks}; {len(seeds)} training seeds")
    if faults:
        print_faults(tracks, faults)


if __name__ == "__main__":
    main()
