"""`hela-store detect`: find cells without ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.detection.config import IMPORTED, DetectorConfig, YoloConfig
from hela_store.recipe.splits import SPLITS
from hela_store.segmentation.config import FORMS, DetectedConfig

from .options import default_checkpoint, device_option, json_option, setting_option, store_option
from .output import bars, echo_facts, echo_json, echo_table, note, note_reused, note_untrained

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.detection.evaluate import DetectionReport

BACKENDS = ("grid", "yolo11")
GRID, YOLO = vars(DetectorConfig()), vars(YoloConfig())
"""Settings of each backend, with their defaults."""


@click.group()
def detect() -> None:
    """Find cells without ground truth: prompts for the decoder."""


@detect.command()
@store_option
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=DetectorConfig.backend,
    show_default=True,
    help="yolo11: AGPL-3.0.",
)
@setting_option(GRID, "steps", "Optimiser steps at most.", type=click.IntRange(1), metavar="N")
@setting_option(GRID, "seed", "Of weights and order.", type=int)
@setting_option(GRID, "lr", "[grid] Learning rate at its peak.", type=float)
@setting_option(GRID, "variants", "[grid] Augmented ones. [default: all stored]", type=click.IntRange(0), metavar="N")
@setting_option(GRID, "workers", "[grid] Processes that prepare batches.", type=click.IntRange(0), metavar="N")
@setting_option(YOLO, "batch", "[yolo11] Views a step.", type=click.IntRange(2), metavar="N")
@setting_option(YOLO, "image_size", "[yolo11] Side of a view.", type=click.IntRange(64), metavar="PX")
@setting_option(YOLO, "weights", "[yolo11] safetensors to begin with.", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--fresh", is_flag=True, help="Train another one, even if this very one is finished or interrupted.")
@device_option
@json_option
def train(store: Store, backend: str, fresh: bool, as_json: bool, **choices: Any) -> None:
    """Train a detector on the train block; its threshold is chosen on validation."""
    given = {name: value for name, value in choices.items() if value is not None}
    for name in {"grid": ("batch", "image_size", "weights"), "yolo11": ("lr", "variants", "workers")}[backend]:
        if name in given:
            raise click.UsageError(f"--{name.replace('_', '-')} is no option of --backend {backend}")
    note_untrained(store)
    if backend == "grid":
        from hela_store.detection.train import train_detector

        result = train_detector(store, DetectorConfig(**given), fresh=fresh, progress=bars)
    else:
        from hela_store.detection.yolo11.train import LICENCE, train_yolo

        note(f"note: {LICENCE}")
        result = train_yolo(store, YoloConfig(**given), fresh=fresh, progress=bars)
    if result.reused:
        note_reused(result.run)
    _echo(result.to_json(), as_json)


@detect.command()
@store_option
@click.option("--detector", default="latest", show_default=True, metavar="RUN", help="Training run of the detector.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Frames to look at.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least score that counts. [default: the detector's]")
@click.option("--fresh", is_flag=True, help="Make another run, even if this very one is finished.")
@device_option
@json_option
def run(store: Store, detector: str, as_json: bool, **choices: Any) -> None:
    """Find the cells of every frame of a split and keep them as a run."""
    from hela_store.detection.detect import detect as find

    result = find(store, detector, **choices, progress=bars)
    if result.reused:
        note_reused(result.run)
    _echo(result.to_json(), as_json)


@detect.command()
@store_option
@click.option("--run", "run_id", default="latest", show_default=True, metavar="RUN", help="Detection run to score.")
@click.option("--split", type=click.Choice(SPLITS), help="Part of its frames. [default: all it looked at]")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least score that counts. [default: the run's]")
@json_option
def evaluate(store: Store, run_id: str, split: str | None, threshold: float | None, as_json: bool) -> None:
    """Score a detection run: one-to-one by box and by mask, average precision, curves, recall by kind of cell."""
    from hela_store.detection.evaluate import evaluate_detections

    report = evaluate_detections(store, run_id, split=split, threshold=threshold, progress=bars)
    if as_json:
        echo_json(report.to_json())
    else:
        _echo_report(report)


@detect.command("import")
@store_option
@click.argument("boxes", type=click.Path(path_type=Path), metavar="FILE.parquet|.csv|LABELS/")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), default=IMPORTED, show_default=True, help="Least score to count."
)
@json_option
def import_(store: Store, boxes: Path, threshold: float, as_json: bool) -> None:
    """Keep the boxes of another detector as a run: a table, or a folder of YOLO label files."""
    from hela_store.detection.detect import import_boxes

    _echo(import_boxes(store, boxes, threshold=threshold, progress=bars).to_json(), as_json)


@detect.command()
@store_option
@click.option(
    "--run", "checkpoint", metavar="RUN", help="Fine-tuning run of the decoder. [default: the latest for the form]"
)
@click.option("--zero-shot", is_flag=True, help="The decoder the encoder came with.")
@click.option(
    "--detector",
    default=DetectedConfig.detector,
    show_default=True,
    metavar="RUN",
    help="Training run of the detector.",
)
@click.option("--form", type=click.Choice(FORMS), default=DetectedConfig.form, show_default=True, help="As used.")
@device_option
@json_option
def calibrate(store: Store, zero_shot: bool, as_json: bool, **choices: Any) -> None:
    """Learn on validation how far a cell's mask can be trusted; `segment` flags the least trusted 5 %."""
    from dataclasses import asdict

    from hela_store.segmentation.evaluate import calibrate as fit

    choices["checkpoint"] = None if zero_shot else choices["checkpoint"] or default_checkpoint(store, choices["form"])
    run_id, found = fit(store, DetectedConfig(**choices), progress=bars)
    _echo({"run": run_id} | asdict(found), as_json)


@detect.command()
@store_option
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Which cells.")
@json_option
def describe(store: Store, split: str, as_json: bool) -> None:
    """Describe the boxes of a split: sizes and positions; --json has the histograms of a correlogram."""
    from hela_store.detection.evaluate import describe_boxes

    found = describe_boxes(store, split)
    if as_json:
        echo_json(found)
    else:
        rows = [[name, *values] for name, values in found["quantiles"].items() if values]
        echo_table([f"{found['n']} boxes", "min", "5 %", "median", "95 %", "max"], rows)


def _echo(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(result)
    else:
        shown = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in result.items()}
        echo_facts([(name.replace("_", " "), value) for name, value in shown.items() if value != "None"])


def _echo_report(report: DetectionReport) -> None:
    click.echo(f"run {report.run}, split {report.split}, {report.frames} frames, {report.cells} cells")
    click.echo(f"scores of {report.threshold:g} and more count")
    names = ["tp", "fp", "fn", "precision", "recall", "f1", "iou"]
    parts = [("box", report.boxes), ("mask", report.masks)]
    rows = [[f"{what} IoU {iou}", *(at[n] for n in names)] for what, part in parts for iou, at in part.items()]
    echo_table(["matched by", *names[:5], "F1", "mean IoU"], rows)
    click.echo(f"AP50 {report.ap50:.4f}, AP75 {report.ap75:.4f}, AP50:95 {report.ap50_95:.4f}")
    echo_table(["recall of", "n", "recall"], [[k, v["n"], v["recall"]] for k, v in report.recall_by.items()])
    if report.seconds_per_frame is not None:
        click.echo(f"{report.seconds_per_frame:.3f} s a frame, {report.seconds_per_view:.4f} s a view")
