"""The benchmark beside busy processes runs, and says what it is compared with."""

from __future__ import annotations

import os

import pytest
from hela_store_cli.bench import THIS_COMMAND

from hela_store.bench.busy import BusyBenchConfig, bench_busy
from hela_store.errors import HelaError


def test_it_is_compared_with_the_command_alone() -> None:
    with pytest.raises(HelaError, match="expected 0 first"):
        BusyBenchConfig(competing=(1, 0))


@pytest.mark.slow
def test_every_command_is_timed_alone_and_in_company() -> None:
    config = BusyBenchConfig(competing=(0, 1), frames=6, steps=2, rounds=1)
    found = bench_busy(config, command=THIS_COMMAND, environment=os.environ)
    assert [(row.command, row.competing) for row in found.rows] == [
        (command, count) for command in ("embed", "finetune", "evaluate") for count in (0, 1)
    ]
    for row in found.rows:
        if row.competing:
            assert row.spinning is not None and row.spinning_seconds is not None and row.spinning_seconds > 0
        else:
            assert row.of_fair == 1 and row.fair == 1 and row.spinning is None
        assert row.seconds > 0
