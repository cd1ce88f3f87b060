"""SAM embeddings of microscopy frames on disk, and everything that streams from them.

Public names are loaded when they are first used: ``import hela_store`` loads neither torch nor dask nor zarr. Several
functions bear the name of the module they live in (``hela_store.embed`` is the function); reach such a module's other
names with ``from hela_store.embed import ...``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import Comparison as Comparison
    from .compare import compare as compare
    from .demo import DemoReport as DemoReport
    from .demo import demo as demo
    from .doctor import doctor as doctor
    from .embed import EmbedConfig as EmbedConfig
    from .embed import EmbedReport as EmbedReport
    from .embed import embed as embed
    from .errors import HelaError as HelaError
    from .evaluate import EvaluateConfig as EvaluateConfig
    from .evaluate import EvaluateResult as EvaluateResult
    from .evaluate import evaluate as evaluate
    from .explore import explore as explore
    from .finetune import FinetuneConfig as FinetuneConfig
    from .finetune import FinetuneResult as FinetuneResult
    from .finetune import finetune as finetune
    from .info import StoreInfo as StoreInfo
    from .info import info as info
    from .new import NewConfig as NewConfig
    from .new import NewReport as NewReport
    from .new import SyntheticConfig as SyntheticConfig
    from .new import new as new
    from .recipe import Recipe as Recipe
    from .report import ReportResult as ReportResult
    from .report import report as report
    from .segment import SegmentConfig as SegmentConfig
    from .segment import SegmentReport as SegmentReport
    from .segment import segment as segment
    from .store import Store as Store
    from .study import StudyConfig as StudyConfig
    from .study import StudyResult as StudyResult
    from .study import study as study
    from .verify import VerifyConfig as VerifyConfig
    from .verify import VerifyReport as VerifyReport
    from .verify import verify as verify

_PUBLIC = {
    "Comparison": "compare",
    "compare": "compare",
    "DemoReport": "demo",
    "demo": "demo",
    "doctor": "doctor",
    "EmbedConfig": "embed",
    "EmbedReport": "embed",
    "embed": "embed",
    "HelaError": "errors",
    "EvaluateConfig": "evaluate",
    "EvaluateResult": "evaluate",
    "evaluate": "evaluate",
    "explore": "explore",
    "FinetuneConfig": "finetune",
    "FinetuneResult": "finetune",
    "finetune": "finetune",
    "StoreInfo": "info",
    "info": "info",
    "NewConfig": "new",
    "NewReport": "new",
    "new": "new",
    "Recipe": "recipe",
    "SegmentConfig": "segment",
    "SegmentReport": "segment",
    "segment": "segment",
    "ReportResult": "report",
    "report": "report",
    "Store": "store",
    "SyntheticConfig": "new",
    "StudyConfig": "study",
    "StudyResult": "study",
    "study": "study",
    "VerifyConfig": "verify",
    "VerifyReport": "verify",
    "verify": "verify",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604


class _Package(ModuleType):
    """A module on which importing ``hela_store.embed`` leaves the function ``embed`` in place of that module."""

    def __setattr__(self, name: str, value: Any) -> None:
        # the import system binds a submodule to its package whenever it is first imported, by whomever
        if _PUBLIC.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hela-store")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
