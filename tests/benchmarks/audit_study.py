"""Does `audit` find faults: the recall of injected ones by kind, and a sheet of the first suspects to look at.

    python tests/benchmarks/audit_study.py --data ../shared/data/Fluo-N2DL-HeLa --out /tmp/audit
    python tests/benchmarks/audit_study.py --store stores/fluo --out /tmp/audit --at t050,180,447
    python tests/benchmarks/audit_study.py --store stores/fluo --out /tmp/audit --accept 1-12,15,20-31

The store under ``--out`` is made and embedded where none is given; the same command resumes. Recall is that of copies of
labels with one fault each, at the thresholds that flag 1 % and 5 % of all labels if 2 % of these were faulty. ``--at``
names known faults by frame, x and y, and prints their ranks. ``suspects-*.png`` beside it show the first ``--first``
labels in their order, 25 a sheet, each with the frames before and after: count by eye how many are real faults.

``--accept`` says what the mends are worth: the proposals of these ranks, which a person chose on the sheets, become new
versions of the store's labels. Decoders are then fine-tuned on the labels before and after, one a seed, and each is scored
on ``--split`` under both. Labels of test frames change with the others, so the change under each version stands alone.
Accepted decisions of ``hela-store teach`` are of the versions after, too. Without ``--split test`` validation is scored,
which chose the training steps. ``--tiny`` tries everything on a drawn sequence.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from hela_store_cli.output import bars
from PIL import Image, ImageDraw

from hela_store.audit.audit import audit
from hela_store.audit.config import AuditConfig
from hela_store.audit.proposal import accepted
from hela_store.audit.result import AuditResult
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import LabelError
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import free_label
from hela_store.recipe.splits import parse_ranges
from hela_store.show.suspects import suspect_pictures
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

ROWS = 25
"""Suspects of a sheet."""
WIDTH = 680
"""Of a strip on a sheet, px."""
GOAL = 0.8
"""Share of the injected faults that should be among the first 5 %."""
FIRST = """
    SELECT s.rank, s.frame, s.cell, c.label, s.x0, s.y0, s.x1, s.y1, s.score, s.kind, s.reason, s.rle, r.labels_version
    FROM suspects s JOIN runs r ON r.id = s.run
    LEFT JOIN cells_at c ON c.cell = s.cell AND c.labels_version = r.labels_version
    WHERE s.run = '{run}' AND s.rank <= {first} ORDER BY s.rank
"""
AT = """
    SELECT min(rank) AS rank, arg_min(kind, rank) AS kind, arg_min(score, rank) AS score FROM suspects
    WHERE run = '{run}' AND frame LIKE '%/{frame}' AND {x} BETWEEN x0 - 2 AND x1 + 2 AND {y} BETWEEN y0 - 2 AND y1 + 2
"""

PROPOSED = """
    SELECT run, suspect, rank, frame, cell, x0, y0, x1, y1, kind, reason, rle FROM suspects
    WHERE run = '{run}' AND rank BETWEEN {first} AND {last} ORDER BY rank
"""
DONE = "SELECT DISTINCT regexp_extract(reason, '^suspect ([0-9]+) of {run} accepted', 1) AS rank FROM label_events"


def make_store(out: Path, arguments: argparse.Namespace) -> Store:
    path = out / "store"
    if not (path / "store.toml").exists():
        if arguments.tiny:
            drawn = SyntheticConfig(frames=6, shape=(192, 256), cells=10)
            blocks = {"train_frames": "0-3", "val_frames": "4-4", "test_frames": "5-5"}
            new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
        else:
            new(path, NewConfig.of(dataset=str(arguments.data), sequences=("01",), tile=arguments.tile))
    embed(Store.open(path), EmbedConfig(), progress=bars)
    return Store.open(path)


def sheets(store: Store, run: str, first: int, out: Path) -> list[Path]:
    rows = store.sql(FIRST.format(run=run, first=first)).to_arrow_table().to_pylist()
    written = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        pictures = [_narrow(picture) for picture in suspect_pictures(store, part)]
        sheet = Image.new("RGB", (2 * WIDTH + 20, sum(_heights(pictures))), "white")
        y = 0
        for i in range(0, len(part), 2):
            for column, (row, picture) in enumerate(zip(part[i : i + 2], pictures[i : i + 2], strict=True)):
                _place(sheet, row, picture, column * (WIDTH + 20), y)
            y += max(picture.height for picture in pictures[i : i + 2]) + 30
        written.append(out / f"suspects-{start // ROWS + 1}.png")
        sheet.save(written[-1])
    return written


def _narrow(picture: Image.Image) -> Image.Image:
    share = min(1.0, WIDTH / picture.width)
    return picture.resize((round(picture.width * share), round(picture.height * share)))


def _heights(pictures: list[Image.Image]) -> list[int]:
    return [max(p.height for p in pictures[i : i + 2]) + 30 for i in range(0, len(pictures), 2)]


def _place(sheet: Image.Image, row: dict[str, Any], picture: Image.Image, x: int, y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    name = row["cell"] or f"{row['frame']} at {(row['x0'] + row['x1']) // 2}, {(row['y0'] + row['y1']) // 2}"
    draw.text((x, y), f"{row['rank']}. {name}  {row['score']:.2f}  {row['kind']}", "black")
    draw.text((x, y + 12), row["reason"].partition(": ")[2][:110], "black")
    sheet.paste(picture, (x, y + 26))


def told(store: Store, found: AuditResult, places: list[str]) -> None:
    print(f"run {found.run}: {found.labels} labels and {found.places} places of {found.frames} frames\n")
    print("| injected fault | n | first 1 % | first 5 % | kind named |\n|---|---|---|---|---|")
    for one in found.recall:
        print(f"| {one.kind} | {one.n} | {one.at[0]:.3f} | {one.at[1]:.3f} | {one.named:.3f} |")
    if found.recall:
        print(f"\ngoal {GOAL} at 5 %: {'reached' if found.recall[0].at[1] >= GOAL else 'not reached'}")
    for place in places:
        frame, x, y = place.split(",")
        rank, kind, score = store.sql(AT.format(run=found.run, frame=frame, x=int(x), y=int(y))).fetchall()[0]
        print(f"known fault {place}: " + ("no suspect there" if rank is None else f"rank {rank}, {kind}, {score:.2f}"))


def accept(store: Store, run: str, ranks: str) -> None:
    """Make the proposals of some ranks versions of the labels; those that are, are not made again."""
    done = {rank for (rank,) in store.sql(DONE.format(run=run)).fetchall()}
    made = 0
    with LabelLog(store) as log:
        for first, last in parse_ranges(ranks, "--accept"):
            for row in store.sql(PROPOSED.format(run=run, first=first, last=last)).to_arrow_table().to_pylist():
                if str(row["rank"]) in done:
                    continue
                frame = row["frame"]
                try:
                    log.append([accepted(row, log.label(frame), "audit_study", partial(free_label, store, frame))])
                    made += 1
                except LabelError as error:
                    print(f"not accepted: {error}")
    print(f"\n{made} proposals accepted now, {len(done - {''})} before")


def worth(store: Store, before: int, arguments: argparse.Namespace) -> None:
    """Fine-tune and score under the labels before and after, and print the changes with their intervals."""
    after, tiny = Store.open(store.path).labels_version, arguments.tiny
    scored: dict[tuple[int, int], list[str]] = {}
    means: dict[tuple[int, int], list[float]] = {}
    for trained in (before, after):
        for seed in range(1 if tiny else arguments.seeds):
            config = FinetuneConfig.of(prompt=arguments.prompt, steps=2 if tiny else arguments.tune, seed=seed)
            run = finetune(store.at_labels(trained), config, progress=bars).run
            for on in (before, after):
                asked = EvaluateConfig(split=arguments.split, prompts=(arguments.prompt,))
                found = evaluate(store.at_labels(on), run, asked, progress=bars)
                scored.setdefault((trained, on), []).append(found.run)
                means.setdefault((trained, on), []).append(found.prompts[arguments.prompt].mean_iou)
    print(f"\nlabels before: version {before}; after: {after}; IoU with {arguments.prompt} on {arguments.split}\n")
    print(
        "| scored on | trained before | trained after | change | 95 % from | to | verdict |\n|---|---|---|---|---|---|---|"
    )
    notes: list[str] = []
    for on, name in ((before, "before"), (after, "after")):
        change = compare(store, (scored[before, on], scored[after, on]))
        ious = (f"{fmean(means[trained, on]):.4f}" for trained in (before, after))
        for row in (row for row in change.rows if not row.is_exploratory):
            low, high = row.per_cell.low, row.per_cell.high
            ends = ("–" if value != value else f"{value:+.4f}" for value in (row.mean, low, high))
            print(f"| labels {name}, {row.cells} cells | {' | '.join([*ious, *ends])} | {row.word or 'none'} |")
        notes += [change.units, *change.notes]
    print("\n" + "; ".join(dict.fromkeys(notes)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder of the Cell Tracking Challenge with sequence 01.")
    parser.add_argument("--store", type=Path, help="Audit this store instead of a new one.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tile", default="512")
    parser.add_argument("--folds", type=int, default=AuditConfig.folds)
    parser.add_argument("--steps", type=int, default=AuditConfig.steps)
    parser.add_argument("--seed", type=int, default=AuditConfig.seed)
    parser.add_argument("--first", type=int, default=100, help="How many suspects the sheets show.")
    parser.add_argument("--at", nargs="*", default=[], metavar="FRAME,X,Y", help="Known faults.")
    parser.add_argument("--labels", type=int, default=0, help="Version of the labels that is audited.")
    parser.add_argument(
        "--accept", metavar="RANKS", help="Accept these proposals, such as 1-12,15, and score their worth."
    )
    parser.add_argument("--split", choices=["val", "test"], default="val", help="What --accept scores.")
    parser.add_argument("--prompt", default="box", help="Prompt that --accept fine-tunes for and scores with.")
    parser.add_argument("--tune", type=int, default=500, help="Steps of the fine-tunings of --accept.")
    parser.add_argument("--seeds", type=int, default=3, help="Fine-tunings of --accept for each version.")
    parser.add_argument("--tiny", action="store_true", help="Try everything on a drawn sequence.")
    arguments = parser.parse_args()
    if not (arguments.tiny or arguments.data or arguments.store):
        parser.error("give --data, --store or --tiny")
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = Store.open(arguments.store) if arguments.store else make_store(arguments.out, arguments)
    steps, folds = (2, 2) if arguments.tiny else (arguments.steps, arguments.folds)
    found = audit(
        store.at_labels(arguments.labels), AuditConfig(folds=folds, steps=steps, seed=arguments.seed), progress=bars
    )
    told(store, found, arguments.at)
    for path in sheets(store, found.run, arguments.first, arguments.out):
        print(path)
    ranks = "1-8" if arguments.tiny else arguments.accept
    if ranks:
        accept(store, found.run, ranks)
        worth(store, arguments.labels, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
