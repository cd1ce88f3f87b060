"""`hela-store doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from . import verdicts
from .help import Command
from .options import STORES, cache_dir, json_option
from .output import echo_facts, echo_json


@click.command(cls=Command, examples=("hela-store doctor",))
@json_option
def doctor(as_json: bool) -> None:
    """Check this machine and installation. The exit code is 1 if something will not work."""
    import hela_store as hs

    report = hs.doctor(Path.cwd() / STORES, cache_dir())
    if as_json:
        echo_json(report.to_json())
    else:
        echo_facts(report.facts())
        verdicts.machine(len(report.problems))
    sys.exit(1 if report.problems else 0)
