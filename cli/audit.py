"""`hela-store audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hela_store.audit.config import AuditConfig
from hela_store.base.text import counted, percent

from . import verdicts
from .help import Command
from .options import device_option, json_option, store_option
from .output import NOTHING, bars, echo_json, echo_table, note, note_reused, note_untrained, say

if TYPE_CHECKING:
    from hela_store import Store

DEFAULT = AuditConfig()


@click.command(
    cls=Command, examples=("hela-store audit -s fluo", "hela-store audit -s fluo --folds 3 --steps 80 --json")
)
@store_option
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=DEFAULT.folds,
    show_default=True,
    help="Split the frames into N parts in time; each is judged by a decoder fine-tuned on the others.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=DEFAULT.steps,
    show_default=True,
    help="Fine-tune the decoder of each part for N steps.",
)
@click.option(
    "--faults",
    type=click.FloatRange(0, 1, min_open=True),
    default=DEFAULT.faults,
    show_default=True,
    help="Calibrate with faults injected into copies of this share of the labels.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=DEFAULT.seed,
    show_default=True,
    help="Set the random seed for the decoders and the injected faults.",
)
@click.option("--fresh", is_flag=True, help="Audit again, even if the same audit is finished.")
@device_option
@json_option
def audit(store: Store, fresh: bool, as_json: bool, **settings: Any) -> None:
    """Rank the labels by how suspicious they are. The same command resumes.

    Places that lack a label are ranked with them.

    The frames are split into parts in time. Each label is judged by a decoder that was fine-tuned on the other parts,
    by a detector, by the frames before and after, and by its shape. The ranking is kept as a run, whose rows are the
    table suspects.
    """
    import hela_store as hs

    note_untrained(store)
    found = hs.audit(store, hs.AuditConfig(**settings), fresh=fresh, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    if found.reused:
        note_reused(found.run)
    sizes = f"{counted(found.labels, 'label')} of {counted(found.frames, 'frame')}"
    say(f"{found.run}: {sizes}, judged in {found.blocks} parts")
    shares = [f"first {percent(share, 0)}" for share in found.flagged]
    lines = [[one.kind, one.n, *(percent(at, 0) for at in one.at), percent(one.named, 0)] for one in found.recall]
    echo_table(("injected fault", "n", *shares, "kind named"), lines)
    for row in found.top:
        place = row["cell"] or f"{row['frame']} at {(row['x0'] + row['x1']) // 2}, {(row['y0'] + row['y1']) // 2}"
        click.echo(f"{row['rank']:>3}  {place}  {row['score']:.2f}  {row['reason'] or NOTHING}")
    for text in found.notes:
        note(f"note: {text}")
    verdicts.audit(found)
