"""The commands that a fit stands for, as a user would type them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .config import PROMPTS, FitConfig

MOST_FILES = 3
"""So many files are named in a command that is shown."""


@dataclass(frozen=True, kw_only=True)
class FitStep:
    """One step of a fit.

    Attributes
    ----------
    command : str
        The command that does this step alone.
    done_before : bool
        Whether an earlier call had done it.
    result : str
        What came out, in words; empty in a dry run.
    """

    command: str
    done_before: bool = False
    result: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def typed(*words: str | Path) -> str:
    """Return a command of ``hela-store`` as it is typed."""
    return shlex.join(["hela-store", *map(str, words)])


def new_command(config: FitConfig, split: Mapping[str, str]) -> str:
    """Return the command that makes the store."""
    blocks = [word for name, frames in split.items() for word in (f"--{name.replace('_', '-')}", frames)]
    return typed("new", config.store, "--dataset", config.data, "--encoder", config.encoder, *blocks)


def embed_command(config: FitConfig) -> str:
    """Return the command that embeds."""
    return typed("embed", "-s", config.store)


def finetune_command(config: FitConfig, prompt: str) -> str:
    """Return the command that fine-tunes for a prompt."""
    return typed("finetune", "-s", config.store, "--prompt", prompt, "--steps", str(config.steps))


def detector_command(config: FitConfig) -> str:
    """Return the command that trains the detector."""
    return typed("detect", "train", "-s", config.store, "--steps", str(config.detector_steps))


def evaluate_command(config: FitConfig, prompts: Sequence[str], run: str | None = None) -> str:
    """Return the command that scores a run, or the zero-shot decoder, on the test block."""
    scored = ["--run", run] if run else ["--zero-shot"]
    return typed("evaluate", *scored, "-s", config.store, "--prompt", *prompts)


def segment_command(
    config: FitConfig, files: Sequence[Path], run: str | None, detector: str, reading: Sequence[str] = ()
) -> str:
    """Return the command that segments files; ``reading`` are the options that say how; of many files few are named."""
    named = [*map(str, files[:MOST_FILES])] + (["..."] if len(files) > MOST_FILES else [])
    decoder = ["--run", run] if run else ["--zero-shot"]
    out = ["--out", str(masks_folder(config))]
    return typed("segment", *named, "-s", config.store, *decoder, "--detector", detector, *reading, *out)


def report_command(config: FitConfig) -> str:
    """Return the command that writes the report."""
    return typed("report", "-s", config.store, "--out", report_file(config))


def masks_folder(config: FitConfig) -> Path:
    """Return the folder into which masks are written."""
    return config.out / "masks"


def report_file(config: FitConfig) -> Path:
    """Return the file of the report."""
    return config.out / "report.html"


def planned(config: FitConfig, split: Mapping[str, str]) -> list[FitStep]:
    """Return what a fit will do; runs that are not there yet are called by what they are."""
    commands = [
        new_command(config, split),
        embed_command(config),
        *(finetune_command(config, prompt) for prompt in PROMPTS),
        detector_command(config),
        evaluate_command(config, PROMPTS),
        *(evaluate_command(config, [prompt], f"RUN-{prompt}") for prompt in PROMPTS),
        segment_command(config, [Path("FRAMES")], "RUN-box", "RUN-detector"),
        report_command(config),
    ]
    return [FitStep(command=command) for command in commands]
