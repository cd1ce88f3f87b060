"""`hela-store segment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.segmentation.config import DetectedConfig, SegmentConfig

from . import verdicts
from .help import Command
from .options import (
    cache_dir,
    default_checkpoint,
    detected_options,
    device_option,
    json_option,
    store_or_generic_option,
)
from .output import bars, echo_facts, echo_json, named_facts, note_untrained, relative

if TYPE_CHECKING:
    from hela_store import Store

GROUPS = {
    "Frames": ("axis", "channel"),
    "Decoder and detector": ("store", "generic", "checkpoint", "zero_shot", "detector", "form", "threshold", "recover"),
    "Output": ("out", "overlay"),
}
"""Options by the heading of the help."""


@click.command(
    cls=Command,
    positional={"frames": "Folders of images, images or stacks (movies)."},
    groups=GROUPS,
    examples=("hela-store segment new_frames -s fluo", "hela-store segment movie.tif -s fluo --axis t --out masks"),
)
@click.argument("frames", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FRAMES...")
@store_or_generic_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="segmented",
    show_default=True,
    metavar="DIR",
    help="Write results into this folder.",
)
@detected_options
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Accept cells from this score on. Lower finds more cells and more debris. [default: the detector's]",
)
@click.option(
    "--recover",
    is_flag=True,
    help="Also look for cells that were found in the frames before and after but not in this one.",
)
@click.option(
    "--axis",
    default=SegmentConfig.axis,
    show_default=True,
    metavar="LETTER",
    help="Read frames along this axis of a stack.",
)
@click.option(
    "--channel", type=click.IntRange(0), help="Read this channel, counted from 0; needed if an image has several."
)
@click.option(
    "--overlay/--no-overlay", default=SegmentConfig.overlay, show_default=True, help="Write PNG images with outlines."
)
@device_option
@json_option
def segment(
    store: Store | None,
    frames: tuple[Path, ...],
    out: Path,
    zero_shot: bool,
    axis: str,
    channel: int | None,
    overlay: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Write masks of new frames. The same command resumes.

    The results are label images, a table of cells, and pictures with outlines. Without a trained store, --generic
    segments with the model that ships with hela-store.
    """
    import hela_store as hs

    if store is not None:
        note_untrained(store)
        chosen = None if zero_shot else choices["checkpoint"] or default_checkpoint(store, choices["form"])
        choices["checkpoint"] = chosen
    config = SegmentConfig(
        out=out,
        prompts=DetectedConfig(**choices),
        axis=axis,
        channel=channel,
        overlay=overlay,
        cache_dir=cache_dir(),
    )
    report = hs.segment(store, frames, config, progress=bars).to_json()
    if as_json:
        echo_json(report)
    else:
        echo_facts(named_facts(report))
        verdicts.segmentation(report, relative(out.absolute()), has_store=store is not None)
