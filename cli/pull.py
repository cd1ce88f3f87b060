"""`hela-store pull`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hela_store.base.sizes import mebibytes

from .help import Command
from .options import json_option, new_folder
from .output import bars, echo_facts, echo_json

NAMES = {"bytes": "size", "before": "files that were there before"}
"""How facts are called that have another name in JSON."""


@click.command(
    cls=Command,
    positional={"source": "Folder or bucket that `hela-store publish` wrote.", "name": "Name of the new store."},
    examples=("hela-store pull /shares/cells fluo", "hela-store pull s3://lab/fluo fluo --expect 0123abcd"),
)
@click.argument("source", metavar="DIR|s3://BUCKET/PREFIX")
@click.argument("name")
@click.option(
    "--expect",
    "expected",
    metavar="SHA256",
    help="Refuse a publication whose manifest has another sha256; its beginning is enough.",
)
@json_option
def pull(source: str, name: str, expected: str | None, as_json: bool) -> None:
    """Download a published store as NAME. The same command resumes.

    Every file is compared with its checksum.
    """
    from hela_store.exchange.pull import pull as fetch

    found = fetch(source, new_folder(name, Path.cwd()), expected=expected, progress=bars)
    if as_json:
        echo_json(asdict(found))
        return
    facts = asdict(found) | {"bytes": mebibytes(found.bytes)}
    echo_facts([(NAMES.get(what, what), str(value)) for what, value in facts.items()])
    click.echo(f"Next: hela-store finetune -s {name}")
