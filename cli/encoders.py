"""`hela-store encoders`."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from .help import Command
from .options import cache_dir, json_option
from .output import echo_facts, echo_json, echo_table

COLUMNS = ("name", "MB", "here", "trained on")
WIDTH = 60


@click.command(
    cls=Command,
    positional={"name": "Encoder to describe, such as vit_b_lm."},
    examples=("hela-store encoders", "hela-store encoders vit_b_lm"),
)
@click.argument("name", required=False, metavar="[NAME]")
@json_option
def encoders(name: str | None, as_json: bool) -> None:
    """List the encoders that --encoder takes by name.

    The list says which of them are on this machine. With NAME, the command prints the address, hash, licence, citation
    and training data of one encoder.
    """
    from hela_store.sam.registry import ENCODERS, find_encoder

    cache = cache_dir()
    found = [find_encoder(name)] if name else list(ENCODERS.values())
    there = {known.name: known.place(cache).is_file() for known in found}
    if as_json:
        echo_json({"cache": str(cache), "encoders": [k.to_json() | {"here": there[k.name]} for k in found]})
        return
    if name:
        echo_facts(_facts(name, cache, there[name]))
    else:
        rows = [[k.name, k.megabytes, "yes" if there[k.name] else "no", k.trained_on] for k in found]
        echo_table(COLUMNS, rows)
        click.echo(f"Downloaded weights are kept in {cache}.\nMore about one: hela-store encoders NAME")
    click.echo(f"Next: hela-store new STORE --dataset DIR --encoder {name or 'NAME'}")


def _facts(name: str, cache: Path, here: bool) -> list[tuple[str, str]]:
    from hela_store.sam.registry import ENCODERS

    known = ENCODERS[name]
    place = "shipped with this package" if not known.url else str(cache / known.file)
    rows = [("name", known.name), ("architecture", known.architecture), ("size", f"{known.megabytes} MB")]
    rows += [("address", known.url), ("hash", known.hash)] if known.url else []
    rows += [("file", f"{place}{'' if here else ' (not there yet; it is fetched when it is first needed)'}")]
    rows += [("licence", known.licence), *([("cite", known.cite)] if known.cite else [])]
    rows += [("trained on", known.trained_on)]
    listed = ", ".join(known.domain) or "no list of data sets is known here; see the paper"
    lines = textwrap.wrap(listed, WIDTH)
    return [*rows, *(("data sets" if i == 0 else "", line) for i, line in enumerate(lines))]
