"""`hela-store detect`: find cells without ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.text import counted
from hela_store.detection.config import IMPORTED, STARTS, DetectorConfig, YoloConfig
from hela_store.recipe.splits import SPLITS
from hela_store.segmentation.config import DetectedConfig

from . import verdicts
from .help import RUN, Command, Group
from .options import (
    default_checkpoint,
    detected_options,
    device_option,
    json_option,
    labels_version_option,
    setting_option,
    store_option,
)
from .output import bars, echo_facts, echo_json, echo_table, named_facts, note, note_reused, note_untrained, say

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.detection.evaluate import DetectionReport
    from hela_store.detection.train import DetectorResult

BACKENDS = ("grid", "yolo11")
GRID, YOLO = vars(DetectorConfig()), vars(YoloConfig())
"""Settings of each backend, with their defaults."""
GRID_ONLY = ("lr", "start", "width", "patience", "variants", "workers")
YOLO_ONLY = ("batch", "image_size", "weights")
GROUPS = {
    "What is trained": ("store", "labels_version", "backend", "steps", "seed"),
    "Only for grid": GRID_ONLY,
    "Only for yolo11": YOLO_ONLY,
}
"""Options by the heading of the help."""
DESCRIBED = {
    "cx": "centre from the left, share of the width",
    "cy": "centre from the top, share of the height",
    "width": "width, px",
    "height": "height, px",
}
"""What `detect describe` calls the numbers of a box."""


@click.group(cls=Group)
def detect() -> None:
    """Find cells without labels. The found cells become prompts for the decoder."""


@detect.command(
    cls=Command,
    groups=GROUPS,
    examples=("hela-store detect train -s fluo", "hela-store detect train -s fluo --start generic"),
)
@store_option
@labels_version_option
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=DetectorConfig.backend,
    show_default=True,
    help="Choose the detector: grid, our small network on the stored embeddings, or yolo11 (AGPL-3.0), which reads "
    "images.",
)
@setting_option(GRID, "steps", "Train for at most N optimiser steps.", type=click.IntRange(1), metavar="N")
@setting_option(GRID, "seed", "Set the random seed for weights and order.", type=int)
@setting_option(GRID, "lr", "Set the learning rate at its peak.", type=float)
@setting_option(
    GRID,
    "start",
    "Start from random weights, or from those of the generic detector that ships with nano.",
    type=click.Choice(STARTS),
)
@setting_option(
    GRID,
    "width",
    "Give the network N channels: wider learns more from many cells, and is slower. [default: 64, or as in "
    "the weights it starts with]",
    type=click.IntRange(8),
    metavar="N",
)
@setting_option(
    GRID,
    "patience",
    "Stop after N validations without improvement; 0: never.",
    type=click.IntRange(0),
    metavar="N",
)
@setting_option(
    GRID,
    "variants",
    "Train on N augmented variants per view. [default: all stored]",
    type=click.IntRange(0),
    metavar="N",
)
@setting_option(GRID, "workers", "Prepare batches in N processes.", type=click.IntRange(0), metavar="N")
@setting_option(YOLO, "batch", "Train on N views per step.", type=click.IntRange(2), metavar="N")
@setting_option(YOLO, "image_size", "Resize views to this side, in pixels.", type=click.IntRange(64), metavar="PX")
@setting_option(
    YOLO,
    "weights",
    "Start from the weights in this safetensors file.",
    type=click.Path(path_type=Path),
    metavar="FILE",
)
@click.option("--fresh", is_flag=True, help="Train again, even if such a detector is finished or was interrupted.")
@device_option
@json_option
def train(store: Store, backend: str, fresh: bool, as_json: bool, **choices: Any) -> None:
    """Train a detector on the training frames. Its threshold is chosen on the validation frames."""
    given = _given(backend, choices)
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
    # segment takes the latest detector; yolo11 reads images, and new frames have none of its boxes
    then = "segment FRAMES" if backend == "grid" else f"detect run --detector {result.run}"
    _tell(result, as_json, then)


def _given(backend: str, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, all of them of this backend."""
    given = {name: value for name, value in choices.items() if value is not None}
    for name in {"grid": YOLO_ONLY, "yolo11": GRID_ONLY}[backend]:
        if name in given:
            raise click.UsageError(f"--{name.replace('_', '-')} is no option of --backend {backend}")
    return given


def _tell(result: DetectorResult, as_json: bool, then: str) -> None:
    if as_json:
        echo_json(result.to_json())
        return
    told = {name: value for name, value in result.to_json().items() if name not in ("reused", "split", "seconds")}
    echo_facts([*named_facts(told), ("time", f"{result.seconds:.0f} s")])
    say("Precision, recall and F1 are of boxes with IoU 0.5 or more, on the validation frames.")
    say("These frames also chose the threshold and the step, so the numbers may be slightly too high.")
    verdicts.detector(result.f1)
    verdicts.next_step(then)


@detect.command(cls=Command, examples=("hela-store detect run -s fluo --split test",))
@store_option
@labels_version_option
@click.option(
    "--detector", default="latest", show_default=True, metavar="RUN", help=f"Use this trained detector. RUN is {RUN}."
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Choose the frames to look at.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Accept cells from this score on. Lower finds more cells and more debris. [default: the detector's]",
)
@click.option("--fresh", is_flag=True, help="Make another run, even if the same one is finished.")
@device_option
@json_option
def run(store: Store, detector: str, as_json: bool, **choices: Any) -> None:
    """Find the cells of the test or other frames, as a run.

    In frames with labels, the run also records to which labelled cell each detection belongs.
    """
    from hela_store.detection.detect import detect as find

    result = find(store, detector, **choices, progress=bars)
    if result.reused:
        note_reused(result.run)
    _echo(result.to_json(), as_json, "detect evaluate")


@detect.command(cls=Command, examples=("hela-store detect evaluate -s fluo --run latest",))
@store_option
@labels_version_option
@click.option(
    "--run",
    "run_id",
    default="latest",
    show_default=True,
    metavar="RUN",
    help=f"Score this `detect run`. RUN is {RUN}.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    help="Score only these frames. [default: all frames that the detection run looked at]",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Accept cells from this score on. Lower finds more cells and more debris. [default: the run's]",
)
@json_option
def evaluate(store: Store, run_id: str, split: str | None, threshold: float | None, as_json: bool) -> None:
    """Score a detection run by box and by mask.

    It prints F1, average precision, and recall by kind of cell.
    """
    from hela_store.detection.evaluate import evaluate_detections

    report = evaluate_detections(store, run_id, split=split, threshold=threshold, progress=bars)
    if as_json:
        echo_json(report.to_json())
    else:
        _echo_report(report)
        verdicts.detection(store, report)


@detect.command(
    "import",
    cls=Command,
    positional={"boxes": "Table of boxes (.parquet or .csv), or a folder of YOLO label files."},
    examples=("hela-store detect import -s fluo boxes.csv",),
)
@store_option
@labels_version_option
@click.argument("boxes", type=click.Path(path_type=Path), metavar="BOXES")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=IMPORTED,
    show_default=True,
    help="Accept boxes from this score on.",
)
@json_option
def import_(store: Store, boxes: Path, threshold: float, as_json: bool) -> None:
    """Keep the boxes of another detector as a run.

    In frames with labels, the run also records to which labelled cell each box belongs.
    """
    from hela_store.detection.detect import import_boxes

    _echo(import_boxes(store, boxes, threshold=threshold, progress=bars).to_json(), as_json, "detect evaluate")


@detect.command(cls=Command, examples=("hela-store detect calibrate -s fluo",))
@store_option
@labels_version_option
@detected_options
@device_option
@json_option
def calibrate(store: Store, zero_shot: bool, as_json: bool, **choices: Any) -> None:
    """Learn how far a cell's mask can be trusted.

    It learns this on the validation frames. `segment` then flags the 5 % of cells that are trusted least, in its table.
    """
    from dataclasses import asdict

    from hela_store.segmentation.evaluate import calibrate as fit

    choices["checkpoint"] = None if zero_shot else choices["checkpoint"] or default_checkpoint(store, choices["form"])
    run_id, found = fit(store, DetectedConfig(**choices), progress=bars)
    if as_json:
        echo_json({"run": run_id} | asdict(found))
    else:
        verdicts.calibration(run_id, found)


@detect.command(cls=Command, examples=("hela-store detect describe -s fluo --split val",))
@store_option
@labels_version_option
@click.option(
    "--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Choose the frames to describe."
)
@json_option
def describe(store: Store, split: str, as_json: bool) -> None:
    """Describe the sizes and positions of labelled cells.

    With --json it also prints how often each combination of position and size occurs, as histograms.
    """
    from hela_store.detection.evaluate import describe_boxes

    found = describe_boxes(store, split)
    if as_json:
        echo_json(found)
    else:
        rows = [[DESCRIBED[name], *values] for name, values in found["quantiles"].items() if values]
        echo_table([f"{found['n']} boxes", "min", "5 %", "median", "95 %", "max"], rows)
        verdicts.next_step("detect train")


def _echo(result: dict[str, Any], as_json: bool, then: str = "") -> None:
    if as_json:
        echo_json(result)
    else:
        echo_facts(named_facts({name: value for name, value in result.items() if name != "reused"}))
        if then:
            verdicts.next_step(then)


def _echo_report(report: DetectionReport) -> None:
    sizes = f"{counted(report.frames, 'frame')}, {counted(report.cells, 'cell')}"
    say(f"run {report.run}, split {report.split}, {sizes}")
    say(f"Detections with a score of {report.threshold:g} or more count.")
    names = ["tp", "fp", "fn", "precision", "recall", "f1", "iou"]
    parts = [("box", report.boxes), ("coarse mask", report.masks)]
    rows = [[f"{what} IoU {iou}", *(at[n] for n in names)] for what, part in parts for iou, at in part.items()]
    echo_table(["matched by", *names[:5], "F1", "mean IoU"], rows)
    if report.masks:
        say("Coarse masks are the detector's own; `segment` writes the decoder's masks, which are finer.")
    say(f"AP at IoU 0.5: {report.ap50:.3f}, at 0.75: {report.ap75:.3f}, mean over 0.5 to 0.95: {report.ap50_95:.3f}")
    echo_table(["recall of", "n", "recall"], [[k, v["n"], v["recall"]] for k, v in report.recall_by.items()])
    if report.seconds_per_frame is not None:
        click.echo(f"{report.seconds_per_frame:.3f} s per frame, {report.seconds_per_view:.3f} s per view")
