"""The exporters by the names of their formats, as the command has them: ``hela_store.export.coco(store, run, out)``.

Each is loaded when it is first used, because some need an extra that may not be installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .anndata import export_anndata as anndata
    from .checkpoint import export_checkpoint as checkpoint
    from .coco import export_coco as coco
    from .ctc import export_ctc as ctc
    from .micro_sam_export import export_micro_sam as micro_sam
    from .ome_zarr import export_ome_zarr as ome_zarr
    from .onnx import export_onnx as onnx

__all__ = ["anndata", "checkpoint", "coco", "ctc", "micro_sam", "ome_zarr", "onnx"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"no exporter {name!r}; there are: {', '.join(__all__)}")
    home = "micro_sam_export" if name == "micro_sam" else name
    return getattr(importlib.import_module(f".{home}", __package__), f"export_{name}")


def __dir__() -> list[str]:
    return list(__all__)
