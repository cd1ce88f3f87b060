"""Score nano zero-shot on real frames it never saw: the table of its model card.

    python tests/benchmarks/score_nano.py --data ../shared/data --out /tmp/nano --part test

Makes one store a data set under ``--out`` (kept, so that a second call only does what is missing), scores every prompt
kind by the measuring rules with three prompt seeds, the same prompts with the embedding turned by 180 degrees as a
control, and prints Markdown. ``--part val`` scores what choices are made on: the validation parts of the folders that
nano learns from, and nothing else. ``--weights FILE`` takes other weights than the shipped ones. With
``--sheet FILE.png`` it draws outlines of the best, median and worst cells of the DSB 2018 part.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from hela_store_cli.output import bars
from matplotlib.patches import Rectangle

from hela_store.embedding.embed import embed
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.images.rle import decode_crop
from hela_store.pretrain.sources import read_sources
from hela_store.runs.folder import list_runs
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

KINDS = ("box-exact", "box", "point", "point-centre", "mask")
TABLE = """
    SELECT kind, count(*) AS n, avg(iou) AS iou, avg(dice) AS dice, avg(free_iou) AS free,
           avg(is_empty::INT) AS empty, corr(predicted_iou, iou) AS corr
    FROM prompts JOIN predictions USING (run, prompt_id) WHERE run = '{run}' GROUP BY kind
"""


def copy_part(folder: Path, part: str, most: int, out: Path) -> int:
    """Copy images that pretraining keeps for validation or testing into a folder data set; return how many."""
    sources = read_sources(folder)[part]  # type: ignore[index]
    for source in sources[:: -(-len(sources) // most) if sources else 1]:
        for kind in ("images", "masks"):
            (out / kind).mkdir(parents=True, exist_ok=True)
            found = next((folder / kind).glob(f"{source.name}.*"))
            shutil.copy(found, out / kind / found.name)
    return len(sources)


def open_store(path: Path, dataset: Path, weights: Path | None) -> Store:
    if not (path / "store.toml").exists():
        stills = (dataset / "masks").exists()
        known = {"group": "none"} if stills else {}
        chosen = {"encoder": "nano@2", "checkpoint": str(weights)} if weights else {}
        new(path, NewConfig.of(dataset=str(dataset), labels="masks" if stills else "ST", **known, **chosen))
    store = Store.open(path)
    embed(store, progress=bars)
    return store


def table(store: Store, kind: str, config: EvaluateConfig) -> dict[str, dict]:  # type: ignore[type-arg]
    runs = list_runs(store.path, kind)
    run = runs[-1].id if runs else evaluate(store, None, config, progress=bars).run
    return {row["kind"]: row for row in store.sql(TABLE.format(run=run)).to_arrow_table().to_pylist()}


def score(name: str, store: Store, seeds: int) -> None:
    rows = table(store, "evaluate", EvaluateConfig(split="all", prompts=KINDS, prompt_seeds=seeds))
    swapped = EvaluateConfig(split="all", prompts=KINDS, prompt_seeds=1, foreign="turned")
    foreign = {kind: f"{row['iou']:.3f}" for kind, row in table(store, "control", swapped).items()}
    for kind in KINDS:
        row = rows[kind]
        skill = (row["iou"] - row["free"]) / (1 - row["free"])
        print(
            f"| {name} | {kind} | {row['n']} | {row['iou']:.4f} | {row['dice']:.4f} | {row['free']:.4f} | {skill:+.2f} "
            f"| {foreign[kind]} | {row['empty']:.2%} | {row['corr']:.2f} |",
            flush=True,
        )


def sheet(store: Store, path: Path) -> None:
    """Draw the six best, middle and worst cells under exact boxes: truth green, prediction magenta, box grey."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = store.sql("""
        SELECT p.frame, p.iou, rle, rle_height, rle_width, label, c.x0, c.y0, c.x1, c.y1
        FROM predictions p JOIN cells c USING (cell) JOIN runs r ON r.id = p.run
        WHERE p.prompt = 'box-exact' AND r.kind = 'evaluate' ORDER BY p.iou
    """).fetchall()
    middle = len(cells) // 2
    rows = [cells[-6:][::-1], cells[middle - 3 : middle + 3], cells[:6]]
    figure, axes = plt.subplots(3, 6, figsize=(12, 6.4))
    for line, part, what in zip(axes, rows, ("best", "median", "worst"), strict=True):
        for axis, (frame, iou, rle, height, width, label, x0, y0, x1, y1) in zip(line, part, strict=True):
            view = frame_pixels(store, frame)
            margin = max(x1 - x0, y1 - y0) // 2 + 4
            top, left = max(y0 - margin, 0), max(x0 - margin, 0)
            cut = slice(top, y1 + margin), slice(left, x1 + margin)
            mask, (x, y) = decode_crop(rle, height, width)
            whole = np.zeros((height, width), bool)
            whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
            axis.imshow(view[0][cut], cmap="gray", vmin=np.percentile(view[0][cut], 1))
            axis.contour(view[1][cut] == label, [0.5], colors="lime", linewidths=1)
            if whole[cut].any():
                axis.contour(whole[cut], [0.5], colors="magenta", linewidths=1)
            axis.add_patch(Rectangle((x0 - left - 0.5, y0 - top - 0.5), x1 - x0, y1 - y0, fill=False, color="0.6"))
            axis.set_title(f"{what} {iou:.2f}", fontsize=8)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def frame_pixels(store: Store, frame: str) -> tuple[np.ndarray, np.ndarray]:
    return store.pixels.image(frame), store.pixels.label(frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("val", "test"), default="test")
    parser.add_argument("--only", nargs="*", help="folders below --data; without it, all of them")
    parser.add_argument("--most", type=int, default=1000, metavar="N", help="images of a source at most")
    parser.add_argument("--prompt-seeds", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="a nano.safetensors of the second edition")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    sources = ["dsb2018", *(f"open/{path.name}" for path in sorted((given.data / "open").iterdir()) if path.is_dir())]
    whole = ["Fluo-N2DL-HeLa", "DIC-C2DH-HeLa"] if given.part == "test" else []
    print(
        "| data | prompt | n | IoU | Dice | image-free IoU | skill | embedding turned | empty | corr(predicted, true) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in given.only or [*sources, *whole]:
        dataset, place = given.data / name, given.out / Path(name).name
        if (dataset / "masks").exists():
            dataset = given.out / f"{place.name}-{given.part}-images"
            if not dataset.exists() and not copy_part(given.data / name, given.part, given.most, dataset):
                print(f"| {name} | no {given.part} part |", flush=True)
                continue
        store = open_store(place, dataset, given.weights)
        score(name, store, given.prompt_seeds)
        if name == "dsb2018" and given.sheet:
            sheet(store, given.sheet)


if __name__ == "__main__":
    main()
