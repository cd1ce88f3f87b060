"""`hela-store segment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.segmentation.config import FORMS, DetectedConfig, SegmentConfig

from .options import cache_dir, default_checkpoint, device_option, json_option, store_or_generic_option
from .output import bars, echo_facts, echo_json, note_untrained

if TYPE_CHECKING:
    from hela_store import Store


@click.command()
@click.argument("frames", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FRAMES...")
@store_or_generic_option
@click.option(
    "--out", type=click.Path(path_type=Path), default="segmented", show_default=True, metavar="DIR", help="For results."
)
@click.option(
    "--run", "checkpoint", metavar="RUN", help="Fine-tuning run of the decoder. [default: the latest for the form]"
)
@click.option("--zero-shot", is_flag=True, help="Take the decoder the encoder came with.")
@click.option(
    "--detector",
    default=DetectedConfig.detector,
    show_default=True,
    metavar="RUN",
    help="Training run of the detector.",
)
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default=DetectedConfig.form,
    show_default=True,
    help="Given to the decoder.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least score that counts. [default: the detector's]")
@click.option("--recover", is_flag=True, help="Ask for cells that only the frames before and after show.")
@click.option(
    "--axis",
    default=SegmentConfig.axis,
    show_default=True,
    metavar="LETTER",
    help="Frames lie along this axis of stacks.",
)
@click.option("--channel", type=click.IntRange(0), help="Take this channel of several.")
@click.option(
    "--overlay/--no-overlay", default=SegmentConfig.overlay, show_default=True, help="Write PNGs with outlines."
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
    """Segment frames never seen, without labels: label images, a cell table, overlays. Run it again to go on."""
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
        echo_facts([(name.replace("_", " "), str(value)) for name, value in report.items() if value is not None])
