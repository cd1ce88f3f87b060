"""The store as users of Python open it: everything of the plain store, and what joins several stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hela_store.store.store import Store as PlainStore

if TYPE_CHECKING:
    from torch import Tensor, nn


class Store(PlainStore):
    """A store on disk, with own runs and own columns.

    Attributes
    ----------
    path : Path
        Its folder.
    recipe : Recipe
    """

    def add_run(
        self,
        decoder: nn.Module | Mapping[str, Tensor] | Path | str,
        *,
        name: str,
        config: Mapping[str, Any] | None = None,
        parent: str | None = None,
        train: Sequence[str] | None = None,
    ) -> str:
        """Publish a decoder from any training loop as a run; as :func:`hela_store.workbench.own_runs.add_run`."""
        from .own_runs import add_run

        return add_run(self, decoder, name=name, config=config, parent=parent, train=train)

    def add_metrics(self, run: str, table: Any) -> str:
        """Publish own per-cell columns of a run; as :func:`hela_store.workbench.own_metrics.add_metrics`."""
        from .own_metrics import add_metrics

        return add_metrics(self, run, table)
