"""`hela-store bench`."""

from __future__ import annotations

import click


@click.group()
def bench() -> None:
    """Time this machine: ours against the named peers, interleaved in one run."""
