"""Make a store, its embeddings, decoders, a detector, masks and a report, as `hela-store fit` does."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.datasets import DatasetSummary, inspect, open_dataset
from hela_store.detection.config import DetectorConfig
from hela_store.detection.train import train_detector
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import DatasetError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.recipe.splits import BLOCKS
from hela_store.runs.default import default_run
from hela_store.segmentation.config import DetectedConfig, SegmentConfig
from hela_store.segmentation.segment import segment
from hela_store.show.report import report
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

from . import steps
from .config import PROMPTS, FitConfig
from .split import split_of_labelled
from .steps import FitStep


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """Describe what a fit made, or would make.

    Attributes
    ----------
    store, masks, report : Path
        The store, the folder of masks, and the file of the report.
    steps : tuple of FitStep
        The commands that do the same one by one, with what came out.
    decisions : tuple of str
        What was decided, in words.
    frames, cells : int or None
        How many frames were segmented and cells found; None in a dry run.
    dry_run : bool
        Whether nothing was done.
    """

    store: Path
    masks: Path
    report: Path
    steps: tuple[FitStep, ...]
    decisions: tuple[str, ...]
    frames: int | None = None
    cells: int | None = None
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        paths = {name: str(getattr(self, name)) for name in ("store", "masks", "report")}
        plain = {"frames": self.frames, "cells": self.cells, "dry_run": self.dry_run}
        return paths | plain | {"decisions": list(self.decisions), "steps": [step.to_json() for step in self.steps]}


def fit(config: FitConfig, *, dry_run: bool = False, progress: Progress = silent) -> FitReport:
    """Go from a labelled folder to masks and a report; the same call again resumes, and keeps what is finished.

    Parameters
    ----------
    config : FitConfig
        The folder, the store, and where masks and report go.
    dry_run : bool
        Look at the folder and say what would be done; nothing is written.
    progress : callable
        Shown for each step.

    Returns
    -------
    FitReport
        With every step as a command of its own.

    Raises
    ------
    DatasetError
        The folder cannot be used as it is, or has no labels to learn from.
    StoreError
        There is a store of other data, or with another encoder; results of other settings are in the folder.
    SplitError, RunError, CheckpointError, RecipeError
        As the functions of the steps raise them.
    ExtraError
        The extra ``report`` is not installed.
    """
    known = (config.store / RECIPE_FILE).exists()
    summary = None if known else _look(config)
    split = {} if summary is None else split_of_labelled(config, summary, progress)
    if known:
        _opened(config)
    if dry_run:
        look = (
            f"{summary.labelled} of {summary.frames} frames are labelled" if summary else "the store is there already"
        )
        return _report(config, steps.planned(config, split), [look], dry_run=True)
    job = _Fit(config, progress)
    job.make_store(split)
    job.embed()
    tuned = {prompt: job.tune(prompt) for prompt in PROMPTS}
    detector = job.train_detector()
    job.evaluate(tuned)
    frames, cells = job.segment(detector)
    job.write_report()
    return _report(config, job.steps, job.decisions, frames=frames, cells=cells)


def _report(config: FitConfig, done: list[FitStep], decisions: list[str], **more: Any) -> FitReport:
    return FitReport(
        store=config.store,
        masks=steps.masks_folder(config),
        report=steps.report_file(config),
        steps=tuple(done),
        decisions=tuple(decisions),
        **more,
    )


def _look(config: FitConfig) -> DatasetSummary:
    """Look at a folder before anything is made; refuse one without labels."""
    found = inspect(config.data)
    if not found.labelled:
        raise DatasetError(
            f"{config.data} has no labels to learn from; without labels "
            f"`hela-store segment {shlex.quote(str(config.data))} --generic --out masks` makes masks with the shipped "
            "model"
        )
    return found


def _opened(config: FitConfig) -> Store:
    """Open the store of an earlier call; refuse one of other data or of another encoder."""
    store = Store.open(config.store)
    has = (store.path / store.recipe.dataset.path).resolve()
    if has != config.data.resolve():
        raise StoreError(f"{store.path} is a store of {has}, not of {config.data}; choose another name with --name")
    name = store.recipe.encoder.name or store.recipe.encoder.architecture
    if name != config.encoder:
        raise StoreError(f"{store.path} is a store of encoder {name}, not of {config.encoder}; choose another name")
    return store


class _Fit:
    """The steps of a fit, in the order in which they are called."""

    def __init__(self, config: FitConfig, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        self.steps: list[FitStep] = []
        self.decisions: list[str] = []

    def make_store(self, split: dict[str, str]) -> None:
        config, made = self._config, not (self._config.store / RECIPE_FILE).exists()
        if made:
            asked = NewConfig.of(dataset=str(config.data), encoder=config.encoder, **split)
            found = new(config.store, asked, self._progress, cache_dir=config.cache_dir)
            self.decisions += [f"{what}: {text}" for what, text in found.facts() if what and what != "store"]
        self._store = _opened(config)
        blocks = self._store.recipe.split
        if blocks.mode == "frames" and blocks.train:  # the same command, whoever made the store
            split = {f"{name}_frames": getattr(blocks, name) for name in BLOCKS}
        self._note(steps.new_command(config, split), not made, f"store {config.store}")

    def embed(self) -> None:
        about = EmbedConfig(device=self._config.device, cache_dir=self._config.cache_dir)
        found = embed(self._store, about, self._progress)
        self._note(steps.embed_command(self._config), not found.done_now, f"{found.planned} views embedded")
        self._store = Store.open(self._config.store)

    def tune(self, prompt: str) -> str:
        about = FinetuneConfig.of(prompt=prompt, steps=self._config.steps, device=self._config.device)
        found = finetune(self._store, about, cache_dir=self._config.cache_dir, progress=self._progress)
        change = f"IoU on validation {found.zero_shot.mean_iou:.3f} -> {found.tuned.mean_iou:.3f}"
        change += f", {found.verdict} for this training" if found.verdict else ", too few frames for a verdict"
        self._note(steps.finetune_command(self._config, prompt), found.reused, f"{found.run}: {change}")
        return found.run

    def train_detector(self) -> str:
        about = DetectorConfig(steps=self._config.detector_steps, device=self._config.device)
        found = train_detector(self._store, about, progress=self._progress)
        said = f"{found.run}: F1 on validation {found.f1:.3f} from score {found.threshold:.2f}"
        self._note(steps.detector_command(self._config), found.reused, said)
        return found.run

    def evaluate(self, tuned: dict[str, str]) -> None:
        asked: list[tuple[str | None, tuple[str, ...]]] = [(None, PROMPTS)]
        asked += [(run, (prompt,)) for prompt, run in tuned.items()]
        for run, prompts in asked:
            about = EvaluateConfig(prompts=prompts, device=self._config.device)
            found = evaluate(self._store, run, about, progress=self._progress)
            means = ", ".join(f"{name} {score.mean_iou:.3f}" for name, score in found.prompts.items())
            command = steps.evaluate_command(self._config, prompts, run)
            self._note(command, found.reused, f"{found.run}: mean IoU on test {means}")

    def segment(self, detector: str) -> tuple[int, int]:
        run = default_run(self._store.path, self._store.key, "box")
        decoder = None if run is None else run.id
        self.decisions.append(f"decoder of the masks: {decoder or 'zero-shot, as no fine-tuning helped on validation'}")
        files = self._files()
        prompts = DetectedConfig(checkpoint=decoder, detector=detector, device=self._config.device)
        recipe = self._store.recipe.dataset
        about = SegmentConfig(
            out=steps.masks_folder(self._config),
            prompts=prompts,
            axis=recipe.axis or SegmentConfig.axis,
            channel=recipe.channel,
            cache_dir=self._config.cache_dir,
        )
        found = segment(self._store, files, about, progress=self._progress)
        reading = ["--axis", recipe.axis] if recipe.axis else []
        reading += [] if recipe.channel is None else ["--channel", str(recipe.channel)]
        command = steps.segment_command(self._config, files, decoder, detector, reading)
        self._note(command, found.done_before == found.frames, f"{found.cells} cells in {found.frames} frames")
        return found.frames, found.cells

    def write_report(self) -> None:
        found = report(self._store, out=steps.report_file(self._config), progress=self._progress)
        self._note(steps.report_command(self._config), False, f"{found.charts} charts, {found.cards} cells")

    def _files(self) -> list[Path]:
        """Return the files of frames without labels; where all are labelled, those of the test block."""
        records, blocks = self._store.frame_records(), self._store.blocks()
        wanted = {frame for frame, record in records.items() if not record.has_label}
        what = f"the {len(wanted)} frames without labels"
        if not wanted:
            wanted = {frame for frame, block in blocks.items() if block == "test"}
            what = f"the {len(wanted)} frames of the test set, because all frames are labelled"
        entries = open_dataset(self._store.recipe.dataset, self._store.path).entries
        files = list(dict.fromkeys(entry.image.path for entry in entries if entry.id in wanted))
        others = sum(entry.image.path in set(files) for entry in entries) - len(wanted)
        more = f", and {others} other frames of the same stacks" if others else ""
        self.decisions.append(f"segmented: {what}{more}")
        return files

    def _note(self, command: str, done_before: bool, result: str) -> None:
        self.steps.append(FitStep(command=command, done_before=done_before, result=result))
