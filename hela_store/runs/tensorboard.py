"""A run's log as TensorBoard shows it, written while the run goes on; ``log.jsonl`` stays the truth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hela_store.base.extras import needs

Tell = Callable[[Mapping[str, object]], None]


@contextmanager
def tensorboard(folder: Path) -> Iterator[Tell]:
    """Open event files in ``folder`` and yield what takes the log's rows, one by one.

    Numbers go under their names at the row's step, those of a validation under ``val/``. A run that goes on from an
    earlier step hides what was written of later ones.

    Raises
    ------
    ExtraError
        TensorBoard is not installed.
    """
    with needs("tensorboard"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the packages it is made of
        from torch.utils.tensorboard import SummaryWriter
    writers: list[SummaryWriter] = []

    def tell(row: Mapping[str, object]) -> None:
        step = int(str(row["step"]))
        if not writers:
            writers.append(SummaryWriter(str(folder), purge_step=step))
        for name, value in _flat(row):
            writers[0].add_scalar(name, value, step)
        writers[0].flush()

    try:
        yield tell
    finally:
        for writer in writers:
            writer.close()


def _flat(row: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    val = row.get("val")
    parts = [("", row), ("val/", val if isinstance(val, Mapping) else {})]
    for above, values in parts:
        for name, value in values.items():
            if isinstance(value, int | float) and name != "step":
                yield f"{above}{name}", float(value)
