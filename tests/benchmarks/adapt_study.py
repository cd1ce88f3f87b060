"""When to adapt what: zero-shot, the decoder, LoRA in it, LoRA and Conv-LoRA in the encoder, and all of the encoder.

    python tests/benchmarks/adapt_study.py --data ../shared/data/Fluo-N2DL-HeLa --tile 512 --out /tmp/adapt-fluo
    python tests/benchmarks/adapt_study.py --data ../shared/data/DIC-C2DH-HeLa --tile none --out /tmp/adapt-dic

Every arm tunes for the same number of steps on the same batches and prompts. Its learning rate is the one of ``--lrs``
that is best on validation with seed 0; the best step is chosen on validation, too, and test is scored once a run.
Adapted encoders embed the test block alone, and these embeddings are removed once they are scored. One store under
``--out`` and ``results.jsonl`` beside it are kept: the same command again does only what is missing. Prints Markdown:
means over seeds, gains over zero-shot and over the tuned decoder with their 95 % intervals over tracks, frames and seeds, seconds
and bytes. ``--tiny`` tries everything on a drawn sequence.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from hela_store_cli.output import bars

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.encoders import adapts_encoder, store_of
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.recipe.recipe import BLOCKS
from hela_store.runs.folder import load_run
from hela_store.store.store import Store
from hela_store.studies.rows import study_row
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune, source_of
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

PROMPT = "box"
DECODER = "decoder"


def arms(blocks: int, rank: int) -> dict[str, dict[str, Any]]:
    """Return what each arm says of a fine-tuning."""
    half, late = blocks // 2, blocks - max(1, blocks // 6)
    lora: dict[str, Any] = {"adapt": "encoder", "rank": rank}
    return {
        DECODER: {},
        "decoder LoRA": {"adapt": "decoder", "rank": rank},
        f"encoder LoRA, cut {half}": lora | {"cut": half},
        f"encoder LoRA, cut {late}": lora | {"cut": late},
        f"encoder Conv-LoRA, cut {half}": lora | {"cut": half, "conv": True},
        f"encoder, blocks after cut {half}": {"adapt": "encoder-full", "cut": half},
        "encoder, full": {"adapt": "encoder-full", "cut": 0},
    }


def make_store(arguments: argparse.Namespace) -> Store:
    path = arguments.out / "store"
    if not (path / "store.toml").exists():
        if arguments.tiny:
            drawn = SyntheticConfig(frames=14, shape=(192, 256), cells=10)
            blocks = {"train_frames": "0-5", "val_frames": "7-7", "test_frames": "9-13"}
            new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
        else:
            how = {"encoder": arguments.encoder, "checkpoint": arguments.checkpoint, "tile": arguments.tile}
            new(path, NewConfig.of(dataset=str(arguments.data), sequences=("01",), **how))
    return Store.open(path)


def bytes_of(paths: list[Path]) -> float:
    there = [path.stat().st_size for path in paths if path.exists()]
    return sum(there) / len(there) if there else 0.0


def view_bytes(store: Store) -> float:
    return bytes_of([store.arrays.chunk_path(store.key, row) for row in store.committed().values()])


def tune(store: Store, how: dict[str, Any], seed: int, lr: float, arguments: argparse.Namespace) -> dict[str, Any]:
    config = FinetuneConfig.of(
        prompt=PROMPT,
        seed=seed,
        lr=lr,
        steps=arguments.steps,
        workers=arguments.workers,
        device=arguments.device,
        evaluate_every=max(1, arguments.steps // arguments.validations),
        validation_cells=arguments.validation_cells,
        **how,
    )
    source = source_of(store, config)
    cut = None if config.adapt is None else config.adapt.cut
    if cut:
        embed(store, EmbedConfig(splits=("train", "val"), cut=cut, device=arguments.device), progress=bars)
    start = time.perf_counter()
    result = finetune(store, config, progress=bars)
    seconds = time.perf_counter() - start
    run = load_run(store.path, result.run)
    kept = sum(path.stat().st_size for path in run.path.glob("*.safetensors"))
    about = {"run": run.id, "val": result.tuned.mean_iou, "best_step": result.best_step, "seconds": seconds}
    return about | {"run_bytes": kept, "view_bytes": 0.0 if cut == 0 else view_bytes(source)}


def score(store: Store, run: str | None, arguments: argparse.Namespace) -> dict[str, Any]:
    info = None if run is None else load_run(store.path, run)
    mine, seconds = store_of(store, info), 0.0
    if info is not None and adapts_encoder(info):
        report = embed(store, EmbedConfig(splits=("test",), adapter=run, device=arguments.device), progress=bars)
        seconds = report.seconds / report.done_now if report.seconds and report.done_now else float("nan")
    config = EvaluateConfig(
        split="test", prompts=(PROMPT,), prompt_seeds=arguments.prompt_seeds, device=arguments.device
    )
    found = evaluate(store, run, config, progress=bars)
    if mine.key != store.key:
        mine.arrays.storage.remove(f"embeddings/{mine.key}")
        shutil.rmtree(mine.ledger().path)
    return {"evaluation": found.run, "embed_seconds": seconds}


class Log:
    """Rows by what they are about, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, make: Callable[[], dict[str, Any]], **about: Any) -> dict[str, Any]:
        """Return the row about this, made now if there is none."""
        rows: list[dict[str, Any]] = (
            [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        )
        for row in rows:
            if all(row.get(name) == value for name, value in about.items()):
                return row
        row = about | make()
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row


def run_arm(
    store: Store, log: Log, arm: str, how: dict[str, Any], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each seed, with the learning rate that is best on validation with seed 0."""

    def tuned(seed: int, lr: float) -> dict[str, Any]:
        about = {"what": "tune", "arm": arm, "seed": seed, "lr": lr, "steps": arguments.steps}
        return log.get(lambda: tune(store, how, seed, lr, arguments), **about)

    lr = max(arguments.lrs, key=lambda lr: tuned(0, lr)["val"])
    rows = []
    for seed in range(arguments.seeds):
        row = tuned(seed, lr)
        rows.append(row | log.get(partial(score, store, row["run"], arguments), what="score", of=row["run"]))
    return rows


def gain(store: Store, before: list[str], after: list[str]) -> str:
    rows = compare(store, [before, after], metric="iou").rows
    found = next(row for row in rows if row.prompt == PROMPT and row.subset == "all").per_cell
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {found.word}"


def report(store: Store, zero: str, results: dict[str, list[dict[str, Any]]]) -> None:
    first = study_row(store, "zero-shot", PROMPT, [zero])
    print(
        "| arm | lr | val IoU | test IoU | HD95, px | gain over zero-shot (95 %) | gain over the decoder (95 %) | "
        "s of tuning | s a view, re-embedding | MiB a view read | MiB a run |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    print(f"| image-free | | | {first.free_iou:.4f} | | | | | | | |")
    print(f"| zero-shot | | | {first.iou:.4f} | {first.hd95:.2f} | | | | | {view_bytes(store) / 2**20:.2f} | |")
    base = [row["evaluation"] for row in results[DECODER]]
    for arm, rows in results.items():
        scored = [row["evaluation"] for row in rows]
        line = study_row(store, arm, PROMPT, scored)
        mean = {
            n: fmean(row[n] for row in rows) for n in ("val", "seconds", "embed_seconds", "run_bytes", "view_bytes")
        }
        spread = "" if len(line.iou_runs) < 2 else f" ({', '.join(format(iou, '.4f') for iou in line.iou_runs)})"
        over = "" if arm == DECODER else gain(store, base, scored)
        print(
            f"| {arm} | {rows[0]['lr']:g} | {mean['val']:.4f} | {line.iou:.4f}{spread} | {line.hd95:.2f} | "
            f"{gain(store, [zero], scored)} | {over} | {mean['seconds']:.0f} | {mean['embed_seconds']:.2f} | "
            f"{mean['view_bytes'] / 2**20:.2f} | {mean['run_bytes'] / 2**20:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tile", default="512", help="px, or none for whole frames")
    parser.add_argument("--encoder", default="nano", choices=list(BLOCKS))
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--arms", nargs="*", help="only those whose names begin so; the decoder is always there")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lrs", type=float, nargs="*", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--validations", type=int, default=5)
    parser.add_argument("--validation-cells", type=int, default=300)
    parser.add_argument("--prompt-seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if not arguments.tiny and arguments.data is None:
        parser.error("--data is missing (or give --tiny)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    store, log = make_store(arguments), Log(arguments.out / "results.jsonl")
    embed(store, EmbedConfig(splits=("train", "val", "test"), device=arguments.device), progress=bars)
    zero = log.get(lambda: score(store, None, arguments), what="score", of="zero-shot")["evaluation"]
    ways = arms(BLOCKS[store.recipe.encoder.architecture], arguments.rank)
    asked = tuple(arguments.arms or [""])
    ways = {arm: how for arm, how in ways.items() if arm == DECODER or arm.startswith(asked)}
    report(store, zero, {arm: run_arm(store, log, arm, how, arguments) for arm, how in ways.items()})


if __name__ == "__main__":
    main()
