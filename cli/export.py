"""`hela-store export`."""

from __future__ import annotations

import click


@click.group()
def export() -> None:
    """Write what other tools read."""
