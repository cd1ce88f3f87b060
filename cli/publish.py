"""`hela-store publish`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.sizes import mebibytes

from .help import RUN, Command
from .options import json_option, store_option
from .output import bars, echo_facts, echo_json

if TYPE_CHECKING:
    from hela_store import Store


NAMES = {"bytes": "size", "written": "files that were copied now"}
"""How facts are called that have another name in JSON."""


@click.command(
    cls=Command,
    positional={"where": "Folder or bucket that gets the publication."},
    examples=("hela-store publish /shares/cells -s fluo", "hela-store publish s3://lab/fluo -s fluo --run latest"),
)
@click.argument("where", metavar="DIR|s3://BUCKET/PREFIX")
@store_option
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Publish the embeddings of this encoder key; repeat the option for several. [default: the recipe's]",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="RUN",
    help=f"Also publish this run; repeat the option for several. RUN is {RUN}.",
)
@click.option(
    "--frames/--no-frames", default=True, show_default=True, help="Publish frames and labels, which fine-tuning reads."
)
@json_option
def publish(store: Store, where: str, as_json: bool, **choices: Any) -> None:
    """Publish a store for other labs. The same command resumes.

    It copies the recipe, the list of views, the embeddings with their checksums, the decoder's weights, and your frames
    and labels; --no-frames leaves these out.
    """
    from hela_store.exchange.publish import PublishConfig
    from hela_store.exchange.publish import publish as write

    found = write(store, where, PublishConfig(**choices), progress=bars)
    if as_json:
        echo_json(asdict(found))
        return
    facts = asdict(found) | {"bytes": mebibytes(found.bytes)}
    echo_facts([(NAMES.get(name, name), str(value)) for name, value in facts.items()])
    click.echo(f"Next, in another lab: hela-store pull {found.where} NAME --expect {found.sha256[:16]}")
