"""The classes of segment-anything's models, without the second and more that importing the whole package takes.

``segment_anything/__init__.py`` also imports what works on pictures, and with it torchvision and torch's compiler.
Where nobody has imported it yet, a package stands in its place that runs that file when something of it is first asked
for. Its modules, such as ``segment_anything.modeling``, are the real ones either way.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

NAME = "segment_anything"


class _Package(ModuleType):
    """A package whose ``__init__.py`` runs when an attribute is missing, once."""

    _lock: threading.RLock
    _running: bool

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        # the import system asks for names with underscores of every package; `import *` begins with __all__
        if spec is None or spec.loader is None or (name.startswith("__") and name != "__all__"):
            raise AttributeError(name)
        with self._lock:
            if type(self) is _Package and not self._running:
                self._running = True
                try:
                    spec.loader.exec_module(self)
                finally:
                    self._running = False
                self.__class__ = ModuleType  # type: ignore[assignment]
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


def _stand_in() -> None:
    if NAME in sys.modules or (spec := importlib.util.find_spec(NAME)) is None:
        return
    package = _Package(NAME)
    package._lock, package._running = threading.RLock(), False
    package.__spec__, package.__file__, package.__loader__ = spec, spec.origin, spec.loader
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__package__ = NAME
    sys.modules[NAME] = package


_stand_in()

from segment_anything.build_sam import sam_model_registry  # noqa: E402
from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.image_encoder import Attention as ImageAttention  # noqa: E402
from segment_anything.modeling.image_encoder import Block  # noqa: E402
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock  # noqa: E402

__all__ = [
    "Attention",
    "Block",
    "ImageAttention",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TwoWayAttentionBlock",
    "TwoWayTransformer",
    "sam_model_registry",
]
