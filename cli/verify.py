"""`hela-store verify`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from . import verdicts
from .help import Command
from .options import cache_dir, device_option, json_option, store_option, variant_options
from .output import bars, echo_facts, echo_json, echo_table

if TYPE_CHECKING:
    from hela_store import Store, VerifyReport


@click.command(cls=Command, examples=("hela-store verify -s fluo", "hela-store verify -s fluo --repair"))
@store_option
@click.option("--repair", is_flag=True, help="Encode damaged embeddings again, and nothing else.")
@click.option("--deep", is_flag=True, help="Also encode a sample of views again and compare.")
@click.option(
    "--fast", is_flag=True, help="Check tables, the ledger and a sample of the embeddings, and list no files."
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    metavar="N",
    help="With --deep, encode N views again (8 unless given); with --fast, read N embeddings (64 unless given).",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", help="Set the random seed of the sample of --fast. [default: random]"
)
@variant_options("Check the tokens that `embed --cut K` stored, instead of the embeddings.")
@device_option
@json_option
def verify(store: Store, as_json: bool, **choices: Any) -> None:
    """Check every file of a store against its checksum. The exit code is 1 if something is damaged."""
    import hela_store as hs

    report = hs.verify(store, hs.VerifyConfig(cache_dir=cache_dir(), **choices), bars)
    if as_json:
        echo_json(report.to_json())
    else:
        _print(report)
    if not report.whole:
        sys.exit(1)


def _print(report: VerifyReport) -> None:
    rows = [("encoder key", report.key), ("views", f"{report.committed} committed, {report.left} left to embed")]
    if report.unclaimed:
        text = "of an interrupted embed, or of a ledger segment that was lost; `hela-store embed` encodes them again"
        rows.append(("not claimed", f"{report.unclaimed} embeddings without an entry in the ledger: {text}"))
    if report.sampled is not None:
        text = f"{report.sampled} embeddings were read, drawn with --seed {report.seed}; the others were not looked at"
        rows.append(("sample", text))
    if report.worst is not None:
        text = f"{len(report.compared)} views encoded again, largest relative error {report.worst:.2g}"
        rows.append(("deep", f"{text} (allowed {report.tolerance:.2g})"))
    if report.repaired:
        rows.append(("repaired", f"{len(report.repaired)} faults, {report.encoded} views encoded again"))
    wrong = f"{len(report.faults)} faults; --repair mends all but runs, which have to be made again"
    seen = "every file" if report.sampled is None else "what was looked at"
    echo_facts([*rows, ("verdict", f"whole: {seen} has not changed since it was written" if report.whole else wrong)])
    if report.faults:
        click.echo()
        columns = ["kind", "path", "frame", "tile", "note"]
        echo_table(columns, [[getattr(fault, name) for name in columns] for fault in report.faults])
    verdicts.next_step("verify --repair" if report.faults else "embed" if report.left else "info")
