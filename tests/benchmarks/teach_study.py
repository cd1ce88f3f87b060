"""What a session of teaching is worth: a simulated person clicks, corrects and labels; the decoder is fine-tuned.

    python tests/benchmarks/teach_study.py --data ../shared/data/Fluo-N2DL-HeLa --tile 512 --out /tmp/teach-fluo
    python tests/benchmarks/teach_study.py --data ../shared/data/DIC-C2DH-HeLa --tile none --out /tmp/teach-dic

The person knows the truth. They take the cells that the page offers by a rule, and give each its true mask. After 10,
20, 50, 100 and 200 cells the decoder is fine-tuned from the one before, on the cells that are dealt to train, with the
step chosen on a part of the others, as the page does it; but the cells that judge on the page drop no decoder here, so
that a curve shows what fine-tuning does. Then test is scored: IoU from bounding boxes and from one click, SEG without
prompts in a few frames, and the clicks that a cell needs until its IoU is 0.85 and 0.90 (NoC; at most 10, a cell that
never gets there counts 10). Every click after the first is in the middle of the largest piece of what is wrong. A
decoder that is fine-tuned on all cells of the training block is scored on the same cells.
``results.jsonl`` is kept, so the same command again does only what is missing. Prints Markdown with means over seeds, and
each rule paired with random; ``--rules`` takes others than these two. ``--tiny`` tries everything on a drawn sequence.

Of Fluo-N2DL-HeLa a session takes about three minutes of one core; a decoder that did not change is not scored again.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hela_store_cli.output import bars
from scipy.stats import t as student

from hela_store.base.rng import generator
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.evaluation.checkpoint import Checkpoint, resolve_checkpoint
from hela_store.evaluation.frames import FrameCells, context_of, frame_cells, labelled_frames
from hela_store.images.rle import paste
from hela_store.metrics.ctc import match_frame, seg
from hela_store.metrics.overlap import overlap
from hela_store.prompts.draw import corrective_click, make_prompt
from hela_store.prompts.prompt import Prompt
from hela_store.store.records import CellRecord
from hela_store.store.store import Store
from hela_store.teaching.config import RULES, TeachConfig
from hela_store.teaching.deal import Deal
from hela_store.teaching.decode import Decoding
from hela_store.teaching.far import Label
from hela_store.teaching.next_cell import Candidate, choose, spread
from hela_store.teaching.offers import POOL
from hela_store.teaching.proposals import Proposals
from hela_store.teaching.retune import round_config, shares
from hela_store.teaching.rules import Rule, rule_of
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

BUDGETS = (10, 20, 50, 100, 200)
CLICKS = 10
LEVELS = (0.85, 0.90)
HELD = 0.2
ALL = "all cells"


def make_store(arguments: argparse.Namespace) -> Store:
    path = arguments.out / "store"
    if not (path / "store.toml").exists():
        if arguments.tiny:
            drawn = SyntheticConfig(frames=6, shape=(224, 256), cells=30)
            blocks = {"train_frames": "0-2", "val_frames": "3-3", "test_frames": "4-5"}
            new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
        else:
            sequences = ("01",) if (arguments.data / "01").is_dir() else ()
            how = {"tile": arguments.tile, "variants": arguments.variants}
            new(path, NewConfig.of(dataset=str(arguments.data), sequences=sequences, **how))
    store = Store.open(path)
    embed(store, EmbedConfig(device=arguments.device), bars)
    return store


def drawn_cells(store: Store, split: str, count: int, seed: int) -> list[tuple[FrameCells, CellRecord]]:
    """Return some cells of a block, drawn evenly over all of them."""
    frames = list(frame_cells(store, labelled_frames(store, split)))
    every = [(frame, cell) for frame in frames for cell in frame.cells]
    order = generator("teach study", split, seed).permutation(len(every))[:count]
    return [every[i] for i in sorted(order)]


def clicks_of(decoding: Decoding, frame: FrameCells, cell: CellRecord, seed: int) -> tuple[float, dict[float, int]]:
    """Return the IoU of the first click, and the clicks until each level."""
    context = context_of(frame, cell)
    first = make_prompt("point", context, seed)
    points, labels = np.asarray(first.points, float), np.asarray(first.point_labels)
    ious: list[float] = []
    while len(ious) < CLICKS:
        found = decoding.answer(frame.frame, Prompt(kind="point", points=points, point_labels=labels))
        assert found is not None
        ious.append(overlap(found.mask, context.mask, found.origin, context.origin).iou)
        seen = paste(found.mask, found.origin, context.mask.shape, context.origin)
        click = corrective_click(seen, context.mask, context.origin)
        if click is None or ious[-1] >= max(LEVELS):
            break
        points, labels = np.concatenate([points, click[0][None]]), np.append(labels, click[1])
    reached = {level: next((n for n, iou in enumerate(ious, 1) if iou >= level), CLICKS) for level in LEVELS}
    return ious[0], reached


def box_iou(decoding: Decoding, frame: FrameCells, cell: CellRecord, seed: int) -> float:
    context = context_of(frame, cell)
    found = decoding.answer(frame.frame, make_prompt("box", context, seed))
    assert found is not None
    return overlap(found.mask, context.mask, found.origin, context.origin).iou


def seg_of(store: Store, decoding: Decoding, split: str, frames: int) -> float:
    """Return SEG of what the detector and the decoder find by themselves in some frames of a block, evenly spread."""
    proposals, matches = Proposals(store, decoding), []
    for frame in spread(labelled_frames(store, split), frames):
        truth = store.pixels.label(frame)
        found = np.zeros(truth.shape, np.int32)
        for number, proposal in enumerate(proposals.of(frame), 1):
            proposal.paint(found, number)
        matches.append(match_frame(truth, found))
    return seg(matches)


def scored(store: Store, checkpoint: Checkpoint, arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Return the scores of a decoder on test cells, the same ones for every decoder of a seed."""
    decoding = Decoding(checkpoint, arguments.device)
    cells = drawn_cells(store, arguments.split, arguments.test_cells, 0)
    clicked = [clicks_of(decoding, frame, cell, seed) for frame, cell in cells]
    found = {"box": float(np.mean([box_iou(decoding, frame, cell, seed) for frame, cell in cells]))}
    found["point"] = float(np.mean([iou for iou, _ in clicked]))
    found["seg"] = seg_of(store, decoding, arguments.split, arguments.frames)
    return found | {f"noc{100 * level:.0f}": float(np.mean([n[level] for _, n in clicked])) for level in LEVELS}


def offered(
    store: Store, proposals: Proposals, rule: Rule, seed: int, done: set[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    """Yield cells as the page offers them: the true cell that most of a proposal lies on, each once.

    When the page has no more to offer, the person takes other cells of training frames, at random.
    """
    frames = labelled_frames(store, "train")
    places = generator("teach study frames", seed).permutation(len(frames))[:POOL]
    labels = {frames[i]: store.pixels.label(frames[i]) for i in sorted(places)}
    left = []
    for frame, label in labels.items():
        for proposal in proposals.of(frame):
            under = np.bincount(proposal.under(label))
            if under.argmax() and (frame, int(under.argmax())) not in done:
                left.append((Candidate(frame=frame, proposal=proposal), (frame, int(under.argmax()))))
    count = 1000 * seed + len(done)
    while left:
        offer = choose([candidate for candidate, _ in left], rule.words, count, rule.measure)
        assert offer is not None
        cell = next(cell for candidate, cell in left if candidate is offer.candidate)
        left, count = [pair for pair in left if pair[1] != cell], count + 1
        yield cell
    others = [(frame.frame, cell.label) for frame in frame_cells(store, frames) for cell in frame.cells]
    for place in generator("teach study others", seed).permutation(len(others)):
        if others[place] not in done:
            yield others[place]


def labels_of(store: Store, taught: set[tuple[str, int]]) -> list[tuple[str, Label, set[int]]]:
    """Return the frames with taught cells, their label images, and the labels of these cells."""
    frames = defaultdict[str, set[int]](set)
    for frame, cell in sorted(taught):
        frames[frame].add(cell)
    return [(frame, store.pixels.label(frame).astype(np.int32), cells) for frame, cells in frames.items()]


def session(
    store: Store, rule: str, seed: int, arguments: argparse.Namespace, first: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Yield the scores after every budget; ``first`` has those of zero-shot."""
    scores = first
    yield {"rule": rule, "seed": seed, "cells": 0} | scores
    checkpoint, deal = resolve_checkpoint(store, None), Deal(store, HELD)
    decoding = Decoding(checkpoint, arguments.device)
    proposals = Proposals(store, decoding)
    taught: set[tuple[str, int]] = set()
    for budget in arguments.budgets:
        chosen_by = rule_of(rule, store, proposals, decoding, lambda: labels_of(store, taught))
        for cell in offered(store, proposals, chosen_by, seed, taught):
            if len(taught) >= budget:
                break
            taught.add(cell)
            deal.add(*cell)
        parts = shares(store, {cell: dealt for cell in sorted(taught) if (dealt := deal.of(*cell))})
        if len(taught) < budget or parts.lack:
            continue
        lesson = TeachConfig(steps=arguments.steps, device=arguments.device)
        config = round_config(parts, checkpoint.id, lesson).with_choices(seed=seed, pick=f"taught, {rule}")
        found = finetune(store, config)
        if found.best_step > 0:
            checkpoint = resolve_checkpoint(store, found.run)
            decoding = Decoding(checkpoint, arguments.device)
            proposals = Proposals(store, decoding)
            scores = scored(store, checkpoint, arguments, seed)
        yield {"rule": rule, "seed": seed, "cells": budget} | scores


def everything(store: Store, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of a decoder that is fine-tuned on all labelled cells of the training block."""
    steps = {"steps": arguments.steps} if arguments.tiny else {}
    found = finetune(store, FinetuneConfig.of(prompt="box-or-point", seed=seed, device=arguments.device, **steps))
    cells = sum(len(frame.cells) for frame in frame_cells(store, labelled_frames(store, "train")))
    return {"rule": ALL, "seed": seed, "cells": cells} | scored(
        store, resolve_checkpoint(store, found.run), arguments, seed
    )


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "–"
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    names = ("box", "point", "seg", "noc85", "noc90")
    yield "| rule | cells | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names)
    of = {(row["rule"], row["seed"], row["cells"]): row for row in rows}
    for rule, cells in sorted({(row["rule"], row["cells"]) for row in rows}):
        same = [row for row in rows if (row["rule"], row["cells"]) == (rule, cells)]
        yield f"| {rule} | {cells} | " + " | ".join(interval([row[name] for row in same]) for name in names) + " |"
    for cells in sorted({row["cells"] for row in rows if row["cells"]}):
        seeds = [row["seed"] for row in rows if row["cells"] == cells and row["rule"] == "random"]
        for rule in sorted({row["rule"] for row in rows if row["cells"] == cells} - {"random", ALL}):
            pairs = [(of[rule, s, cells], of["random", s, cells]) for s in seeds if (rule, s, cells) in of]
            paired = " | ".join(interval([one[name] - other[name] for one, other in pairs]) for name in names)
            yield f"| {rule} less random | {cells} | {paired} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=["random", "doubt"])
    parser.add_argument("--steps", type=int, default=TeachConfig.steps)
    parser.add_argument("--variants", type=int, default=0, help="augmented views of each training view")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="what is scored; choose on val")
    parser.add_argument("--test-cells", type=int, default=100)
    parser.add_argument("--frames", type=int, default=4, help="test frames of SEG")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.seeds, arguments.budgets, arguments.steps, arguments.test_cells = 2, (10, 20), 6, 6
    arguments.out.mkdir(parents=True, exist_ok=True)
    store, results = make_store(arguments), arguments.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in range(arguments.seeds):
        if not any((row["rule"], row["seed"]) == (ALL, seed) for row in rows):
            rows.append(everything(store, seed, arguments))
            keep(results, rows)
        zero: dict[str, float] = {}
        for rule in arguments.rules:
            if any((row["rule"], row["seed"], row["cells"]) == (rule, seed, max(arguments.budgets)) for row in rows):
                continue
            rows = [row for row in rows if (row["rule"], row["seed"]) != (rule, seed)]
            zero = zero or scored(store, resolve_checkpoint(store, None), arguments, seed)
            rows += list(session(store, rule, seed, arguments, zero))
            keep(results, rows)
    print("\n".join(report(rows)))


if __name__ == "__main__":
    main()
