"""`hela-store teach`."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.teaching.config import RULES, TeachConfig

from .help import Command
from .options import cache_dir, new_folder, store_or_frames
from .output import bars, note, relative

if TYPE_CHECKING:
    from hela_store import Store


@click.command(
    cls=Command,
    positional={"frames": "Folder of images, or a stack, that becomes a store under ./stores."},
    examples=("hela-store teach -s fluo", "hela-store teach path/to/frames --who anna"),
)
@store_or_frames
@click.option(
    "--sequence",
    metavar="NAME",
    help="Teach this sequence of FRAMES, such as 01. [default: the only one there]",
)
@click.option(
    "--next",
    type=click.Choice(RULES),
    default=TeachConfig.next,
    show_default=True,
    help="How the next cell is chosen: at random, by how doubtful its mask is, by how unlike the labelled cells it is, "
    "by how differently two decoders draw it, or by how little it fits to the frames before and after.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=TeachConfig.every,
    show_default=True,
    help="Fine-tune the decoder after every N accepted cells.",
)
@click.option(
    "--held",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=TeachConfig.held,
    show_default=True,
    help="Set this share of the cells aside to judge the decoder. They are not trained on in any frame.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=TeachConfig.seconds,
    show_default=True,
    help="Let a fine-tuning with its scoring take X seconds; it makes as many training steps as fit.",
)
@click.option("--who", metavar="NAME", help="Keep this name with every label. [default: your user name]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Listen on this port; 0: any free one. `explore` has the same default, so give one of them another port.",
)
def teach(
    store: Store | None, frames: Path | None, sequence: str | None, who: str | None, port: int, **how: Any
) -> None:
    """Label cells in your browser while the decoder learns.

    Hover over a cell to see its mask, and click to take it. Every label is on disk before the page says that it is
    saved, and can be undone later. With FRAMES the page opens when the first frame is encoded, and the others follow.
    Only this machine reaches the page, with the address that is printed. Ctrl-C ends it.
    """
    import hela_store as hs

    config = TeachConfig(who=who or getpass.getuser(), **how)
    if frames is None and sequence is not None:
        raise click.UsageError("--sequence chooses a sequence of FRAMES; leave it out, or give FRAMES")
    if frames is not None:
        from hela_store.teaching.prepare import store_name, store_of_frames

        path = new_folder(store_name(frames, sequence or ""), Path.cwd())
        about: dict[str, Any] = {"sequence": sequence or "", "cache_dir": cache_dir(), "progress": bars}
        store = hs.Store.open(store_of_frames(frames, path, **about).path)
        note(f"the store is {relative(path)}; the page opens when its first frame is encoded")
    assert store is not None
    hs.teach(store, config, port=port, ahead=frames is not None, cache_dir=cache_dir(), started=click.echo)
    note("stopped; every label that the page showed as saved is in the store")
