"""`hela-store fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.text import counted
from hela_store.fitting.config import FitConfig

from .help import Command
from .options import cache_dir, device_option, json_option, new_folder
from .output import bars, echo_json, note, relative

if TYPE_CHECKING:
    from hela_store.fitting.fit import FitReport


@click.command(
    cls=Command,
    positional={"data": "Folder of images; at least some of them with label images."},
    examples=("hela-store fit frames", "hela-store fit frames --name fluo --dry-run"),
)
@click.argument("data", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--name", metavar="NAME", help="Make the store under this name or path. [default: the name of DIR]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write masks and report into this folder. [default: NAME-fit]",
)
@click.option("--encoder", default=FitConfig.encoder, show_default=True, metavar="NAME", help="Use this encoder.")
@click.option(
    "--steps", type=int, default=FitConfig.steps, show_default=True, metavar="N", help="Fine-tune for N steps at most."
)
@click.option(
    "--detector-steps",
    type=int,
    default=FitConfig.detector_steps,
    show_default=True,
    metavar="N",
    help="Train the detector for N steps at most.",
)
@click.option("--dry-run", is_flag=True, help="Print the steps and write nothing.")
@device_option
@json_option
def fit(data: Path, name: str | None, out: Path | None, dry_run: bool, as_json: bool, **choices: Any) -> None:
    """Make masks and a report of a labelled folder in one command. The same command resumes.

    It runs new, embed, finetune for boxes and points, detect train, evaluate, segment and report. It segments the
    frames of DIR that have no labels. If all frames are labelled, it segments the test frames.
    """
    from hela_store.fitting.fit import fit as fit_folder

    named = name or data.absolute().name
    config = FitConfig(
        data=data.absolute(),
        store=new_folder(named, Path.cwd()),
        out=(out or Path(f"{Path(named).name}-fit")).absolute(),
        cache_dir=cache_dir(),
        **choices,
    )
    report = fit_folder(config, dry_run=dry_run, progress=bars)
    if as_json:
        echo_json(report.to_json())
    else:
        _echo(report)


def _echo(report: FitReport) -> None:
    for line in report.decisions:
        click.echo(line)
    click.echo("")
    for step in report.steps:
        click.echo(step.command)
        if step.result:
            click.echo(f"  {step.result}" + (" (done before)" if step.done_before else ""))
    if report.dry_run:
        note("RUN-box and the like stand for the runs that earlier steps make, FRAMES for the frames to segment.")
        note("nothing was done; leave out --dry-run to run these steps")
        return
    sizes = f"{counted(report.cells or 0, 'cell')} in {counted(report.frames or 0, 'frame')}"
    click.echo(f"\n{sizes}; the masks are in {relative(report.masks)}.")
    click.echo(f"Next: open {relative(report.report)} in a browser")
