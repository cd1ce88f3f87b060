"""`hela-store embed`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import click

from hela_store.recipe.recipe import Precision
from hela_store.recipe.splits import BLOCKS

from . import verdicts
from .help import Command, Several
from .options import cache_dir, device_option, json_option, store_option, variant_options
from .output import bars, echo_facts, echo_json, note, note_untrained

if TYPE_CHECKING:
    from hela_store import EmbedReport, Store

GROUPS = {
    "What is embedded": ("store", "splits", "limit", "cut", "adapter", "precision"),
    "Where it runs": ("device", "batch", "compile", "workers", "readers", "scheduler"),
}
"""Options by the heading of the help."""


@click.command(
    cls=Command, groups=GROUPS, examples=("hela-store embed -s fluo --dry-run", "hela-store embed -s fluo --workers 4")
)
@store_option
@device_option
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="Compute in this precision instead of the recipe's; these embeddings get another encoder key.",
)
@variant_options("Store what comes out of the first K encoder layers (tokens), beside the embeddings.")
@click.option(
    "--split",
    "splits",
    cls=Several,
    multiple=True,
    type=click.Choice(BLOCKS),
    help="Embed only these frames: train, val, test, or several of them separated by spaces. [default: all frames]",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop after N views.")
@click.option(
    "--batch", type=click.IntRange(1), metavar="N", help="Encode N views together. [default: chosen for the device]"
)
@click.option(
    "--compile",
    is_flag=True,
    help="Compile the encoder with torch.compile. All embeddings of one encoder are made in the same way, so the first "
    "`embed` decides.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Encode in N processes on this machine, not in one."
)
@click.option(
    "--readers",
    type=click.IntRange(1),
    metavar="N",
    help="Read and augment views in N processes, for a GPU that waits for them. [default: a thread]",
)
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Encode on the workers of this Dask scheduler.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Allow more than 100 variants of every view, which take much time and space.")
@json_option
def embed(store: Store, as_json: bool, **choices: Any) -> None:
    """Encode every view that is not yet in the store. The same command resumes after an interruption."""
    import hela_store as hs

    note_untrained(store)
    report = hs.embed(store, hs.EmbedConfig(**choices, cache_dir=cache_dir()), bars)
    for text in report.notes:
        note(f"note: {text}")
    if as_json:
        echo_json(asdict(report))
    else:
        echo_facts(_facts(report, choices["splits"], choices["dry_run"]))
        verdicts.embedding(report, choices["dry_run"])


def _break_even(report: EmbedReport) -> str:
    passes = f"{report.variants} of the views are augmented: so many encoder passes, once"
    return f"{passes}; made on the fly they cost one a training step, so storing wins after {report.variants} steps"


def _facts(report: EmbedReport, splits: tuple[str, ...], dry_run: bool) -> list[tuple[str, str]]:
    from hela_store.base.sizes import mebibytes

    done = (
        f"{report.done_before} done before" if dry_run else f"{report.done_before} done before, {report.done_now} now"
    )
    left = f"{report.left} left"
    of = f" of {' and '.join(dict.fromkeys(splits))}" if splits else ""
    if report.left:
        left += f", {mebibytes(report.bytes_left)}"
        left += f", about {report.seconds / 60:.1f} min" if dry_run and report.seconds is not None else ""
        left += "" if dry_run else "; run the same command again"
    rows = [("encoder key", report.key), ("views", f"{report.planned} planned{of}, {done}, {left}")]
    if report.adapter:
        rows.append(("adapter", "to read these in every command, replace its lines under [encoder] in store.toml"))
        rows.append(("", f'adapter = "{report.adapter}"'))
        rows.append(("", f'adapter_sha256 = "{report.adapter_sha256}"'))
        if splits:
            rows.append(("", "but embed all frames first, without --split: finetune and detect also read the others"))
    if report.left:
        rows.append(("encoder passes", f"{report.left}, one a view"))
    if report.variants:
        rows.append(("variants", _break_even(report)))
    if not dry_run and report.done_now and report.seconds is not None:
        rows.append(("speed", f"{report.seconds / report.done_now:.2f} s per view"))
    if report.blank:
        few = ", ".join(report.blank[:5]) + (", ..." if len(report.blank) > 5 else "")
        rows.append(
            ("warning", f"{len(report.blank)} frames hold one value only ({few}); they are embedded all the same")
        )
    return rows
