"""How many threads a command computes with, and how they wait: decided before torch is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping

COMPUTE = {
    *("embed", "finetune", "sweep", "evaluate", "baseline", "study", "detect", "segment", "demo", "pretrain", "bench"),
    *("import", "fit", "teach", "mend", "audit"),
}
"""Commands that compute for long enough that the other processes of the machine are looked at."""
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def set_threads(command: str | None, asked: int | None) -> None:
    """Set how many threads torch uses and how they wait, for this process and those that it starts.

    Threads that spin at a barrier take the cores from whoever has work for them, so they wait asleep. There are fewer
    of them than cores where other processes leave fewer. What the user's environment says is kept, except that
    ``--threads`` counts more than a number of threads there.

    Parameters
    ----------
    command : str or None
        The command that is to run.
    asked : int or None
        Threads that the user asked for.
    """
    os.environ |= policy(os.environ, asked, looks=command in COMPUTE)


def policy(environment: Mapping[str, str], asked: int | None, *, looks: bool) -> dict[str, str]:
    """Return the variables to set beside those of an environment.

    Parameters
    ----------
    environment : mapping of str to str
        What the user set.
    asked : int or None
        Threads that the user asked for.
    looks : bool
        Whether to watch the cores for a tenth of a second; there is nothing to see on one or two.
    """
    from hela_store.base.cores import busy_cores, usable_cores, useful_threads

    waits = {} if any(name in environment for name in WAITS) else {"OMP_WAIT_POLICY": "PASSIVE"}
    if asked is not None:
        return waits | dict.fromkeys(COUNTS, str(asked))
    if any(name in environment for name in COUNTS):
        return waits
    cores = usable_cores()
    count = useful_threads(cores, busy_cores() if looks and cores > 2 else 0)
    return waits | {COUNTS[0]: str(count)}
