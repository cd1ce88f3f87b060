"""The default of every option is that of the setting or parameter behind it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from hela_store_cli.main import main

import hela_store as hs
from hela_store.baselines.config import ClassicalConfig, UnetConfig
from hela_store.baselines.image_free import image_free
from hela_store.baselines.unet import unet
from hela_store.bench.adapt import AdaptBenchConfig
from hela_store.bench.augment import bench_augment
from hela_store.bench.bucket import bench_bucket
from hela_store.bench.busy import BusyBenchConfig
from hela_store.bench.codec import bench_codec
from hela_store.bench.embed import bench_embed
from hela_store.bench.encode import bench_encode
from hela_store.bench.metrics import bench_metrics
from hela_store.bench.pipeline import bench_pipeline
from hela_store.bench.predict import bench_predict
from hela_store.bench.read import bench_read
from hela_store.bench.scale import bench_scale
from hela_store.bench.teach import bench_teach
from hela_store.bench.train import TrainBenchConfig
from hela_store.detection.config import DetectorConfig, YoloConfig
from hela_store.detection.detect import detect, import_boxes
from hela_store.detection.evaluate import describe_boxes, evaluate_detections
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.exchange.labels import import_labels
from hela_store.exchange.micro_sam_export import export_micro_sam
from hela_store.exchange.micro_sam_import import import_micro_sam
from hela_store.exchange.publish import PublishConfig
from hela_store.pretrain.config import PretrainConfig
from hela_store.segmentation.config import DetectedConfig
from hela_store.studies.budget_config import BudgetStudyConfig
from hela_store.vectors.similar import similar
from hela_store.workflows.new_config import NAMES as NEW
from hela_store.workflows.preview import preview


def parts(source: type | Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a dataclass or a function by name."""
    if isinstance(source, type) and is_dataclass(source):
        found = {part.name: part.default for part in fields(source)}
        return {name: value for name, value in found.items() if value is not MISSING}
    signature = inspect.signature(source).parameters.values()
    return {part.name: part.default for part in signature if part.default is not part.empty}


def new_store() -> dict[str, Any]:
    """Return the defaults of a new store by the names of its options."""
    found = {}
    for name, path in NEW.items():
        value: Any = hs.NewConfig(dataset="")
        for part in path.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


FINETUNE = hs.FinetuneConfig().flat()
SOURCES: dict[str, list[Mapping[str, Any]]] = {
    "fit": [parts(hs.FitConfig)],
    "new": [new_store()],
    "embed": [parts(hs.EmbedConfig)],
    "finetune": [FINETUNE | {"prompts": (FINETUNE["prompt"],)}],
    "sweep": [FINETUNE],
    "study": [FINETUNE, parts(hs.StudyConfig), {"test_cells": parts(BudgetStudyConfig)["test_cells"]}],
    "evaluate": [parts(hs.EvaluateConfig), parts(DetectedConfig)],
    "segment": [parts(hs.SegmentConfig), parts(DetectedConfig)],
    "mend": [parts(hs.MendConfig)],
    "baseline classical": [parts(ClassicalConfig)],
    "baseline unet": [parts(UnetConfig), parts(unet)],
    "baseline image-free": [parts(image_free)],
    "compare": [parts(hs.compare)],
    "slices": [parts(hs.slices)],
    "audit": [parts(hs.AuditConfig)],
    "detect train": [
        parts(YoloConfig) | {name: value for name, value in parts(DetectorConfig).items() if name != "batch"}
    ],
    "detect run": [parts(detect)],
    "detect evaluate": [parts(evaluate_detections) | {"run_id": parts(evaluate_detections)["run"]}],
    "detect import": [parts(import_boxes)],
    "detect calibrate": [parts(DetectedConfig)],
    "detect describe": [parts(describe_boxes)],
    "verify": [parts(hs.VerifyConfig)],
    "score": [parts(hs.score)],
    "similar": [parts(similar)],
    "report": [parts(hs.report)],
    "explore": [parts(hs.explore)],
    "teach": [parts(hs.TeachConfig), parts(hs.teach)],
    "augment preview": [parts(preview)],
    "export checkpoint": [parts(export_checkpoint)],
    "export micro-sam": [parts(export_micro_sam)],
    "import micro-sam": [parts(import_micro_sam)],
    "labels import": [parts(import_labels)],
    "publish": [parts(PublishConfig)],
    "pretrain": [parts(PretrainConfig)],
    "bench train": [parts(TrainBenchConfig)],
    "bench adapt": [parts(AdaptBenchConfig)],
    "bench augment": [parts(bench_augment)],
    "bench bucket": [parts(bench_bucket)],
    "bench busy": [parts(BusyBenchConfig)],
    "bench codec": [parts(bench_codec)],
    "bench embed": [parts(bench_embed)],
    "bench pipeline": [parts(bench_pipeline)],
    "bench encode": [parts(bench_encode)],
    "bench metrics": [parts(bench_metrics)],
    "bench predict": [parts(bench_predict)],
    "bench read": [parts(bench_read)],
    "bench scale": [parts(bench_scale)],
    "bench teach": [parts(bench_teach)],
}
"""What decides where an option is not given, by command."""
OWN = {
    *("finetune preset", "fit out", "segment out", "report out", "demo out", "score truth"),
    *("bench augment encoder", "bench encode encoder", "baseline classical seeds", "baseline unet seeds"),
    *(
        f"{words} labels_version"
        for words in (
            *("finetune", "sweep", "study", "evaluate", "baseline classical", "baseline unet", "baseline image-free"),
            *("detect train", "detect run", "detect evaluate", "detect import", "detect calibrate", "detect describe"),
            "labels export",
        )
    ),
}
"""Options whose default is the command line's alone: the library has no such parameter, or none without a value.

Which version of the labels is read is a property of the store in the library, see ``Store.at_labels``.
"""


def commands(command: click.Command, *words: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from commands(below, *words, name)


def defaults(command: click.Command) -> Iterator[tuple[str, Any]]:
    """Yield (option, default) of every option whose help or value says what holds where it is not given."""
    context = click.Context(command)
    for option in command.params:
        if not isinstance(option, click.Option) or option.name is None:
            continue
        value = option.get_default(context)
        told = re.search(r"\[default: ([^\] ]+)\]", option.help or "")
        if isinstance(value, str | int | float | Path | tuple | list) and value not in (False, ()):
            yield option.name, value
        elif told is not None:
            yield option.name, told.group(1)


FOUND = [(words, name, value) for words, command in commands(main) for name, value in defaults(command)]


def test_both_detectors_have_the_defaults_that_their_help_shares() -> None:
    grid, yolo = parts(DetectorConfig), parts(YoloConfig)
    assert all(grid[name] == yolo[name] for name in ("steps", "seed", "device"))


@pytest.mark.parametrize(("words", "name", "value"), FOUND, ids=lambda part: str(part).replace(" ", "-"))
def test_a_default_is_that_of_the_setting(words: str, name: str, value: Any) -> None:
    behind = [source[name] for source in SOURCES.get(words, []) if name in source]
    assert bool(behind) != (f"{words} {name}" in OWN), "name what decides in SOURCES, or that nothing does in OWN"
    for default in behind:
        if default in (None, ()):
            assert isinstance(value, str) and value.isalpha()  # a word for what that means
        elif isinstance(default, int | float) and not isinstance(default, bool):
            assert float(value) == default
        else:
            assert value == default
